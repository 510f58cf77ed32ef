"""What a recipe may say: the settings of each kind of job, their errors, and settings as plain data.

job: what every kind of job has
instruct: instruction tuning
benchmarks: one task tuned, adapters compared
tracking: where MLflow is, the gate
errors: RecipeError, and the checks that jobs share
plain: settings as plain data: for keys, MLflow and people
setting_names: every dotted name, and the nearest one to a misspelt one
"""
