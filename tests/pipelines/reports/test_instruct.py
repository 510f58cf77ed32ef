"""report.json, the printed table and the Markdown say the same, in the issue's order."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image
from rich.console import Console

from pipelines.evaluation.model_states import ABLATIONS, Ablation, slices_of
from pipelines.evaluation.retrieval_figure import Panel, draw_retrieval_page
from pipelines.reports.instruct import FORM
from pipelines.reports.results import make_report, results_of
from pipelines.reports.written import markdown, print_report, tracking_command, write_report
from pipelines.workflow.step import FinishedStep, StepRecord

MODEL = {
    "name": "memvp",
    "version": "1",
    "uri": "models:/memvp@champion",
    "champion": True,
    "reason": "the new champion: 0.5 on image",
}


def score(value: float, **tasks: float) -> dict[str, Any]:
    """A report of the metric "accuracy": five questions of each task, shares in, per cent out."""
    found = {"accuracy": value} | {f"task {task}": part for task, part in tasks.items()}
    sizes = {name: 5 * (len(tasks) if name == "accuracy" else 1) for name in found}
    interval = {
        name: {"value": 100 * part, "low": 0.0, "high": 100.0, "n": sizes[name]} for name, part in found.items()
    }
    return {"scores": interval, "n": sizes["accuracy"], "unparsable": 0.0, "notes": []}


def finished(name: str, summary: dict[str, Any], *, reused: bool = False) -> FinishedStep:
    return FinishedStep(StepRecord(name, "key", {}, summary, 1.5), Path("/run") / name, reused)


def answered(ablation: Ablation, split: str) -> dict[str, Any]:
    report = score(0.5, shape=0.2, colour=0.8)
    return {"benchmark": "", "split": split, "table": split, "metric": "accuracy", "state": ablation.name,
            "row": ablation.title, "predictions": "p", "resampled": "r", "report": report}  # fmt: skip


def a_report() -> dict[str, Any]:
    slices = ("image", "unseen", "described")
    asked = [answered(ablation, name) for ablation in ABLATIONS for name in slices_of(ablation, slices=slices)]
    steps = {
        "build_shards": finished("build_shards", {}, reused=True),
        "stage1": finished("stage1", {"trainable_parameters": 10, "final_loss": 1.0}),
        "stage2": finished("stage2", {"trainable_parameters": 30, "final_loss": 0.5}),
        "evaluate": finished("evaluate", {"answered": asked, "image_memory_bytes": 64, "figures": ["figures/a.png"]}),
        "register": finished("register", MODEL),
    }
    return make_report(steps, results_of(steps), form=FORM, name="smoke")


def test_report_has_the_promised_fields(tmp_path: Path) -> None:
    write_report(a_report(), form=FORM, folder=tmp_path)
    report = json.loads((tmp_path / "report.json").read_text())
    assert list(report["rows"]) == [
        "base", "text_ceiling", "stage1", "stage2", "stage2_no_image", "stage2_other_image",
    ]  # fmt: skip
    assert report["rows"]["stage2"]["accuracy"] == 0.5
    assert report["rows"]["stage2"]["n"] == 10
    assert report["rows"]["stage2"]["by_task"]["colour"] == {"accuracy": 0.8, "n": 5}
    assert report["trainable_parameters"] == {"stage1": 10, "stage2": 30}
    assert report["image_memory_bytes"] == 64
    assert report["seconds"]["stage2"] == 1.5
    assert report["reused"] == ["build_shards"]


def test_tasks_stand_in_reading_order_and_gaps_are_dashes() -> None:
    header, lines = FORM.table(a_report())
    assert header == ["model state", "image questions", "n", "colour", "shape", "unseen pairs"]
    by_title = {line[0]: line[1:] for line in lines}
    assert by_title["stage 2 (+ LoRA)"] == ["50.0", "10", "80.0", "20.0", "50.0"]
    assert by_title["base language model reading the scene as text (the ceiling)"][-1] == "-"


def test_markdown_is_a_table() -> None:
    assert markdown(["a", "b"], [["x", "1"]]) == "| a | b |\n| --- | --: |\n| x | 1 |\n"


def test_printed_report_tells_where_to_look(tmp_path: Path) -> None:
    console = Console(record=True, width=160)
    print_report(a_report(), form=FORM, console=console, folder=tmp_path, tracking=("sqlite:////s/mlflow.db", "#/e"))
    text = console.export_text()
    for phrase in (
        "stage 2, image of another sample",
        "stage 1 10, stage 2 30",
        "bytes per image memory: 64",
        "build_shards",
        "version 1 of memvp: the new champion: 0.5 on image",
        "report.html",
    ):
        assert phrase in text
    assert "mlflow server --backend-store-uri sqlite:////s/mlflow.db" in text
    assert "(then open http://127.0.0.1:5000/#/e)" in text


def test_server_needs_no_command() -> None:
    assert tracking_command("http://mlflow:5000/", "#/e") == "http://mlflow:5000/#/e"
    assert tracking_command("http://mlflow:5000") == "http://mlflow:5000"
    assert tracking_command("https://ann:secret@mlflow:5000") == "https://***@mlflow:5000"


def test_states_answer_only_what_exists() -> None:
    ceiling, stage2 = ABLATIONS[1], ABLATIONS[3]
    assert slices_of(ceiling, slices=("image", "unseen", "text_only", "described")) == ["described", "text_only"]
    assert slices_of(stage2, slices=("image", "unseen", "text_only", "described")) == ["image", "unseen", "text_only"]
    assert slices_of(ceiling, slices=("image",)) == []


def test_retrieval_page_is_drawn(tmp_path: Path) -> None:
    heat = np.zeros((6, 6), dtype=np.float32)
    heat[0, 5] = 1
    panel = Panel(np.full((96, 96, 3), 0.5, dtype=np.float32), heat, "what colour is the star ?", {"right": "red"})
    draw_retrieval_page([panel] * 4, path=tmp_path / "page.png")
    with Image.open(tmp_path / "page.png") as picture:
        assert np.asarray(picture.convert("L")).std() > 5, "an empty page"


def test_scores_on_the_page_stand_in_reading_order() -> None:
    names = ["accuracy", "task shape", "task animals", "task count", "task colour"]
    assert list(FORM.score_titles(names).values()) == ["accuracy", "colour", "shape", "count", "animals"]
