"""The data loader: micro-batches of tokens and images in a deterministic order, packed, prefetched, resumed."""
