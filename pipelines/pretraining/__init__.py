"""How the toy world's two foundation models and the tiny trial models were made.

train_language.py  the language model, on text alone
train_vision.py    the vision tower
guidance.py        where attention should go while look-ups form
mixed_precision.py fp32 master weights, bf16 arithmetic
tiny_models.py     tiny models in the shape of the large ones
"""
