"""How the toy world's two foundation models and the tiny trial models were made."""
