"""MLflow: runs, the model registry and its gate. No other folder knows it.

mlflow: one parent run per job, a child per step
sending: figures, curves, tables and files of a run
checkpoints: weights as LoggedModels
opening: a job connects
job: a job's line to MLflow, opened when needed
step_run: one step's run
run_ids: which runs belong to a run folder
registry: versions and the champion
model_version: what a version is made of
pending: models that a killed submission left
gate: whether it becomes the champion
database: the SQLite file, made whole
moved: the SQLite file, when its storage folder was moved
pages: what a person sees first in MLflow's pages
quiet: MLflow's remarks, silenced
"""
