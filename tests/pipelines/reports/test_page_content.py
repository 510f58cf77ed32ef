"""What stands on a job's page comes from its files: scores recomputed with intervals, answers with their images."""

import io
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from memvp_data.metrics.suite import score
from memvp_data.samples import Sample, Turn, write_samples
from memvp_data.shards import write_shards
from pipelines.reports.page import render
from pipelines.reports.page_content import Finished, benchmarks_page, instruct_page
from pipelines.workflow.paths import predictions_path, samples_path
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


@pytest.fixture
def instruct(steps: dict[str, FinishedStep], tmp_path: Path) -> Finished:
    for row, right in (("base", 2), ("stage2", 6)):
        write_predictions(predictions_path(steps["evaluate"].folder, row=row, name="image"), num_right=right)
    report = {
        "name": "job", "rows": {"stage2": {"accuracy": 0.75}}, "trainable_parameters": {"stage1": 1, "stage2": 34960},
        "image_memory_bytes": 64, "seconds": {"evaluate": 60.0}, "registered_model": MODEL, "figures": [],
    }  # fmt: skip
    return Finished(report, steps, {"name": "job", "hub": {"token": "***"}}, tmp_path / "figures")


def test_scores_are_those_of_the_metric(instruct: Finished) -> None:
    (benchmark,) = instruct_page(instruct).benchmarks
    path = predictions_path(instruct.steps["evaluate"].folder, row="stage2", name="image")
    expected = score("accuracy", list(map(json.loads, path.read_text().splitlines())), questions())
    tuned = benchmark.scores["stage 2 (+ LoRA)"]
    assert list(tuned) == ["accuracy", "colour", "shape"]
    assert tuned["accuracy"] == expected.scores["accuracy"]
    assert tuned["shape"] == expected.scores["task shape"]
    difference = benchmark.differences["stage 2 (+ LoRA) minus base language model, no image"]
    assert difference.value == pytest.approx(50.0)
    assert difference.low <= 50 <= difference.high


def test_page_of_a_job_has_all_its_parts(instruct: Finished) -> None:
    page = instruct_page(instruct)
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


def test_answers_show_small_images_and_everybodys_answer(instruct: Finished) -> None:
    answers = instruct_page(instruct).answers
    assert len(answers) == NUM
    assert {answer.question for answer in answers} == {f"question {number} ?" for number in range(NUM)}
    first = next(answer for answer in answers if answer.question == "question 3 ?")
    assert dict(first.given) == {"base language model, no image": "<b>blue</b>", "stage 2 (+ LoRA)": "red"}
    assert first.image is not None
    assert max(Image.open(io.BytesIO(first.image)).size) == 384


def benchmark_report(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    for row, right, differences in (("mine", 6, {}), ("base", 2, {"accuracy": [-50.0, -60.0, -40.0, 0.01]})):
        scores = {
            "accuracy": {"value": 100 * right / NUM, "low": 10.0, "high": 90.0, "n": NUM},
            "undefined": {"value": None, "low": None, "high": None, "n": 0},
        }
        named = {name: dict(zip(("value", "low", "high", "p"), one, strict=True)) for name, one in differences.items()}
        path = write_predictions(folder / f"{row}.jsonl", num_right=right)
        yield row, {"scores": scores, "differences": named, "notes": ["few images"], "n": NUM, "predictions": str(path)}


def test_page_of_benchmarks(steps: dict[str, FinishedStep], tmp_path: Path) -> None:
    report = {
        "name": "compare", "benchmarks": {"gqa, testdev": dict(benchmark_report(tmp_path))}, "seconds": {"x": 6.0},
        "trainable_parameters": None, "registered_model": None,
    }  # fmt: skip
    page = benchmarks_page(Finished(report, steps, {}, tmp_path / "figures"))
    (benchmark,) = page.benchmarks
    assert page.verdict is None
    assert benchmark.scores["mine"]["accuracy"].value == 75
    assert benchmark.differences["base minus mine, accuracy"].p == 0.01
    assert benchmark.notes == ("few images",)
    assert len(page.answers) == NUM
    assert "nan" not in render(page).split("</style>")[1]
