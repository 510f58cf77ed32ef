"""Adapters in files: PEFT's shape on disk, the Hugging Face Hub, the authors' released checkpoints."""
