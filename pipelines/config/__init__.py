"""What a recipe may say: the settings of each kind of job, their errors, and settings as plain data."""
