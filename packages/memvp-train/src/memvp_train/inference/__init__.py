"""Inference: questions answered by a tuned model, in batches, sharded over workers, resumed.

predict: questions to a file of answers, in shards, resumed
prediction_job: which model answers which questions, as plain data
loaded_model: the model and the images of a job
image_memory: the images of questions, encoded once
generate: a batch of questions to their answers
answer_files: what a finished file was made from
"""
