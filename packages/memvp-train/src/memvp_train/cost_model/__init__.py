"""The cost model of training: memory, seconds and bytes of a stage, planned without running it.

stage: memory, seconds and bytes of a stage
micro_batch: the sizes of a micro-batch
traced_step: one micro-batch forward and backward, traced
trace: a step without numbers, counted as it runs
memory: memory of a worker at the worst moment
extraction: what storing features takes
hardware: machines as a table
"""
