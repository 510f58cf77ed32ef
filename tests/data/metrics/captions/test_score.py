"""Caption scores equal pycocoevalcap's own scorers, and the slow form of what was made fast."""

import contextlib
import io
from importlib.util import find_spec
from math import exp

import pytest
from hypothesis import given
from hypothesis import strategies as st

from memvp_data.metrics.bootstrap import draw, intervals
from memvp_data.metrics.captions import meteor
from memvp_data.metrics.captions import score as captions
from memvp_data.metrics.captions.cider import cider
from memvp_data.metrics.captions.java_tools import METEOR, find_jar
from memvp_data.metrics.captions.rouge import longest_common_subsequence, rouge_l
from memvp_data.metrics.pairing import ScoreError
from memvp_data.metrics.tally import Tally
from tests.data.metrics.questions import answered, asked

WORDS = st.lists(st.sampled_from("a b c d e f".split()), max_size=9).map(" ".join)
CORPUS = st.lists(st.tuples(WORDS, st.lists(WORDS, min_size=1, max_size=3)), min_size=1, max_size=5)
Corpus = list[tuple[str, list[str]]]


def tally(corpus: Corpus, *, with_meteor: bool = False) -> Tally:
    """Of captions that are words already, one image each."""
    images = [f"{n:03}" for n in range(len(corpus))]
    return captions.tally_words(*map(list, zip(*corpus, strict=True)), images=images, with_meteor=with_meteor)


@pytest.mark.skipif(find_spec("pycocoevalcap") is None, reason="needs the extra captions")
@given(
    CORPUS.filter(lambda corpus: any(any(references) for _, references in corpus))
)  # all empty: the official one fails
def test_equal_to_the_scorers_of_pycocoevalcap(corpus: Corpus) -> None:
    from pycocoevalcap.bleu.bleu import Bleu
    from pycocoevalcap.cider.cider import Cider
    from pycocoevalcap.rouge.rouge import Rouge

    golds = {n: references for n, (_, references) in enumerate(corpus)}
    texts = {n: [caption] for n, (caption, _) in enumerate(corpus)}
    with contextlib.redirect_stdout(io.StringIO()):
        official = [Cider().compute_score(golds, texts)[0], *Bleu(4).compute_score(golds, texts)[0]]
        official.append(Rouge().compute_score(golds, texts)[0])
    # Sums are added in another order than there.
    assert [*tally(corpus).values().values()] == pytest.approx([100 * score for score in official], rel=1e-9, abs=1e-9)


@given(CORPUS)
def test_scores_are_bounded_and_a_copy_of_the_only_reference_is_best(corpus: Corpus) -> None:
    found = tally(corpus).values()
    assert all(0 <= value <= 100 + 1e-9 for name, value in found.items() if name != "CIDEr")
    assert 0 <= found["CIDEr"] <= 1000 + 1e-9
    copies = cider([references[0] for _, references in corpus], [references[:1] for _, references in corpus])
    others = cider([caption for caption, _ in corpus], [references[:1] for _, references in corpus])
    assert all(copy >= other - 1e-9 for copy, other in zip(copies, others, strict=True))


@given(WORDS, st.lists(WORDS, min_size=1, max_size=3))
def test_rouge_is_1_for_a_reference_and_knows_no_order_of_references(caption: str, references: list[str]) -> None:
    assert rouge_l(references[-1], references) == pytest.approx(1)
    assert rouge_l(caption, references) == rouge_l(caption, references[::-1])


@given(st.lists(st.sampled_from("abc")), st.lists(st.sampled_from("abc")))
def test_the_bit_parallel_subsequence_is_that_of_the_table(first: list[str], second: list[str]) -> None:
    table = [[0] * (len(second) + 1) for _ in range(len(first) + 1)]
    for i, one in enumerate(first, start=1):
        for j, other in enumerate(second, start=1):
            table[i][j] = table[i - 1][j - 1] + 1 if one == other else max(table[i - 1][j], table[i][j - 1])
    assert longest_common_subsequence(first, second) == table[-1][-1]


def test_cider_worked_out_by_hand() -> None:
    # All weights are ln 2 and cancel; lengths differ by two words.
    cosines = (3 / 15**0.5 + 2 / 8**0.5 + 1 / 3**0.5 + 0) / 4
    assert cider(["a b c", "f g h i j"], [["a b c d e"], ["f g h i j"]]) == pytest.approx(
        [10 * cosines * exp(-4 / 72), 10]
    )


def test_one_image_alone_has_no_cider() -> None:
    assert cider(["a b"], [["a b"]]) == [0]


def test_raw_captions_with_intervals(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    made = captions.tally(
        answered(
            (asked("1", "A cat sits.", "The cat's here!", image="i"), "A cat sits"),
            (asked("2", "Two dogs run.", image="j"), "two dogs (run)"),
            (asked("3", "Snow.", image="k"), " . "),
        )
    )
    found = intervals(made, draw(made, resamples=50))
    assert [*found] == ["CIDEr", "BLEU-1", "BLEU-2", "BLEU-3", "BLEU-4", "ROUGE-L"]
    assert all(part.low <= part.value <= part.high and part.n == 3 for part in found.values())
    assert made.num_unparsable == 1
    assert made.notes == ("tokenised by metrics/captions/ptb.py",)
    assert found["BLEU-1"].value == pytest.approx(100 * 6 / 8)  # -lrb- and -rrb- are words, and wrong ones


def test_meteor_without_java_says_what_to_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(ScoreError, match="METEOR cannot run: there is no java on the PATH; install a Java runtime"):
        meteor.counts(["a"], [["a"]])


@pytest.mark.slow  # the jar takes half a minute to start
@pytest.mark.skipif(find_jar(METEOR) is None, reason="needs Java and the extra captions")
def test_meteor_is_the_jars_own_score() -> None:
    from pycocoevalcap.meteor.meteor import Meteor

    corpus = [
        ("a man rides", ["a man is riding", "man"]),
        ("the dog", ["the dog"]),
        ("", ["x"]),
        ("big cats ran", ["a"]),
    ]
    corpus += [("two cats running on the snow", ["two cats run in snow", "cats on snow"])]
    official, _ = Meteor().compute_score(
        {n: references for n, (_, references) in enumerate(corpus)}, {n: [text] for n, (text, _) in enumerate(corpus)}
    )
    assert tally(corpus, with_meteor=True).values()["METEOR"] == pytest.approx(100 * official, rel=1e-12)
