"""The steps of jobs: what each does and what it tells MLflow, and the table that orders them.

table: the steps of each kind of job
keys: what each depends on, as plain data
data: samples, image shards, feature shards
tune: a stage of tuning
evaluate: who answers which questions
look_inside: retrieval maps of the tuned model
register: a version in the model registry
"""
