"""Jobs on benchmarks from end to end, in this process: tune on one, compare adapters on two, with official scores."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from memvp_data.metrics.pairing import read_predictions
from memvp_data.metrics.suite import score
from memvp_data.samples import read_samples
from pipelines.jobs.command_line import read_arguments
from pipelines.jobs.dry_run import describe_job
from pipelines.jobs.entry import run_entry
from pipelines.jobs.kinds import COMPARISON, FINETUNE
from tests.pipelines.loaded_modules import slow_imports

MODELS = """
language: {path: toyworld/language}
vision: {path: toyworld/vision, layer: -2, tokens: patches, preprocessing: toyworld_96}
launch: {num_workers: 0}
"""
TASK = f"""
name: task
data: {{dataset: gqa, train: train, tests: [testdev, val], toyworld: {{num_images: 8}}}}
{MODELS}
memvp: {{vision_hidden_size: 128, num_slots: 40, projector_hidden_sizes: [8]}}
stage: {{num_steps: 2, global_batch_size: 4, micro_batch_size: 4, template: toyworld, max_length: 64}}
answers: {{max_new_tokens: 2, shown: [own, none, other]}}
"""
COMPARED = f"""
name: compared
adapters: {{base: null}}
benchmarks: {{gqa: testdev, pope: random}}
data: {{toyworld: {{num_images: 8}}}}
{MODELS}
templates: {{gqa: toyworld, pope: toyworld}}
answers: {{max_new_tokens: 2, shown: [own]}}
"""


@pytest.fixture(scope="module", autouse=True)
def own_database() -> Iterator[None]:
    """Tests before these may have told MLflow of another one, which MLflow keeps in the environment."""
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("MLFLOW_TRACKING_URI", raising=False)
        yield


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> Path:
    folder = tmp_path_factory.mktemp("benchmarks")
    shutil.copy(empty_database, folder / "mlflow.db")
    for name, text in (("task", TASK), ("compared", COMPARED)):
        (folder / f"{name}.yaml").write_text(text)
    return folder


def task(storage: Path, *arguments: str) -> list[str]:
    return ["--config", str(storage / "task.yaml"), f"--storage={storage}", *arguments]


@pytest.fixture(scope="module")
def report(storage: Path) -> dict[str, Any]:
    """The task, in two submissions."""
    assert run_entry(FINETUNE, task(storage, "--until=extract_features")) == 0
    assert not (storage / "task/report.json").exists()
    assert not (storage / "task/tune").exists()
    assert run_entry(FINETUNE, task(storage, "--from=tune")) == 0
    return json.loads((storage / "task/report.json").read_text())


def test_what_was_done_before_is_used(report: dict[str, Any]) -> None:
    assert report["reused"] == ["build_shards", "extract_features"]


def test_a_stage_is_known_by_its_adapter_and_not_by_its_seconds(report: dict[str, Any], storage: Path) -> None:
    (record,) = storage.glob("task/tune/*/step.json")
    outputs = json.loads(record.read_text())["outputs"]
    assert {Path(name).parts[0] for name in outputs} == {"adapter"}
    assert "seconds" in (record.parent / "metrics.jsonl").read_text()


def test_a_comparison_of_an_adapter_that_is_not_there_is_refused_at_once(
    storage: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["--config", str(storage / "compared.yaml"), f"--storage={storage}", "--adapters.tuned=/no/where"]
    for more in ([], ["--dry-run"]):
        assert run_entry(COMPARISON, [*arguments, "--name=absent", *more]) == 2
        assert "adapters.tuned: /no/where has no adapter_config.json" in capsys.readouterr().err
    assert not (storage / "absent").exists()


def test_scores_are_those_of_the_files(report: dict[str, Any], storage: Path) -> None:
    assert list(report["benchmarks"]) == ["gqa, testdev", "gqa, val"]
    for title, rows in report["benchmarks"].items():
        assert list(rows) == ["tuned", "tuned, no image", "tuned, image of another question"]
        (table,) = storage.glob(f"task/build_shards/*/samples/test_{title.partition(', ')[2]}.parquet")
        for row in rows.values():
            again = score("gqa", read_predictions(row["predictions"]), read_samples(table)).as_json()
            assert row["scores"] == again["scores"]
            assert (row["n"], row["unparsable"]) == (again["n"], again["unparsable"])


def test_rows_are_compared_with_the_first(report: dict[str, Any]) -> None:
    first, *others = report["benchmarks"]["gqa, testdev"].values()
    assert first["differences"] == {}
    for row in others:
        expected = row["scores"]["accuracy"]["value"] - first["scores"]["accuracy"]["value"]
        assert row["differences"]["accuracy"]["value"] == pytest.approx(expected)


def test_from_refuses_what_is_not_finished(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_entry(FINETUNE, task(storage, "--name=fresh", "--from=tune")) == 2
    assert "build_shards is not finished under these settings, and --from leaves it out" in capsys.readouterr().err


def planned(storage: Path, *arguments: str) -> dict[str, str]:
    config, options = read_arguments(FINETUNE, task(storage, "--dry-run", *arguments))
    quiet = Console(quiet=True)
    plan = describe_job(FINETUNE, config, options=options, storage=storage, console=quiet)
    return {one.step: one.action for one in plan}


def test_dry_run_says_what_would_happen_and_does_nothing(report: dict[str, Any], storage: Path) -> None:
    before = sorted(storage.rglob("*"))
    steps = ["build_shards", "extract_features", "tune", "answers", "register"]
    assert planned(storage) == dict.fromkeys(steps, "re-use")
    assert planned(storage, "--answers.max_new_tokens=3") == dict.fromkeys(steps[:3], "re-use") | dict.fromkeys(
        steps[3:], "run"
    )
    assert planned(storage, "--data.toyworld.seed=1") == dict.fromkeys(steps, "run")
    assert planned(storage, "--data.toyworld.seed=1", "--from=tune")["build_shards"] == "refuse"
    assert sorted(storage.rglob("*")) == before


def test_job_that_reuses_everything_imports_nothing_slow_and_draws_nothing(
    report: dict[str, Any], storage: Path
) -> None:
    pages = [storage / "task/report.html", *(storage / "task/figures").iterdir()]
    drawn = {path: path.stat().st_mtime_ns for path in pages}
    assert run_entry(FINETUNE, task(storage)) == 0  # other jobs of these tests wrote to MLflow: it is asked once
    before = {path: path.stat().st_mtime_ns for path in (*pages, storage / "mlflow.db")}
    assert slow_imports("finetune.py", *task(storage, "--dry-run")) == set()
    assert slow_imports("finetune.py", *task(storage)) == set()
    assert {path: path.stat().st_mtime_ns for path in before} == before
    assert before.items() >= drawn.items()
    again = json.loads((storage / "task/report.json").read_text())
    assert again == report | {"reused": list(report["seconds"])}


def test_adapters_are_compared_on_benchmarks(report: dict[str, Any], storage: Path) -> None:
    arguments = ["--config", str(storage / "compared.yaml"), f"--storage={storage}"]
    assert run_entry(COMPARISON, [*arguments, f"--adapters.tuned={report['adapter']}"]) == 0
    compared = json.loads((storage / "compared/report.json").read_text())
    assert list(compared["benchmarks"]) == ["gqa, testdev", "pope, random"]
    for rows in compared["benchmarks"].values():
        assert list(rows) == ["base", "tuned"]
        assert rows["tuned"]["differences"]
    assert (storage / "compared/report.html").is_file()
    # One more adapter: nothing that is there is answered again.
    more = [f"--adapters.tuned={report['adapter']}", f"--adapters.again={report['adapter']}"]
    assert run_entry(COMPARISON, [*arguments, *more]) == 0
    again = json.loads((storage / "compared/report.json").read_text())
    assert {name for name in again["seconds"] if name not in again["reused"]} == {
        "answers/gqa/again",
        "answers/pope/again",
    }
    assert (
        again["benchmarks"]["gqa, testdev"]["again"]["scores"] == again["benchmarks"]["gqa, testdev"]["tuned"]["scores"]
    )


def test_unknown_benchmark_is_named(storage: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run_entry(COMPARISON, ["--config", str(storage / "compared.yaml"), "--benchmarks.vqa=test"]) == 2
    assert "there is no benchmark 'vqa'; known: vqav2, gqa" in capsys.readouterr().err


SPLITS = {
    "vqav2": "val", "vqav2_vl_t5": "karpathy_val", "gqa_vl_t5": "testdev", "coco": "test", "scienceqa": "test",
    "sqa_i": "test", "mme": "perception", "mmbench": "dev",
}  # fmt: skip


@pytest.mark.slow
@pytest.mark.parametrize("benchmark", SPLITS)
def test_every_benchmark_is_read_answered_and_scored(benchmark: str, storage: Path, report: dict[str, Any]) -> None:
    """GQA, POPE and, in the trials of their recipes, TVQA and How2QA are in the other tests."""
    text = COMPARED.replace("{gqa: testdev, pope: random}", f"{{{benchmark}: {SPLITS[benchmark]}}}")
    text = text.replace("{gqa: toyworld, pope: toyworld}", f"{{{benchmark}: toyworld}}")
    (storage / f"{benchmark}.yaml").write_text(text.replace("name: compared", f"name: {benchmark}"))
    arguments = ["--config", str(storage / f"{benchmark}.yaml"), f"--storage={storage}"]
    assert run_entry(COMPARISON, [*arguments, f"--adapters.tuned={report['adapter']}"]) == 0
    compared = json.loads((storage / benchmark / "report.json").read_text())
    (rows,) = compared["benchmarks"].values()
    assert list(rows) == ["base", "tuned"]
    assert all(row["n"] > 0 and row["scores"] for row in rows.values())
