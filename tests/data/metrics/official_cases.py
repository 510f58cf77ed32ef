"""How each kind of case of metric_cases.json is put to our code: {kind: predictions, references -> what came out}.

The cases were made by running the official evaluators. Scores of whole files go through samples and predictions, as a
user's do.
"""

import json
from collections.abc import Callable
from typing import Any

import numpy as np
from numpy.typing import NDArray

from memvp_data.metrics import (
    gqa,
    mmbench,
    mmbench_letters,
    mme,
    pope,
    scienceqa,
    sqa_i,
    video,
    vqa,
    vqa_text,
)
from memvp_data.metrics.captions import ptb
from memvp_data.metrics.captions import score as captions
from memvp_data.metrics.captions.java_tools import METEOR, find_jar
from memvp_data.metrics.mmbench_submission import submission_columns
from memvp_data.metrics.pairing import pair
from memvp_data.samples import Sample, Turn, to_id
from memvp_data.text import scienceqa as scienceqa_formats
from memvp_data.text.templates import TEMPLATES, Template, written_rounds

from .questions import asked, rows

Values = dict[str, float]


def values(tally: Callable[..., Any], texts: dict[str, str], samples: list[Sample], **options: Any) -> Values:
    return tally(pair(rows(texts), samples), **options).values()


def vqa_corpus(predictions: list[str], references: list[dict]) -> dict[str, Any]:
    samples = [
        asked(str(n), *gold["answers"], answer_type=gold["atype"], question_type=gold["qtype"])
        for n, gold in enumerate(references)
    ]
    found = values(vqa.tally, {str(n): text for n, text in enumerate(predictions)}, samples)
    return {
        "overall": round(found["accuracy"], 2),
        "perQuestionType": {g["qtype"]: round(found[f"question type: {g['qtype']}"], 2) for g in references},
        "perAnswerType": {g["atype"]: round(found[g["atype"]], 2) for g in references},
    }


def caption_scores(predictions: list[str], references: list[list[str]], *, with_meteor: bool = False) -> dict[str, Any]:
    rows = captions.count(predictions, references)
    images = [f"{n:03}" for n in range(len(rows))]
    tally = captions.tally_words(predictions, references, images=images, with_meteor=with_meteor)
    found = {name: value / 100 for name, value in tally.values().items()}
    scores: dict[str, Any] = {
        "CIDEr": found["CIDEr"],
        "CIDEr_per_image": [counts["cider"] for counts in rows],
        "BLEU": [found[f"BLEU-{n}"] for n in range(1, 5)],
        "ROUGE_L": found["ROUGE-L"],
        "ROUGE_L_per_image": [counts["rouge"] for counts in rows],
    }
    if with_meteor:
        scores["METEOR"] = found["METEOR"]
        # One row of weights per image: each image alone, in one run of the jar.
        alone = tally.measures["METEOR"].value(tally.totals(np.eye(len(rows), dtype=np.int64)))
        scores["METEOR_per_image"] = [*(alone / 100)]
    return scores


def as_totals(counts: dict[str, float]) -> dict[str, NDArray[np.float64]]:
    return {name: np.array([value], dtype=np.float64) for name, value in counts.items()}


def whole_captions(predictions: list[str], references: list[list[str]]) -> dict[str, Any]:
    samples = [asked(str(n), *group) for n, group in enumerate(references)]
    answered = pair(rows({str(n): text for n, text in enumerate(predictions)}), samples)
    own, groups, _ = captions.tokenize(answered)
    return caption_scores(own, groups, with_meteor=find_jar(METEOR) is not None)


def pope_scores(predictions: list[str], references: list[str]) -> dict[str, float]:
    samples = [asked(str(n), label) for n, label in enumerate(references)]
    pairs = [(pope.parse(text) == "yes", label == "yes") for text, label in zip(predictions, references, strict=True)]
    counts = {
        "TP": pairs.count((True, True)),
        "FP": pairs.count((True, False)),
        "TN": pairs.count((False, False)),
        "FN": pairs.count((False, True)),
    }
    found = values(pope.tally, {str(n): text for n, text in enumerate(predictions)}, samples)
    return {**counts, **{name: found[f"all {name}"] / 100 for name in pope.NAMES}}


def pope_llava(predictions: dict[str, list[str]], references: dict[str, list[str]]) -> dict[str, Any]:
    texts = {f"{split}-{n}": text for split, answers in predictions.items() for n, text in enumerate(answers)}
    samples = [
        asked(f"{split}-{n}", label, image=str(n), pope_split=split)
        for split, labels in references.items()
        for n, label in enumerate(labels)
    ]
    found = values(pope.tally, texts, samples)
    scores: dict[str, Any] = {
        split: {name: round(found[f"{split} {name}"] / 100, 3) for name in pope.NAMES} for split in references
    }
    return {**scores, "mean_f1": round(found["f1, mean of the splits"] / 100, 3)}


def pope_counts(predictions: dict[str, int], _: str) -> dict[str, float]:
    cells = as_totals({cell: predictions[cell] for cell in ("TP", "FP", "TN", "FN")})
    return {name: value[0] for name, value in pope.measure(*cells.values()).items()}


