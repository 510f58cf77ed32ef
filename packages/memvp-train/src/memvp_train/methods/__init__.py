"""Tuning methods, a file each.

registry: the methods by name
memvp: images in memory
input_space: images as input tokens
"""
