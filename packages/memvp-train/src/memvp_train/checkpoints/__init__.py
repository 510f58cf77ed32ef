"""Checkpoints: training state on disk, damage put aside, room for the next one, one writer per folder."""
