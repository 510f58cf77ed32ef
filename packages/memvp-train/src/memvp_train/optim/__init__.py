"""Optimisation: AdamW with groups of parameters, the schedule of the rate, the loss scale of fp16.

optimizer: AdamW over named groups
schedules: the learning rate as a function of the step
loss_scale: the dynamic loss scale of fp16
"""
