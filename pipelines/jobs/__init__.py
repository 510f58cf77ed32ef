"""Jobs: their kinds, the command line, checks before the start, the runner, and what is done at the end.

entry.py        arguments to a job that runs, and an exit code
kinds.py        the kinds of job, a row each
command_line.py recipes and overrides to settings
options.py      --dry-run, --until, --from, --only
preflight.py    checks that cost nothing
dry_run.py      what a submission would do
run.py          every step re-used or run, in order
services.py     what steps share while a job runs
finish.py       report on disk, in MLflow, on the screen
"""
