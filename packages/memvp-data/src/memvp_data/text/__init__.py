"""Text: a conversation in a template, as token ids of which the answers are learnt."""

from memvp_data.text.encode import IGNORED, TEMPLATES, Encoded, encode_answers, encode_prompt, encode_sample

__all__ = ["IGNORED", "TEMPLATES", "Encoded", "encode_answers", "encode_prompt", "encode_sample"]
