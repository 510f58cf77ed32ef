"""The cost model of training: memory, seconds and bytes of a stage, planned without running it."""
