"""The report of instruction tuning: every ablation on the job's own questions, accuracies between 0 and 1."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from pipelines.evaluation.model_states import ABLATIONS
from pipelines.evaluation.scores import Scored, ScoredSet, accuracy_of
from pipelines.reports.results import Report, ReportForm, Table
from pipelines.workflow.step import FinishedStep

# Reading order of the toy world's tasks; tasks of other data follow in alphabetical order.
TASK_ORDER = ("colour", "shape", "count", "exist", "compare", "spatial", "choice")
_STAGES = ("stage1", "stage2")
_TUNED = "stage2"
_EXTRA_SLICES = {"unseen": "unseen pairs", "text_only": "text-only"}
_TITLES = {
    "image": "Image questions",
    "unseen": "Image questions about pairs held out of the training",
    "text_only": "Questions whose answer is in the text",
    "described": "The image questions with the scene as text",
}


def _make(finished: Mapping[str, FinishedStep], results: Sequence[ScoredSet]) -> dict[str, Any]:
    """A row's own accuracy is over image questions only."""
    scores = {(row.state, one.split): accuracy_of(row.report) for one in results for row in one.rows}
    rows = {}
    for state in ABLATIONS:
        if (state.name, state.headline) in scores:
            extra = {name: scores[state.name, name] for name in _EXTRA_SLICES if (state.name, name) in scores}
            rows[state.name] = {"title": state.title, **scores[state.name, state.headline], **extra}
    stages = {stage: finished[stage].record.summary for stage in _STAGES}
    evaluated = finished["evaluate"]
    return {
        "rows": rows,
        "trainable_parameters": {stage: summary["trainable_parameters"] for stage, summary in stages.items()},
        "image_memory_bytes": evaluated.record.summary["image_memory_bytes"],
        "final_loss": {stage: summary["final_loss"] for stage, summary in stages.items()},
        "adapter": str(finished[_TUNED].folder / "adapter"),
        "figures": [str(evaluated.folder / path) for path in evaluated.record.summary["figures"]],
    }


def _table(report: Report) -> Table:
    """Accuracies in per cent, "-" where a row has no such questions."""
    rows = report["rows"]
    tasks = {task for row in rows.values() for task in row["by_task"]}
    ordered = [task for task in TASK_ORDER if task in tasks] + sorted(tasks - set(TASK_ORDER))
    extras = {name: title for name, title in _EXTRA_SLICES.items() if any(name in row for row in rows.values())}
    header = ["model state", "image questions", "n", *(task or "(no category)" for task in ordered), *extras.values()]
    lines = [
        [
            row["title"],
            _percent(row),
            str(row["n"]),
            *(_percent(row["by_task"].get(task)) for task in ordered),
            *(_percent(row.get(name)) for name in extras),
        ]
        for row in rows.values()
    ]
    return header, lines


def _percent(score: Mapping[str, Any] | None) -> str:
    return "-" if score is None else f"{100 * score['accuracy']:.1f}"


def _closing(report: Report) -> Iterator[str]:
    trainable = report["trainable_parameters"]
    yield f"trainable parameters: stage 1 {trainable['stage1']:,}, stage 2 {trainable['stage2']:,}"
    yield f"bytes per image memory: {report['image_memory_bytes']:,}"


def _numbers(report: Report) -> dict[str, float]:
    numbers = {f"accuracy/{row}": scores["accuracy"] for row, scores in report["rows"].items()}
    numbers |= {f"trainable_parameters/{stage}": count for stage, count in report["trainable_parameters"].items()}
    return {**numbers, "image_memory_bytes": report["image_memory_bytes"]}


def _facts(report: Report) -> dict[str, str]:
    best = report["rows"].get(_TUNED)
    right = {} if best is None else {"image questions right": f"{100 * best['accuracy']:.1f} %"}
    return {
        **right,
        "trained numbers": f"{report['trainable_parameters'][_TUNED]:,}",
        "bytes an image takes as memory": f"{report['image_memory_bytes']:,}",
    }


def _score_titles(names: Iterable[str]) -> dict[str, str]:
    """ "task colour" -> "colour", the toy world's tasks in their reading order."""
    titles = {name: name.removeprefix("task ") for name in names}
    place = {task: number for number, task in enumerate(("accuracy", *TASK_ORDER))}
    return dict(sorted(titles.items(), key=lambda item: (place.get(item[1], len(place)), item[1])))


def _pairs(results: ScoredSet) -> list[tuple[Scored, Scored]]:
    """The tuned model against every other row."""
    tuned = [row for row in results.rows if row.state == _TUNED]
    return [(one, other) for one in tuned for other in results.rows if other.state != _TUNED]


FORM = ReportForm(
    caption="right answers in per cent",
    lead="A language model given sight by memory-space visual prompts: how it was tuned, and what it answers.",
    unit="per cent",
    note="(also report.json and report.md)",
    make=_make,
    table=_table,
    closing=_closing,
    numbers=_numbers,
    facts=_facts,
    title=lambda results: _TITLES[results.split],
    score_titles=_score_titles,
    pairs=_pairs,
)
