"""Adapters in files: PEFT's shape on disk, the Hugging Face Hub, the authors' released checkpoints.

adapter_files: the adapter on disk, in PEFT's shape
base_model: which language model an adapter was trained on
lora_files: the LoRA beside an adapter, as PEFT has it
hub: adapters on the Hugging Face Hub
released: the authors' released checkpoints
"""
