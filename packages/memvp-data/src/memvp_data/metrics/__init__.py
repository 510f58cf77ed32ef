"""Scores as pure functions of predictions and samples: one file per metric.

suite: which metric scores which dataset, and the report
pairing: every sample exactly one prediction
tally: what a metric counted, image by image
bootstrap: intervals and paired tests
accuracy: share of questions answered right
gqa, scienceqa, sqa_i, mme, pope, video: a benchmark each
vqa: VQA accuracy
vqa_text: how its answers are normalised
mmbench: MMBench with circular evaluation
mmbench_letters: which option an answer means
mmbench_submission: the file that its server scores
"""
