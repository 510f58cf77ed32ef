"""The job: raw images to an evaluated, registered adapter. Scripts that users call, folders behind them.

instruct_tune: two stages of instruction tuning
finetune: one benchmark, from its official files to its official score
evaluate: any adapters on any benchmarks
sweep: a recipe over seeds or a setting
plan: what a recipe would take on a cluster
"""
