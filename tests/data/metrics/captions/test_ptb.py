"""Our own tokenizer agrees with the Stanford one on what captions hold."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memvp_data.metrics.captions import ptb, ptb_java
from memvp_data.metrics.captions.java_tools import TOKENIZER, find_jar
from memvp_data.metrics.pairing import ScoreError

# Made with stanford-corenlp-3.4.1.jar: java -cp ... PTBTokenizer -preserveLines -lowerCase, then what is dropped.
WORDS = {
    "The girls' room, isn't it?": "the girls room is n't it",
    "A man's t-shirt reads \"Don't stop\"!": "a man 's t-shirt reads do n't stop",
    "rock'n'roll at 10:30am on St. Louis St.": "rock 'n' roll at 10:30 am on st. louis st.",
    "a black/white AT&T sign & a 1/2-inch pipe": "a black/white at&t sign & a 1/2-inch pipe",
    "Two 6' men (left) paid £5.00 [each]": "two 6 men -lrb- left -rrb- paid # 5.00 -lsb- each -rsb-",
    "It’s a dog – or a cat… No. 7, etc.": "it 's a dog or a cat no. 7 etc.",
    "y'all gimme '80s music 24/7 at 50% off": "y' all gim me '80s music 24/7 at 50 % off",
    "wait... what?! -- wow!!": "wait what ?! wow !!",
    "it is 20 1/4 p.m.": "it is 20\xa01/4 p.m.",
    "\t": "",
}


@pytest.mark.parametrize("caption", WORDS)
def test_captions_become_words(caption: str) -> None:
    assert ptb.tokenize(caption) == WORDS[caption]


@pytest.mark.skipif(find_jar(TOKENIZER) is None, reason="needs Java and the extra captions")
def test_the_jar_agrees_and_keeps_captions_apart() -> None:
    broken = "a cat\u2028sits\r\nhere\x0b."
    assert ptb_java.tokenize([*WORDS, broken]) == [*WORDS.values(), "a cat sits here"]
    assert ptb_java.tokenize([]) == []


# What stands in captions, and what is hard to cut.
PIECES = """
a the man woman's dogs' sitting black-and-white t-shirt red/white U.S. p.m. Mr. Dr. St. etc. vs 3:30 5,000 $5
100% 20-30 1/2 1980's '80s can't won't I'm it's they're cannot gonna o'clock 'n' ol' y'all & # #1 No. 5 7-up
21st 4x4 B&W AT&T in. 6'2 TV D.C. what? up. ; : , ... .. - -- ( ) (left) [sic] "stop" 'go' café man/woman w/
self- x-ray B.B. 5ft. 10am 10:30am 2.5 .5 Co. Ave. blvd. approx. cat.The cat,dog dog:cat dog--cat dog-cat- <b> *
+ = under_score a+b hello!! 'em 'tis goin' McDonald's e.g. d'oeuvres O'Brien rock'n'roll F-16 1,234,567 £5 €5 5¢
half - eaten Mon. Tex. +5 -5 c++ 'til
""".split()


@pytest.mark.skipif(find_jar(TOKENIZER) is None, reason="needs Java and the extra captions")
def test_made_up_captions_are_cut_as_the_jar_does() -> None:
    chance = random.Random(0)
    captions = [" ".join(chance.choices(PIECES, k=chance.randint(1, 8))) + chance.choice("..!?,") for _ in range(1000)]
    cut = ptb_java.tokenize(captions)
    different = sum(ptb.tokenize(caption) != words for caption, words in zip(captions, cut, strict=True))
    assert different <= 10  # a number that runs into a fraction, a quote before 'n'


@given(st.text())
def test_words_are_lower_case_and_nothing_is_made_up(caption: str) -> None:
    words = ptb.tokenize(caption)
    assert words == words.lower()
    assert not ptb._DROPPED.intersection(words.split(" ")) - {""}
    assert "\n" not in words


def test_without_java_or_without_the_package(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ScoreError, match="the PTB tokenizer cannot run: there is no java on the PATH"):
        ptb_java.tokenize(["a"])
