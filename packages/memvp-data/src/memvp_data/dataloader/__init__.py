"""The data loader: micro-batches of tokens and images in a deterministic order, packed, prefetched, resumed.

loader: the micro-batches of a training step
batch: a micro-batch as tensors
batch_images: what it holds of images
rows: samples as rows of tokens, by position
token_table: tokens of any number of samples, memory-mapped
mapped_columns: columns of numbers in a mapped file
grouping: an epoch with the questions of an image side by side
packing: samples into rows, rows into micro-batches, these over ranks
prefetch: batches made ahead, in worker processes
state: where a loader stands
"""
