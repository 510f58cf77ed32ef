"""The steps of jobs: what each does and what it tells MLflow, and the table that orders them.

table.py       the steps of each kind of job
keys.py        what each depends on, as plain data
data.py        samples, image shards, feature shards
tune.py        a stage of tuning
evaluate.py    who answers which questions
look_inside.py retrieval maps of the tuned model
register.py    a version in the model registry
"""
