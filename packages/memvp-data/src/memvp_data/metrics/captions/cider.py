"""CIDEr-D of tokenised captions, image by image.

Follows cider_scorer.py of pycocoevalcap 1.2, which is the file that VL-PET's and most other published numbers come
from. Departs nowhere; values are as there, so papers print them times 100.
"""

from collections import Counter
from collections.abc import Mapping, Sequence
from math import exp, log, sqrt

_MAX_N = 4
_LENGTH_VARIANCE = 36.0  # sigma is 6 words

Gram = tuple[str, ...]
Vector = Mapping[Gram, float]


def cider(captions: Sequence[str], references: Sequence[Sequence[str]]) -> list[float]:
    """The score of each caption against its references, 0 to 10.

    How rare an n-gram is counts over the references of exactly these images: scores on a subset are not comparable.
    """
    counts = [[ngrams(reference) for reference in group] for group in references]
    frequency = Counter(gram for group in counts for gram in set[Gram]().union(*group))
    log_images = log(len(references)) if references else 0.0
    rarity = {gram: log_images - log(images) for gram, images in frequency.items()}
    return [
        _score(_Weighted(ngrams(caption), rarity, log_images), [_Weighted(one, rarity, log_images) for one in group])
        for caption, group in zip(captions, counts, strict=True)
    ]


def ngrams(caption: str) -> Counter[Gram]:
    """All n-grams of 1 to 4 words with their counts."""
    words = caption.split()
    return Counter(tuple(words[start : start + n]) for n in range(1, _MAX_N + 1) for start in range(len(words) - n + 1))


class _Weighted:
    """A caption as one tf-idf vector per n."""

    def __init__(self, counts: Mapping[Gram, int], rarity: Vector, unseen: float) -> None:
        self.vectors: list[dict[Gram, float]] = [{} for _ in range(_MAX_N)]
        for gram, count in counts.items():
            self.vectors[len(gram) - 1][gram] = count * rarity.get(gram, unseen)
        self.norms = [sqrt(sum(weight**2 for weight in vector.values())) for vector in self.vectors]
        # The official length is the number of bigrams.
        self.length = sum(count for gram, count in counts.items() if len(gram) == 2)


def _score(caption: _Weighted, references: Sequence[_Weighted]) -> float:
    similarities = [_similarity(caption, reference) for reference in references]
    return 10 * sum(similarities) / len(similarities)


def _similarity(caption: _Weighted, reference: _Weighted) -> float:
    penalty = exp(-((caption.length - reference.length) ** 2) / (2 * _LENGTH_VARIANCE))
    return penalty * sum(_cosine(caption, reference, place) for place in range(_MAX_N)) / _MAX_N


def _cosine(caption: _Weighted, reference: _Weighted, place: int) -> float:
    """Of the clipped caption vector: repeating a word of the reference earns nothing."""
    ours, theirs = caption.vectors[place], reference.vectors[place]
    product = sum(min(weight, theirs[gram]) * theirs[gram] for gram, weight in ours.items() if gram in theirs)
    norms = caption.norms[place] * reference.norms[place]
    return product / norms if norms else product