def mme_scores(predictions: dict[str, list[str]], references: dict[str, list]) -> Values:
    texts, samples = {}, []
    for subtask, golds in references.items():
        for n, (image, gold) in enumerate(golds):
            texts[f"{subtask}-{n}"] = predictions[subtask][n]
            samples.append(asked(f"{subtask}-{n}", gold, image=to_id(image), subtask=subtask))
    return values(mme.tally, texts, samples)


def mme_full(predictions: dict[str, list[str]], references: dict[str, list]) -> dict[str, Any]:
    found = mme_scores(predictions, references)
    return {
        "Perception": {"total": found["perception"], **{name: found[name] for name in mme.PERCEPTION}},
        "Cognition": {"total": found["cognition"], **{name: found[name] for name in mme.COGNITION}},
    }


def scienceqa_scores(predictions: dict[str, int], references: dict[str, dict]) -> dict[str, Any]:
    samples = [
        asked(
            name,
            "ABCDE"[problem["answer"]],
            subject=problem["subject"],
            grade=problem["grade"],
            has_hint=json.dumps(bool(problem["hint"])),
            has_image=json.dumps(problem["image"] is not None),
            choices='["", "", "", "", ""]',
        )
        for name, problem in references.items()
        if problem["split"] == "test"
    ]
    texts = {name: "ABCDE"[index] if index >= 0 else "" for name, index in predictions.items()}
    found = values(scienceqa.tally, texts, samples)
    names = "natural social language has_text has_image no_context grade_1_6 grade_7_12 average".split()
    return {
        f"acc_{name}": f"{found[group]:.2f}" if group in found else -1
        for name, group in zip(names, (*scienceqa.GROUPS, "average"), strict=True)
    }


def sqa_scores(predictions: dict[str, str], references: dict[str, dict]) -> dict[str, Any]:
    """The case without prediction: an empty one, and without image, stands for what the official script makes of it."""
    samples = [
        asked(
            name,
            "ABCDE"[gold["answer"]],
            has_image=json.dumps(gold["prompt_has_image_token"]),
            choices=json.dumps([""] * gold["n_choices"]),
        )
        for name, gold in references.items()
    ]
    texts = {name: predictions.get(name, "") for name in references}
    found = values(sqa_i.tally, texts, samples)
    results = {
        name: scienceqa.index_of(sqa_i.parse(texts[name]), num_choices=gold["n_choices"])
        for name, gold in references.items()
    }
    correct = sum(results[name] == gold["answer"] for name, gold in references.items())
    total, image = found["all questions"], found["questions with an image"]
    printed = f"Total: {len(results)}, Correct: {correct}, Accuracy: {total:.2f}%, IMG-Accuracy: {image:.2f}%"
    return {"stdout": printed, "results": results, "acc": total, "correct": correct, "count": len(results)}


def gqa_scores(predictions: dict[str, str], references: dict[str, dict]) -> Values:
    balanced = {name: gold for name, gold in references.items() if gold["isBalanced"]}
    samples = [asked(name, gold["answer"], structural=gold["structural"]) for name, gold in balanced.items()]
    found = values(gqa.tally, {name: predictions[name] for name in balanced if name in predictions}, samples)
    rounded = {name: round(found[name], 2) for name in ("binary", "open", "accuracy")}
    return {**rounded, "distribution": 0.0}  # the official script's own 0: it needs files that GQA 1.2 does not ship


def by_index(predictions: dict[str, int], golds: dict[str, int]) -> float:
    samples = [asked(name, f"a{index}") for name, index in golds.items()]
    texts = {name: f"a{index}" for name, index in predictions.items()}
    return round(values(video.tally, texts, samples)["accuracy"], 2)


def tvqa_generative(predictions: dict[str, str], references: list[dict]) -> Values:
    samples = [asked(str(gold["question_id"]), gold["answer"], show_name=gold["type"]) for gold in references]
    found = values(video.tally, predictions, samples)
    shows = {name.removeprefix("show: "): value / 100 for name, value in found.items() if name != "accuracy"}
    return {**shows, "all_type_accuracy": found["accuracy"] / 100}


def circular(predictions: list[str], references: list[dict]) -> int | None:
    letters = [
        mmbench_letters.current(text, gold["options"]) for text, gold in zip(predictions, references, strict=True)
    ]
    golds = [gold["GT"] for gold in references]
    samples = [
        asked(str(gold["index"]), gold["GT"], index=str(gold["index"]), choices=json.dumps([*gold["options"].values()]))
        for gold in references
    ]
    texts = {str(gold["index"]): text for gold, text in zip(references, predictions, strict=True)}
    hit = mmbench.circular(letters, golds)
    assert values(mmbench.tally, texts, samples)["accuracy"] == 100 * (hit or 0)
    return hit


def problem_fields(problem: dict[str, Any]) -> dict[str, str]:
    texts = {name: problem[name] for name in ("question", "hint", "caption", "lecture", "solution")}
    return texts | {"choices": json.dumps(problem["choices"]), "answer_index": str(problem["answer"])}


