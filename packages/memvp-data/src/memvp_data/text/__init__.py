"""Text: a conversation in a template, as token ids of which the answers are learnt.

templates: how a conversation becomes text
chat: the tokenizer's own chat template
encode: conversations to token ids and labels
pairs: a conversation as two texts, for encoder-decoders
truncation: a long prompt made to fit
scienceqa: ScienceQA problems as text
"""

from memvp_data.text.encode import IGNORED, TEMPLATES, Encoded, encode_answers, encode_prompt, encode_sample

__all__ = ["IGNORED", "TEMPLATES", "Encoded", "encode_answers", "encode_prompt", "encode_sample"]
