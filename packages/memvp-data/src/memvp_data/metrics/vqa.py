"""VQA accuracy: how many of the ten annotators gave the predicted answer, three being enough for full marks.

Follows vqaEval.py (GT-Vision-Lab/VQA, commit a013f00). Departs: no rounding to two decimals; a prediction must be there
for each question (the official script raises too). Variants: `vlpet` is `evaluate_raw` of VL-T5, VL-Adapter and VL-PET
(HenryHZY/VL-PET, src/vqa_clip_data.py), `topk` their soft-label look-up with the labels of every answer instead of the
3,129 most frequent, `evalai` the TextVQA/VQAv2 evaluator that LLaVA ships (llava/eval/m4c_evaluator.py).
"""

from collections import Counter
from collections.abc import Callable, Sequence

from memvp_data.metrics import vqa_text
from memvp_data.metrics.pairing import Answered, ScoreError
from memvp_data.metrics.tally import Mark, Tally, tally_marks

Rule = Callable[[str, Sequence[str]], float]
"""(prediction, the annotators' raw answers) -> 0 to 1."""


def official(prediction: str, golds: Sequence[str]) -> float:
    """Normalises only when the annotators disagree: "Yes" against ten times "yes" is wrong."""
    prediction, golds = vqa_text.flatten(prediction), [vqa_text.flatten(gold) for gold in golds]
    if len(set(golds)) > 1:
        prediction, golds = vqa_text.normalise(prediction), [vqa_text.normalise(gold) for gold in golds]
    return leave_one_out(prediction, golds)


def vlpet(prediction: str, golds: Sequence[str]) -> float:
    """The prediction is always normalised; golds lose their punctuation, and only when the annotators disagree."""
    if len(set(golds)) > 1:
        golds = [vqa_text.strip_punctuation(gold) for gold in golds]
    return leave_one_out(vqa_text.normalise(prediction), golds)


def evalai(prediction: str, golds: Sequence[str]) -> float:
    """Both sides are always normalised, with the EvalAI processor. As there, ten answers and no other number."""
    if len(golds) != 10:
        raise ScoreError(f"the EvalAI evaluator needs the answers of ten annotators, got {len(golds)}; score as vqav2")
    return leave_one_out(vqa_text.normalise_evalai(prediction), [vqa_text.normalise_evalai(gold) for gold in golds])


def topk(prediction: str, golds: Sequence[str]) -> float:
    """The soft label of the predicted string as it stands."""
    return soft_score(Counter(golds)[prediction])


def leave_one_out(prediction: str, golds: Sequence[str], *, have_ids: bool = True) -> float:
    """The mean over annotators of min(1, matches among the others / 3).

    The official script finds "the others" by comparing whole records. Without their `answer_id` (`have_ids=False`)
    equal records are all left out, not just one.
    """
    matches = sum(gold == prediction for gold in golds)
    own = 1 if have_ids else matches
    marks = [min(1.0, (matches - own * (gold == prediction)) / 3) for gold in golds]
    return sum(marks) / len(marks)


def soft_score(num_annotators: int) -> float:
    """Training target of an answer that so many of ten annotators gave; equals the leave-one-out accuracy."""
    return min(1.0, 3 * num_annotators / 10)


def label_score(prediction: str, label: dict[str, float]) -> float:
    """`evaluate` of VL-T5: the score of exactly this string in a label {answer: soft score}."""
    return label.get(prediction, 0.0)


def tally(answered: Sequence[Answered], *, rule: Rule = official) -> Tally:
    """Accuracy over all questions, by answer type and by question type."""
    order = ("yes/no", "number", "other")
    return tally_marks((_mark(question, rule=rule) for question in answered), order=order)


def _mark(question: Answered, *, rule: Rule) -> Mark:
    fields = question.sample.fields
    groups = [fields["answer_type"]] if fields.get("answer_type") else []
    groups += [f"question type: {fields['question_type']}"] if fields.get("question_type") else []
    value = rule(question.text, question.sample.answers)
    return Mark(question.image, value, tuple(groups), parsable=bool(vqa_text.normalise(question.text)))
