"""Inference: questions answered by a tuned model, in batches, sharded over workers, resumed."""
