"""Captions to words without Java: a tokenizer that agrees with the Stanford PTB tokenizer on the English of captions.

Follows what pycocoevalcap 1.2 gets from stanford-corenlp 3.4.1 (-preserveLines -lowerCase) and what it then drops.
Departs: written anew as one regular expression for the things captions hold (contractions, abbreviations, numbers,
hyphens, brackets); rarer things (phone numbers, smileys, markup) may be cut differently. Where a score will be
published, have Java and the extra `captions`: scores say which of the two made their words.
"""

import re
from collections.abc import Iterable

# Brackets are dropped under these names in capitals only, so lower-cased ones stay.
_DROPPED = {"''", "'", "``", "`", "-LRB-", "-RRB-", "-LCB-", "-RCB-", ".", "?", "!", ",", ":", "-", "--", "...", ";"}
_BRACKETS = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
_RENAMED = {**_BRACKETS, "€": "$", "£": "#", "¢": "cents", "½": "1/2", "¼": "1/4", "¾": "3/4"}
_PLAIN = str.maketrans(
    {
        "‘": "'",
        "’": "'",
        '"': "''",
        "“": "''",
        "”": "''",
        "–": " -- ",
        "—": " -- ",
        "…": " ... ",
        "\xa0": " ",
        "«": "''",
        "»": "''",
    }
)
_ENTITIES = {"&amp;": "&", "&lt;": "<", "&gt;": ">", "&quot;": '"', "&apos;": "'", "&nbsp;": " "}
_ENTITY = re.compile("|".join(_ENTITIES), re.IGNORECASE)

_SPLIT_WORDS = {
    "cannot": "can not",
    "gonna": "gon na",
    "gotta": "got ta",
    "wanna": "wan na",
    "gimme": "gim me",
    "lemme": "lem me",
    "'tis": "'t is",
    "'twas": "'t was",
    "y'all": "y' all",
}
# They keep their period; the second list only where they begin with a capital, the third before a number.
_ABBREVIATIONS = "|".join(
    "mr mrs ms messrs mme mlle dr jr sr prof gen sen rep gov pres capt cmdr adm maj brig lt col sgt cpl pfc pvt "
    "hon rev insp supt esq st ste ave blvd rd sq ct bldg mt ft vs etc al cf est ext tel seq ph dept univ assn natl "
    "intl inc co corp ltd bros mfg plc bancorp jan feb mar apr jun jul aug sep sept oct nov dec mon tue tues wed "
    "thu thurs fri ala ariz calif colo conn dak fla ga ind kan ky md mich minn mo mont neb nev okla tenn va vt wis "
    "wyo".split()
)
_CAPITAL_ABBREVIATIONS = "|".join("Ark Del Ill La Mass Miss Ore Pa Tex Wash".split())
_NUMBERED = "no|nos|fig|figs|pp|p|vol"
_ENDING = r"'(?:s|m|d|re|ve|ll)(?!\w)"
_WORD = r"(?:(?!n't(?!\w))[^\W½¼¾]|[\u0300-\u036f])+"
# The first alternative that fits is the next token.
_TOKEN = re.compile(
    rf"""
      '' | (?:https?://|www\.)[^\s"]*[^\s".,;:!?)]
    | '[0-9]0s | '[0-9]{{2}}(?!\w) | '(?:em|cause|til)(?!\w) | 'n'(?=roll|\W|$) | 'n(?=\s|$) | ol'(?!\w)
    | (?:cannot|gonna|gotta|wanna|gimme|lemme|'tis|'twas)(?![\w-]|'\w) | y'all(?!\w)
    | {_ENDING} | n't(?!\w)
    | ph\.d\.? | [^\W\d_](?:\.[^\W\d_])+(?!\w)\.?
    | (?:{_ABBREVIATIONS}|(?-i:{_CAPITAL_ABBREVIATIONS}))\.(?!\w) | (?:{_NUMBERED})\.(?=\s*[0-9])
    | [^\W\d_]\.(?!\w|\.\.) | \w+\.(?=,)
    | [\w.+-]{{1,64}}@[\w-]{{1,64}}\.[\w.]{{1,64}}(?<!\.) | c\+\+ | c\#
    | (?<!\S)[-+][0-9]+(?![\w/:-]|[.,][0-9])
    | [0-9]+[ ][0-9]+/[0-9]+(?![\w/-]) | [0-9]+:[0-9]+ | [0-9]+\.[0-9]+(?:-\w+)+
    | [0-9]+(?:,[0-9]+)*(?:\.[0-9]+)?(?:/[0-9]+(?:-\w+)*)?(?![\w-]) | \.[0-9]+
    | (?-i:[A-Z]+&[A-Z]+)
    | (?:o|d|l|ma)'[^\W\d_]{{2,}}
    | {_WORD}(?:[-/.]{_WORD})*
    | \#[^\W\d]\w+ | <[a-z/][^<>\s]*> | @\w+
    | \.\.\. | --+ | [!?]{{2,}} | \*+ | \S
    """,
    re.VERBOSE | re.IGNORECASE,
)


def tokenize(caption: str) -> str:
    """The caption's words, joined by single spaces."""
    text = _ENTITY.sub(lambda match: _ENTITIES[match.group().lower()], caption).translate(_PLAIN)
    return without_punctuation(_token(match.group()) for match in _TOKEN.finditer(text))


def without_punctuation(tokens: Iterable[str]) -> str:
    """What pycocoevalcap keeps of the tokens of a caption."""
    return " ".join(token for token in tokens if token not in _DROPPED)


def _token(text: str) -> str:
    lowered = text.lower()
    if lowered.startswith("---"):
        return "--"
    if " " in lowered:  # "1 1/2" is one word, held together by a no-break space
        return lowered.replace(" ", "\xa0")
    return _SPLIT_WORDS.get(lowered) or _RENAMED.get(lowered, lowered)
