"""From the official files of image-text benchmarks to checked samples, shards, batches and scores."""
