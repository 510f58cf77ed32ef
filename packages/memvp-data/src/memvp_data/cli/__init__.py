"""The commands of `python -m memvp_data`, a file each."""
