"""The commands of `python -m memvp_data`, a file each.

score: the scores of a predictions file
shards: check a folder of shards, make tars of others readable
submission: the workbook that MMBench's server takes
toyworld: the toy world as the official files of a dataset
unpack: the images inside MMBench's tables
"""
