"""Scores of captions.

score: BLEU, CIDEr, ROUGE-L and METEOR of a set of captions
bleu, cider, rouge, meteor: each of them from tokenised captions
ptb, ptb_java: captions to words, without and with Java
java_tools: the two Java programs of pycocoevalcap
"""
