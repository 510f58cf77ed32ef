"""MME: two yes/no questions per image; accuracy over questions plus accuracy over images with both right.

Follows calculation.py of the official eval_tool.zip (BradyFU/Awesome-Multimodal-Large-Language-Models, branch
Evaluation). Departs: a subtask in which no answer is yes or no scores 0, where the script fails; the two questions of
an image are found by its id and not by adjacent lines; subtasks that the samples lack are left out of the sums, and a
note says so.
"""

from collections.abc import Callable, Mapping, Sequence

from memvp_data.metrics.pairing import Answered, ScoreError
from memvp_data.metrics.tally import Measure, Tally, Totals, Values, make_tally, percent_of, ratio

PERCEPTION = ("existence", "count", "position", "color", "posters", "celebrity", "scene", "landmark", "artwork", "OCR")
COGNITION = ("commonsense_reasoning", "numerical_calculation", "text_translation", "code_reasoning")


def parse(text: str) -> str:
    """ "yes" or "no" if the lower-cased text is that, or holds it in its first four characters; else "other"."""
    text = text.lower()
    if text in ("yes", "no"):
        return text
    return next((word for word in ("yes", "no") if word in text[:4]), "other")


def add_up(scores: Mapping[str, Values | float], *, subtasks: Sequence[str]) -> Values | float:
    """The total of the subtasks that are there: MME-P is that of PERCEPTION, at most 200 each."""
    return sum((scores[subtask] for subtask in subtasks if subtask in scores), start=0.0)


def tally(answered: Sequence[Answered]) -> Tally:
    """Perception and cognition in points, then each subtask in points with acc and acc+ in percent."""
    pairs = _pairs(answered)
    sizes = {name: sum(subtask == name for subtask, _ in pairs) for name in PERCEPTION + COGNITION}
    present = [name for name in PERCEPTION + COGNITION if sizes[name]]
    measures = {
        title: Measure(_total(subtasks, present), 2 * sum(sizes[name] for name in subtasks))
        for title, subtasks in (("perception", PERCEPTION), ("cognition", COGNITION))
        if any(sizes[name] for name in subtasks)
    }
    for name in present:
        measures |= _measures(name, num_images=sizes[name])
    return make_tally(
        (_counts(subtask, both) for (subtask, _), both in pairs.items()),
        measures=measures,
        n=len(answered),
        num_unparsable=sum(parse(question.text) == "other" for question in answered),
        notes=_notes(present),
    )


def points(totals: Totals, subtask: str) -> Values:
    """100 * (acc + acc+) of one subtask."""
    right, asked = totals[f"{subtask} right"], totals[f"{subtask} asked"]
    return 100 * (ratio(right, asked) + ratio(totals[f"{subtask} both"], totals[f"{subtask} images"]))


def _total(subtasks: Sequence[str], present: Sequence[str]) -> Callable[[Totals], Values]:
    names = [name for name in subtasks if name in present]
    return lambda totals: sum((points(totals, name) for name in names[1:]), start=points(totals, names[0]))


def _measures(name: str, *, num_images: int) -> dict[str, Measure]:
    return {
        name: Measure(lambda totals: points(totals, name), 2 * num_images),
        f"{name} acc": Measure(percent_of(f"{name} right", f"{name} asked"), 2 * num_images),
        f"{name} acc+": Measure(percent_of(f"{name} both", f"{name} images"), num_images),
    }


def _pairs(answered: Sequence[Answered]) -> dict[tuple[str, str], list[Answered]]:
    """(subtask, image) -> its two questions."""
    pairs: dict[tuple[str, str], list[Answered]] = {}
    for question in answered:
        subtask = question.field("subtask")
        if subtask not in PERCEPTION + COGNITION:
            known = ", ".join(PERCEPTION + COGNITION)
            raise ScoreError(f"sample {question.sample.id!r} has subtask {subtask!r}; MME has {known}")
        pairs.setdefault((subtask, question.image), []).append(question)
    for (subtask, image), both in pairs.items():
        if len(both) != 2:
            raise ScoreError(f"image {image!r} of {subtask} has {len(both)} questions, MME asks two; score whole pairs")
    return pairs


def _counts(subtask: str, both: Sequence[Answered]) -> tuple[str, dict[str, float]]:
    right = sum(parse(question.text) == question.sample.answers[0].lower() for question in both)
    counts = {"right": float(right), "asked": 2.0, "both": float(right == 2), "images": 1.0}
    return both[0].image, {f"{subtask} {name}": value for name, value in counts.items()}


def _notes(present: Sequence[str]) -> tuple[str, ...]:
    return tuple(
        f"{title} adds up {num_present} of its {len(subtasks)} subtasks"
        for title, subtasks in (("perception", PERCEPTION), ("cognition", COGNITION))
        if 0 < (num_present := sum(name in present for name in subtasks)) < len(subtasks)
    )