def released_prompt(options: dict[str, Any], problem: dict[str, Any]) -> list[str]:
    fields = problem_fields(problem)
    if not options["use_caption"]:
        del fields["caption"]
    return [*scienceqa_formats.released(fields, kind=options["prompt_format"])]


def llava_prompt(options: dict[str, Any], problem: dict[str, Any]) -> list[str]:
    kind, is_test = options["prompt_format"], options["is_test"]
    return [*scienceqa_formats.llava(problem_fields(problem), kind=kind, is_test=is_test)]


def chat_prompt(options: dict[str, str], turns: list[str | None]) -> str:
    """Turns keep the placeholder they have; the plain template drops the question, and with it the placeholder."""
    roles = ("user", "assistant") * len(turns)
    spoken = tuple(Turn(role, text) for role, text in zip(roles, turns, strict=False) if text is not None)
    layout = TEMPLATES[options["mode"]]
    assert isinstance(layout, Template)
    rounds = written_rounds(Sample("x", (), spoken), layout=layout, name=options["mode"])
    end = "</s>" if layout.ends_with_eos else ""
    text = "".join(prompt + (answer + end if answer is not None else "") for prompt, answer in rounds)
    return text if layout.user else f"<image>{text}"


def two_decimals(accuracy: float) -> float:
    return round(100 * accuracy, 2)


def choice(text: str, num_choices: int) -> dict[str, Any]:
    letter = scienceqa.first_capital(text)
    return {"letter": letter or "FAILED", "index": scienceqa.index_of(letter, num_choices=num_choices)}


def percentages(right: dict[str, int], asked_: dict[str, int]) -> dict[str, str]:
    return {name: f"{100 * right[name] / asked_[name]:.2f}" for name in right}


def image_accuracy(counts: dict[str, int], _: None) -> dict[str, str]:
    image = 100 * counts["multimodal_correct"] / counts["multimodal_total"]
    return {"img_accuracy": f"{image:.2f}", "accuracy": f"{100 * counts['correct'] / counts['total']:.2f}"}


RUN: dict[str, Callable[[Any, Any], Any]] = {
    "vqa_normalize": lambda text, _: vqa_text.normalise(text),
    "vqa_normalize_vlt5": lambda text, _: vqa_text.normalise_without_commas(text),
    "vqa_normalize_evalai": lambda text, _: vqa_text.normalise_evalai(text),
    "vqa_preprocess_answer": lambda text, _: vqa_text.normalise_without_commas(text),
    "vqa_accuracy": lambda text, golds: two_decimals(vqa.official(text, golds)),
    "vqa_accuracy_vlt5_raw": lambda text, golds: two_decimals(vqa.vlpet(text, golds)),
    "vqa_accuracy_evalai": vqa.evalai,
    "vqa_accuracy_no_answer_id": lambda text, golds: 100 * vqa.leave_one_out(text, golds, have_ids=False),
    "vqa_accuracy_corpus": vqa_corpus,
    "vqa_soft_score": lambda count, _: vqa.soft_score(count),
    "vqa_topk_score": lambda texts, labels: sum(map(vqa.label_score, texts, labels)) / len(texts),
    "ptb_tokenize": lambda text, _: ptb.tokenize(text),
    "caption_pretokenized": caption_scores,
    "cider_pretokenized": caption_scores,
    "caption_full": whole_captions,
    "pope_parse": lambda text, _: pope.parse(text),
    "pope_metrics": pope_scores,
    "pope_llava": pope_llava,
    "pope_from_counts": pope_counts,
    "mme_task_score": lambda texts, golds: mme_scores({"count": texts}, {"count": golds})["count"],
    "mme_full": mme_full,
    "mme_sum": lambda scores, _: mme.add_up(scores, subtasks=mme.PERCEPTION),
    "scienceqa_scores": scienceqa_scores,
    "scienceqa_denominators": percentages,
    "scienceqa_extract_memvp": choice,
    "scienceqa_extract_gpt3": lambda text, _: scienceqa.sentence(text) or "FAILED",
    "sqa_llava": sqa_scores,
    "sqa_image_accuracy": image_accuracy,
    "gqa_accuracy": gqa_scores,
    "gqa_llava_postprocess": lambda texts, _: [gqa.llava_postprocess(text) for text in texts],
    "tvqa_accuracy": lambda texts, golds: by_index(
        texts, {name: index for show in golds["solution"].values() for name, index in show.items()}
    ),
    "how2qa_accuracy": lambda texts, golds: by_index(texts, {str(g["qid"]): g["answer_idx"] for g in golds}),
    "tvqa_generative": tvqa_generative,
    "mmbench_can_infer": lambda text, options: mmbench_letters.current(text, options) or False,
    "mmbench_can_infer_legacy": lambda text, options: mmbench_letters.rules_2023(text, options) or False,
    "mmbench_circular": circular,
    "mmbench_submission_columns": lambda columns, _: submission_columns(columns),
    "prompt_scienceqa_memvp": released_prompt,
    "prompt_scienceqa_llava": llava_prompt,
    "prompt_llava": chat_prompt,
}
