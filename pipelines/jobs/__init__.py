"""Jobs: their kinds, the command line, checks before the start, the runner, and what is done at the end."""
