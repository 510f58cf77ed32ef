"""Engines: forward, backward and optimiser step over ranks, in plain torch or with DeepSpeed.

local: what the loop needs of an engine; one process, plain torch
data_parallel: ranks that only sum their gradients, ZeRO 0
deepspeed: ZeRO 1 to 3; the only file that imports DeepSpeed
"""
