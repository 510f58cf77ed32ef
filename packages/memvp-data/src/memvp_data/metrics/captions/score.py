"""Caption scores: CIDEr, BLEU-1 to BLEU-4, ROUGE-L and, when asked for, METEOR.

Follows eval.py of pycocoevalcap 1.2 (and so the language-evaluation package of VL-PET, whose CIDEr and ROUGE are the
same files). Departs: no SPICE, which downloads its model when first used; METEOR only when asked for, as it needs Java
and two gigabytes; captions become words by the PTB tokenizer's jar when it is there, else by ptb.py, and the report
says by which. CIDEr's word rarities stay those of all images while images are resampled.
"""

from collections.abc import Sequence

from memvp_data.metrics.captions import meteor as meteor_file
from memvp_data.metrics.captions import ptb, ptb_java
from memvp_data.metrics.captions.bleu import MAX_N, bleu
from memvp_data.metrics.captions.bleu import counts as bleu_counts
from memvp_data.metrics.captions.cider import cider
from memvp_data.metrics.captions.java_tools import TOKENIZER, find_jar
from memvp_data.metrics.captions.rouge import rouge_l
from memvp_data.metrics.pairing import Answered
from memvp_data.metrics.tally import Measure, Tally, make_tally, percent_of


def tally(answered: Sequence[Answered], *, with_meteor: bool = False) -> Tally:
    """All scores times 100, as papers print them (BLEU and METEOR of the corpus, CIDEr and ROUGE-L as means)."""
    captions, references, note = tokenize(answered)
    images = [question.image for question in answered]
    return tally_words(captions, references, images=images, with_meteor=with_meteor, notes=(note,))


def tally_words(
    captions: Sequence[str],
    references: Sequence[Sequence[str]],
    *,
    images: Sequence[str],
    with_meteor: bool = False,
    notes: tuple[str, ...] = (),
) -> Tally:
    """The same from captions and references that are words already, joined by single spaces."""
    rows = count(captions, references, with_meteor=with_meteor)
    return make_tally(
        zip(images, rows, strict=True),
        measures=_measures(len(rows), with_meteor=with_meteor),
        n=len(rows),
        num_unparsable=sum(not caption for caption in captions),
        notes=notes,
    )


def tokenize(answered: Sequence[Answered]) -> tuple[list[str], list[list[str]], str]:
    """Captions and references as words, and a note on how they became so."""
    by_jar = find_jar(TOKENIZER) is not None
    texts = [text for question in answered for text in (question.text, *question.sample.answers)]
    words = iter(ptb_java.tokenize(texts) if by_jar else [ptb.tokenize(text) for text in texts])
    captions, references = [], []
    for question in answered:
        captions.append(next(words))
        references.append([next(words) for _ in question.sample.answers])
    return captions, references, f"tokenised by {'the PTB tokenizer 3.4.1' if by_jar else 'metrics/captions/ptb.py'}"


def count(
    captions: Sequence[str], references: Sequence[Sequence[str]], *, with_meteor: bool = False
) -> list[dict[str, float]]:
    """What each tokenised caption adds to the sums."""
    rows = []
    for caption, group, score in zip(captions, references, cider(captions, references), strict=True):
        means = {"captions": 1.0, "cider": score, "rouge": rouge_l(caption, group)}
        rows.append(means | bleu_counts(caption, group))
    if with_meteor:
        rows = [row | more for row, more in zip(rows, meteor_file.counts(captions, references), strict=True)]
    return rows


def _measures(n: int, *, with_meteor: bool) -> dict[str, Measure]:
    measures = {"CIDEr": Measure(percent_of("cider", "captions"), n)}
    measures |= {f"BLEU-{size}": _bleu(size, n=n) for size in range(1, MAX_N + 1)}
    measures["ROUGE-L"] = Measure(percent_of("rouge", "captions"), n)
    if with_meteor:
        measures["METEOR"] = Measure(lambda totals: 100 * meteor_file.meteor(totals), n)
    return measures


def _bleu(size: int, *, n: int) -> Measure:
    return Measure(lambda totals: 100 * bleu(totals, n=size), n)
