"""One evaluation: model states x question sets -> predictions -> scores; and where answers looked.

model_states.py     ablations: which state answers, shown which image
questions.py        question sets, and what is asked of whom
answer_and_score.py predictions files, each scored once
scores.py           what scored predictions say, and how two states differ
chosen_questions.py which few questions are shown of many
retrieval_maps.py   which patches an answer looked up
retrieval_figure.py a picture of them
"""
