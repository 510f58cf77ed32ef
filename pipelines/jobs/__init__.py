"""Jobs: their kinds, the command line, checks before the start, the runner, and what is done at the end.

entry: arguments to a job that runs, and an exit code
kinds: the kinds of job, a row each
command_line: recipes and overrides to settings
options: --dry-run, --until, --from, --only
preflight: checks that cost nothing
dry_run: what a submission would do
run: every step re-used or run, in order
services: what steps share while a job runs
finish: report on disk, in MLflow, on the screen
"""
