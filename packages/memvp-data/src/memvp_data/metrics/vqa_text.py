"""How VQA answers are normalised before they are compared: the official way and two that are in circulation.

Follows `processPunctuation` and `processDigitArticle` of vqaEval.py (GT-Vision-Lab/VQA, commit a013f00), quirks
included: the published numbers were made with them. Departs nowhere.
"""

import re

_PUNCTUATION = ';/[]"{}()=+\\_-><@`,?!'
_DIGIT_COMMA_DIGIT = re.compile(r"\d,\d")
# The official look-behind is malformed, so a digit before the period does not protect it: "3." becomes "3".
_PERIOD = re.compile(r"\.(?!\d)")
# The official call passes a flag (re.UNICODE = 32) where the number of replacements goes.
_MAX_PERIODS = 32
_ARTICLES = {"a", "an", "the"}
_NUMBERS = {"none": "0", "zero": "0"} | {
    word: str(number) for number, word in enumerate("one two three four five six seven eight nine ten".split(), start=1)
}


def normalise(text: str) -> str:
    """The official normalisation: "The two dogs." is "2 dogs"."""
    return strip_articles(strip_punctuation(flatten(text)))


def normalise_without_commas(text: str) -> str:
    """The official one, then all commas left are deleted: as answer lists are built, and VL-T5's `normalize_answer`."""
    return normalise(text).replace(",", "")


def normalise_evalai(text: str) -> str:
    """The EvalAI processor of Pythia and LLaVA: lower case, no commas or question marks, "'s" apart, then official."""
    return normalise(text.lower().replace(",", "").replace("?", "").replace("'s", " 's").strip())


def flatten(text: str) -> str:
    """Newline and tab to a space, none at the ends."""
    return text.replace("\n", " ").replace("\t", " ").strip()


def strip_punctuation(text: str) -> str:
    """Each mark that stands beside a space anywhere vanishes everywhere, all others become spaces.

    All vanish when a digit-comma-digit is there. A period goes unless a digit follows it.
    """
    has_number, stripped = bool(_DIGIT_COMMA_DIGIT.search(text)), text
    for mark in _PUNCTUATION:
        vanishes = has_number or f"{mark} " in text or f" {mark}" in text
        stripped = stripped.replace(mark, "" if vanishes else " ")
    return _PERIOD.sub("", stripped, count=_MAX_PERIODS)


def strip_articles(text: str) -> str:
    """Lower case, number words to digits, no articles, apostrophes put back into known contractions."""
    words = (_NUMBERS.get(word, word) for word in text.lower().split())
    return " ".join(_CONTRACTIONS.get(word, word) for word in words if word not in _ARTICLES)


def _contractions() -> dict[str, str]:
    """Contraction without its apostrophe(s) -> with. Keys with a capital never match, words being lower-cased first."""
    table = {"somebody'd": "somebodyd"}  # the official table has this one the wrong way round
    for (
        stem
    ) in "ai are ca could did does do had has have is might must need ought sha should was were wo would".split():
        table[f"{stem}nt"] = f"{stem}n't"
    for ending, stems in {
        "ve": "could I might must not should they we what where who would you",
        "d": "he how it someone something there they where who you",
        "s": "he how somebody someone that there what when where who why",
        "ll": "how it somebody someone something they what who why you",
        "re": "there they what why you",
    }.items():
        table |= {f"{stem}{ending}": f"{stem}'{ending}" for stem in stems.split()}
    for stem in "he I it she somebody someone something there they we who you".split():
        table |= {f"{stem}d've": f"{stem}'d've", f"{stem}'dve": f"{stem}'d've"}
    for stem in "could had might should would".split():
        table |= {f"{stem}nt've": f"{stem}n't've", f"{stem}n'tve": f"{stem}n't've"}
    return table | _SINGLE_CONTRACTIONS


_SINGLE_CONTRACTIONS = {
    "Im": "I'm",
    "maam": "ma'am",
    "oclock": "o'clock",
    "twas": "'twas",
    "let's": "let's",
    "she's": "she's",
    "yall": "y'all",
    "yall'll": "y'all'll",
    "y'allll": "y'all'll",
    "yall'd've": "y'all'd've",
    "y'alld've": "y'all'd've",
    "y'all'dve": "y'all'd've",
    "ow's'at": "'ow's'at",
    "'ows'at": "'ow's'at",
    "'ow'sat": "'ow's'at",
}
_CONTRACTIONS = _contractions()
