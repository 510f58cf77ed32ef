"""Engines: forward, backward and optimiser step over ranks, in plain torch or with DeepSpeed."""
