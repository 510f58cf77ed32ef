"""A step in general: its key, when a finished one is re-used, its folder, and the run folder of all of them."""
