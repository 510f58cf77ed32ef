"""From the official files of image-text benchmarks to checked samples, shards, batches and scores.

samples: what a sample is, and its table on disk
ids: a dataset's own names as ids, and back
contents: what is blank, there twice or without an image
answers: one of several right answers, drawn at each access
order: which samples a training step sees
__main__: `python -m memvp_data`
"""
