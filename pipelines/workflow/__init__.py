"""A step in general: its key, when a finished one is re-used, its folder, and the run folder of all of them.

step: what a step is, re-used or run
digests: of code, files and settings
run_folder: where a run lives, and its one writer
paths: where steps put what later ones read
"""
