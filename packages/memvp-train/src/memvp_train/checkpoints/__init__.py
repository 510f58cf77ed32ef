"""Checkpoints: training state on disk, damage put aside, room for the next one, one writer per folder.

state: training state on disk, verified
errors: what can be wrong with a checkpoint
quarantine: damaged checkpoints, put aside
disk: room for the next one
lease: the one writer of a folder
"""
