"""Foundation models from settings: language model, tokenizer, vision tower; what their folders hold, as a hash.

language: language model and tokenizer
vision: vision towers, and the shape of their features
pretrained: models found by folder or hub name
fingerprint: what a model's folder holds, as a hash
fused_lora: a LoRA layer that costs less than PEFT's
"""
