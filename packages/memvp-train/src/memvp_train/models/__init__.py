"""Foundation models from settings: language model, tokenizer, vision tower; what their folders hold, as a hash."""
