"""Tuning methods, a file each; registry.py lists them by name."""
