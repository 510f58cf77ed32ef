"""What stands on a job's page comes from its files: scores recomputed with intervals, answers with their images."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from memvp_data.metrics.suite import score
from memvp_data.samples import Sample, Turn, write_samples
from memvp_data.shards import write_shards
from pipelines.evaluation.answer_and_score import score_answers
from pipelines.evaluation.model_states import ModelState
from pipelines.evaluation.questions import Asked, QuestionSet
from pipelines.evaluation.scores import ScoredSet
from pipelines.reports import benchmarks, instruct
from pipelines.reports.page import render
from pipelines.reports.page_content import Finished, make_page
from pipelines.reports.results import results_of
from pipelines.workflow.paths import samples_path
from pipelines.workflow.step import FinishedStep, StepRecord

MODEL = {"name": "memvp", "version": "3", "champion": False, "reason": "registered, but not the champion: too low"}
NUM = 8


def questions(*, images: bool = True) -> list[Sample]:
    return [
        Sample(
            id=f"q{number}", image_ids=(f"i{number // 2}",) if images else (), task="colour" if number % 2 else "shape",
            turns=(Turn("user", f"question {number} ?"),), answers=("red",),
        )
        for number in range(NUM)
    ]  # fmt: skip


def jpeg(side: int) -> bytes:
    file = io.BytesIO()
    Image.new("RGB", (side, side), "green").save(file, "JPEG")
    return file.getvalue()


def write_predictions(path: Path, *, num_right: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    texts = ["red"] * num_right + ["<b>blue</b>"] * (NUM - num_right)
    rows = [{"question_id": f"q{number}", "text": text} for number, text in enumerate(texts)]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def finished(folder: Path, name: str, summary: dict[str, Any], outputs: dict[str, Any] | None = None) -> FinishedStep:
    (folder / name).mkdir(exist_ok=True)
    return FinishedStep(StepRecord(name, "key", outputs or {}, summary, 1.5), folder / name, reused=False)


@pytest.fixture
def steps(tmp_path: Path) -> dict[str, FinishedStep]:
    """A finished job: one table with four images, a training curve of three steps."""
    made = {
        "build_shards": finished(
            tmp_path, "build_shards", {"images_digest": "1" * 64}, {"samples/image.parquet": {"sha256": "2" * 64}}
        ),
        "stage2": finished(tmp_path, "stage2", {}),
        "evaluate": finished(tmp_path, "evaluate", {}),
    }
    built = made["build_shards"].folder
    samples_path(built, "image").parent.mkdir()
    for name in ("image", "test_testdev"):
        write_samples(samples_path(built, name), questions())
    write_shards(built / "images", ((f"i{number}", {"jpg": jpeg(800)}) for number in range(4)), kind="images")
    rows = [{"step": step, "loss": 1.0 / step, "learning_rate": 0.1} for step in (1, 2, 3)]
    (made["stage2"].folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return made


def answered(
    steps: dict[str, FinishedStep], name: str, titles: dict[str, tuple[str, int]], *, benchmark: str, split: str
) -> FinishedStep:
    """A finished evaluation: state -> its title and how many of its answers are right."""
    table = "image" if split == "image" else f"test_{split}"
    questions_ = QuestionSet(benchmark, split, samples_path(steps["build_shards"].folder, table), "accuracy", "plain")
    done = finished(steps["build_shards"].folder.parent, name, {})
    asked = [Asked(ModelState(state, title, None, "own"), questions_) for state, (title, _) in titles.items()]
    for one in asked:
        write_predictions(done.folder / one.file("predictions", ".jsonl"), num_right=titles[one.state.name][1])
    done.record.summary["answered"] = score_answers(asked, folder=done.folder)
    return done


STATES = {"base": ("base language model, no image", 2), "stage2": ("stage 2 (+ LoRA)", 6)}


@pytest.fixture
def job(steps: dict[str, FinishedStep], tmp_path: Path) -> Finished:
    steps = {**steps, "evaluate": answered(steps, "evaluate", STATES, benchmark="", split="image")}
    report = {
        "name": "job", "rows": {"stage2": {"accuracy": 0.75}}, "trainable_parameters": {"stage1": 1, "stage2": 34960},
        "image_memory_bytes": 64, "seconds": {"evaluate": 60.0}, "registered_model": MODEL, "figures": [],
    }  # fmt: skip
    settings = {"name": "job", "hub": {"token": "***"}}
    return Finished(report, results_of(steps), instruct.FORM, steps, settings, tmp_path / "figures")


def test_scores_are_those_of_the_metric(job: Finished) -> None:
    (benchmark,) = make_page(job).benchmarks
    path = job.steps["evaluate"].folder / "predictions/stage2/image.jsonl"
    expected = score("accuracy", list(map(json.loads, path.read_text().splitlines())), questions())
    tuned = benchmark.scores["stage 2 (+ LoRA)"]
    assert list(tuned) == ["accuracy", "colour", "shape"]
    assert tuned["accuracy"] == expected.scores["accuracy"]
    assert tuned["shape"] == expected.scores["task shape"]
    difference = benchmark.differences["stage 2 (+ LoRA) minus base language model, no image"]
    assert difference.value == pytest.approx(50.0)
    assert difference.low <= 50 <= difference.high


def test_page_of_a_job_has_all_its_parts(job: Finished) -> None:
    page = make_page(job)
    assert page.verdict == (False, "Version 3 of memvp: registered, but not the champion: too low.")
    assert {picture.path.name for picture in page.pictures["Training"]} == {"loss.png", "learning_rate.png"}
    assert page.origins["digests (SHA-256) of the data"] == {
        "build_shards, samples/image.parquet": "2" * 64, "build_shards, manifest of images": "1" * 64,
    }  # fmt: skip
    assert "torch" in page.origins["versions"]
    source = render(page)
    assert "75.0 %" in source
    assert "&lt;b&gt;blue" in source
    assert "<b>blue" not in source


def test_answers_show_small_images_and_everybodys_answer(job: Finished) -> None:
    answers = make_page(job).answers
    assert len(answers) == NUM
    assert {answer.question for answer in answers} == {f"question {number} ?" for number in range(NUM)}
    first = next(answer for answer in answers if answer.question == "question 3 ?")
    assert dict(first.given) == {"base language model, no image": "<b>blue</b>", "stage 2 (+ LoRA)": "red"}
    assert first.image is not None
    assert max(Image.open(io.BytesIO(first.image)).size) == 384


@pytest.fixture
def compared(steps: dict[str, FinishedStep]) -> dict[str, FinishedStep]:
    """Two adapters that answered one benchmark, in a step each."""
    rows = {"mine": 6, "base": 2}
    made = {
        f"answers/gqa/{who}": answered(steps, f"answers-{who}", {"own": (who, right)}, benchmark="gqa", split="testdev")
        for who, right in rows.items()
    }
    return {**steps, **made}


def test_page_of_benchmarks(compared: dict[str, FinishedStep], tmp_path: Path) -> None:
    results = results_of(compared)
    report = {
        "name": "compare", "seconds": {"x": 6.0}, "trainable_parameters": None, "registered_model": None,
    }  # fmt: skip
    page = make_page(Finished(report, results, benchmarks.FORM, compared, {}, tmp_path / "figures"))
    (benchmark,) = page.benchmarks
    assert page.verdict is None
    assert benchmark.title == "gqa, testdev"
    assert benchmark.scores["mine"]["accuracy"].value == 75
    assert benchmark.differences["base minus mine, accuracy"].value == -50
    assert benchmark.notes == ("4 images are few: such intervals are too narrow, 30 and more are trustworthy",)
    assert len(page.answers) == NUM
    assert "nan" not in render(page).split("</style>")[1]


def test_an_undefined_score_is_shown_as_none(compared: dict[str, FinishedStep], tmp_path: Path) -> None:
    for done in compared.values():
        for one in done.record.summary.get("answered", ()):
            one["report"]["scores"]["accuracy"] |= {"value": None, "low": None, "high": None}
    report = {"name": "x", "seconds": {}, "trainable_parameters": None, "registered_model": None}
    page = make_page(Finished(report, results_of(compared), benchmarks.FORM, compared, {}, tmp_path / "figures"))
    assert "nan" not in render(page).split("</style>")[1]


def test_differences_are_those_of_scoring_both_files_together(compared: dict[str, FinishedStep]) -> None:
    (asked,) = results_of(compared)
    assert isinstance(asked, ScoredSet)
    (pair,) = benchmarks.FORM.pairs(asked)
    texts = [list(map(json.loads, row.predictions.read_text().splitlines())) for row in pair]
    together = score("accuracy", texts[0], questions(), other=texts[1])
    assert asked.differences([pair])["base", "mine"] == together.differences
