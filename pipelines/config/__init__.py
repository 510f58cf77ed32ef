"""What a recipe may say: the settings of each kind of job, their errors, and settings as plain data.

job.py           what every kind of job has
instruct.py      instruction tuning
benchmarks.py    one task tuned, adapters compared
tracking.py      where MLflow is, the gate
errors.py        RecipeError, and the checks that jobs share
plain.py         settings as plain data: for keys, MLflow and people
setting_names.py every dotted name, and the nearest one to a misspelt one
"""
