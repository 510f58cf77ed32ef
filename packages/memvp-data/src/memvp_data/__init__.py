"""From the official files of image-text benchmarks to checked samples, shards, batches and scores.

samples: what a sample is, and its table on disk
answers: one of several right answers, drawn at each access
order: which samples a training step sees
__main__: `python -m memvp_data`
"""
