"""MLflow: runs, the model registry and its gate. No other folder knows it.

mlflow.py        one parent run per job, a child per step
job.py           a job's line to MLflow, opened when needed
step_run.py      one step's run
run_ids.py       which runs belong to a run folder
registry.py      versions and the champion
model_version.py what a version is made of
gate.py          whether it becomes the champion
quiet.py         MLflow's remarks, silenced
"""
