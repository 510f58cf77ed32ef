"""Which option an answer to a multiple-choice question means, by rules alone.

`current` follows can_infer of VLMEvalKit (vlmeval/utils/matching_util.py, commit e8e78f05), `rules_2023` the first
MMBench rules as lmms-eval keeps them (lmms_eval/tasks/mmbench/mmbench_evals.py, commit 75571cfe). Departs: no language
model is asked about what the rules leave undecided.
"""

import re
from collections.abc import Mapping, Sequence

REFUSED = "Z"
_FAILED_CALL = "Failed to obtain answer via API"
_REFUSALS = (
    "Sorry, I can't help with images of people yet.",
    "I can't process this file.",
    "I'm sorry, but without the image provided",
    "Cannot determine the answer",
)
_TO_SPACE = str.maketrans(dict.fromkeys(".()[],:;!*#{}", " "))
_SPELT_OUT = re.compile(r"answer\s+is\s+\**([ABCD])", re.IGNORECASE)
# What may stand around a letter, in the order in which the 2023 rules try it.
_DECORATIONS = [
    ("", "."),
    ("", ","),
    ("", ":"),
    ("", ")"),
    ("", ")."),
    ("(", ")"),
    ("(", ")."),
    (":", ""),
    (":", ","),
    (":", "."),
    (":", ")"),
    (":", ")."),
]


def current(text: str, options: Mapping[str, str]) -> str | None:
    """The letter meant, `REFUSED` for a refusal, None if undecided. Options are {"A": "cat", ...}.

    A single option letter among the last four words, else the letter in "answer is B", else the only option whose
    words occur in an answer at most twice as long as all options together.
    """
    return _current_letter(text, options) or _by_words(text, options, max_length=2 * sum(map(len, options.values())))


def rules_2023(text: str, options: Mapping[str, str]) -> str | None:
    """The letter meant, None if undecided. An A among more than three words may be an article and decides nothing."""
    return _letter_2023(text) or _by_words(text, options, max_length=len(text.lower()))


def _current_letter(text: str, options: Mapping[str, str]) -> str | None:
    if _FAILED_CALL in text:
        return None
    if any(refusal in text for refusal in _REFUSALS):
        return REFUSED
    words = text.translate(_TO_SPACE).split()
    named = [letter for letter in options if letter in set(words)]
    if len(named) == 1 and words.index(named[0]) > len(words) - 5:
        return named[0]
    if not named and REFUSED in words:
        return REFUSED
    match = _SPELT_OUT.search(text)
    return match.group(1).upper() if match and match.group(1).upper() in options else None


def _letter_2023(text: str) -> str | None:
    if _FAILED_CALL in text:
        return None
    words = text.split()
    if bare := _only(words):
        return bare if not ("A" in words and len(words) > 3) else _decorated(words)
    return _decorated(words)


def _decorated(words: Sequence[str]) -> str | None:
    return next((letter for before, after in _DECORATIONS if (letter := _only(words, before, after))), None)


def _only(words: Sequence[str], before: str = "", after: str = "") -> str | None:
    """The only letter of A to E that stands among the words in this decoration."""
    found = [letter for letter in "ABCDE" if f"{before}{letter}{after}" in words]
    return found[0] if len(found) == 1 else None


def _by_words(text: str, options: Mapping[str, str], *, max_length: int) -> str | None:
    text = text.lower()
    named = [letter for letter, option in options.items() if option.lower() in text]
    return named[0] if len(named) == 1 and len(text) <= max_length else None
