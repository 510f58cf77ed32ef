"""One stage of tuning: prepared, trained step by step, validated, published as an adapter.

stage: `run_stage`, from settings to an adapter
identity: absolute paths, and the settings that decide the result
prepare: what is checked and tokenised before workers start
checks: settings that do not go together
image_checks: whether images and memory fit
token_cache: the tokens of a samples table in one file
plan: what every worker is given
drive: workers started until the last step is there
worker: what one training process does
batches: the batches of a rank
validation_batches: its share of the validation table
start: the first batch with and without the memory, before training
base_model: which language model is trained on
loop: which step when, what is written down
loss: the loss of a micro-batch
validation: scores, the best step, when to stop
metrics_log: one row per step, written, read and followed
failures: which samples a failure comes from
result: what a finished stage leaves
model_checks: whether the models and settings of a job fit together
last_ffn: the last FFN on labelled tokens alone
"""
