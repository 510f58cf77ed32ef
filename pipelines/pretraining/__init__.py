"""How the toy world's two foundation models and the tiny trial models were made.

train_language: the language model, on text alone
train_vision: the vision tower
guidance: where attention should go while look-ups form
mixed_precision: fp32 master weights, bf16 arithmetic
tiny_models: tiny models in the shape of the large ones
"""
