"""Captions to words with the Stanford PTB tokenizer itself, when Java and pycocoevalcap are there.

Follows ptbtokenizer.py of pycocoevalcap 1.2. Departs: every kind of line break inside a caption becomes a space, not
only a newline, because any of them would shift all captions that follow; the text is always UTF-8.
"""

from collections.abc import Sequence

from memvp_data.metrics.captions import ptb
from memvp_data.metrics.captions.java_tools import TOKENIZER, find_jar, run_java, why_missing
from memvp_data.metrics.pairing import ScoreError

_PROGRAM = "edu.stanford.nlp.process.PTBTokenizer"


def tokenize(captions: Sequence[str]) -> list[str]:
    """Each caption as its words, joined by single spaces."""
    jar = find_jar(TOKENIZER)
    if jar is None:
        raise ScoreError(f"the PTB tokenizer cannot run: {why_missing()}")
    lines = [" ".join(caption.splitlines()) for caption in captions]
    answer = run_java(["-cp", str(jar), _PROGRAM, "-preserveLines", "-lowerCase"], lines=lines)
    if len(answer) != len(lines):
        raise ScoreError(
            f"the PTB tokenizer gave {len(answer)} lines for {len(lines)} captions; use metrics.captions.ptb instead"
        )
    return [ptb.without_punctuation(line.rstrip().split(" ")) for line in answer]
