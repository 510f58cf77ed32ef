"""Optimisation: AdamW with groups of parameters, the schedule of the rate, the loss scale of fp16."""
