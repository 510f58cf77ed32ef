"""One evaluation: model states x question sets -> predictions -> scores; and where answers looked.

model_states: ablations: which state answers, shown which image
questions: question sets, and what is asked of whom
answer_and_score: predictions files, each scored once
scores: what scored predictions say, and how two states differ
chosen_questions: which few questions are shown of many
retrieval_maps: which patches an answer looked up
retrieval_figure: a picture of them
"""
