"""The job as a user runs it, in one process: once, again, and what it leaves behind. On Ray: test_job_on_ray.py."""

import base64
import json
import math
from pathlib import Path
from typing import Any

import pytest

from tests.e2e.e2e_jobs import IN_ONE_PROCESS, JobRun, job_command, run_command
from tests.pipelines.loaded_modules import slow_imports

STEPS = ["build_shards", "extract_features", "stage1", "stage2", "evaluate", "register"]
ROWS = ["base", "text_ceiling", "stage1", "stage2", "stage2_no_image", "stage2_other_image"]


def test_first_line_is_the_storage_path(undisturbed: JobRun) -> None:
    assert undisturbed.out.splitlines()[0] == str(undisturbed.folder.parent)


def test_every_step_was_made_and_timed(undisturbed: JobRun) -> None:
    assert list(undisturbed.report["seconds"]) == STEPS
    assert undisturbed.report["reused"] == []
    assert all(seconds > 0 for seconds in undisturbed.report["seconds"].values())


def test_report_has_all_rows_over_all_questions(undisturbed: JobRun) -> None:
    rows = undisturbed.report["rows"]
    assert list(rows) == ROWS
    counts = {name: row["n"] for name, row in rows.items()}
    assert len(set(counts.values())) == 1, counts
    for row in rows.values():
        assert 0 <= row["accuracy"] <= 1
        assert sum(task["n"] for task in row["by_task"].values()) == row["n"]


def test_table_is_printed_and_written(undisturbed: JobRun) -> None:
    for text in (undisturbed.out, (undisturbed.folder / "report.md").read_text()):
        assert "stage 2, image of another sample" in text
        assert "bytes per image memory" in text
    assert "mlflow server --backend-store-uri sqlite:///" in undisturbed.out


def test_trainable_counts_follow_from_the_settings(undisturbed: JobRun) -> None:
    counts = undisturbed.report["trainable_parameters"]
    size = {name: sum(t.numel() for t in undisturbed.adapter(name).values()) for name in ("stage1", "stage2")}
    assert counts == size
    assert counts["stage2"] > counts["stage1"]


def test_training_moved_the_weights_and_the_loss_is_finite(undisturbed: JobRun) -> None:
    before, after = undisturbed.adapter("stage1"), undisturbed.adapter("stage2")
    assert any(not bool((after[name] == before[name]).all()) for name in before)
    assert all(math.isfinite(row["loss"]) for stage in ("stage1", "stage2") for row in undisturbed.rows(stage))


def test_second_run_reuses_everything_quickly(undisturbed: JobRun) -> None:
    again = run_command(job_command(undisturbed.folder.parent, IN_ONE_PROCESS), folder=undisturbed.folder)
    assert again.code == 0, again.err
    assert again.report["reused"] == STEPS
    assert again.out.count("re-used") >= len(STEPS)
    assert again.report["rows"] == undisturbed.report["rows"]
    # Idle, it takes 5 s: no model is loaded.
    assert again.seconds < 50


def test_job_that_reuses_everything_imports_nothing_slow_and_draws_nothing(undisturbed: JobRun) -> None:
    made = [undisturbed.folder / "report.html", *(undisturbed.folder / "figures").iterdir()]
    before = {path: path.stat().st_mtime_ns for path in made}
    arguments = job_command(undisturbed.folder.parent, IN_ONE_PROCESS)[2:]
    assert slow_imports("instruct_tune.py", *arguments) == set()
    assert {path: path.stat().st_mtime_ns for path in made} == before


@pytest.fixture(scope="module")
def client(undisturbed: JobRun) -> Any:
    from mlflow import MlflowClient

    return MlflowClient(f"sqlite:///{undisturbed.folder.parent / 'mlflow.db'}")


def runs(client: Any) -> tuple[Any, dict[str, Any]]:
    """The parent run, and its children by step."""
    experiment = client.get_experiment_by_name("memvp")
    found = client.search_runs([experiment.experiment_id])
    (parent,) = [run for run in found if "mlflow.parentRunId" not in run.data.tags]
    children = [run for run in found if run.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    by_step = {run.data.tags["memvp.step"]: run for run in children}
    assert len(by_step) == len(children) == len(found) - 1
    return parent, by_step


def test_mlflow_has_one_parent_and_a_child_per_step(client: Any) -> None:
    parent, children = runs(client)
    assert sorted(children) == sorted(STEPS)
    assert {run.info.status for run in (parent, *children.values())} == {"FINISHED"}
    assert parent.data.params["stage2.lora.rank"] == "2"
    assert parent.data.metrics["accuracy/stage2"] >= 0


def test_mlflow_has_the_curves(client: Any, undisturbed: JobRun) -> None:
    _, children = runs(client)
    for stage in ("stage1", "stage2"):
        for name in ("loss", "learning_rate", "tokens_per_second"):
            points = client.get_metric_history(children[stage].info.run_id, name)
            logged = {point.step: point.value for point in points}
            assert logged == {row["step"]: row[name] for row in undisturbed.rows(stage)}


def test_mlflow_has_datasets_tables_and_pictures(client: Any) -> None:
    parent, children = runs(client)
    names = {entry.dataset.name for entry in children["build_shards"].inputs.dataset_inputs}
    assert {"samples-stage1", "samples-stage2", "images"} <= names
    (features,) = children["extract_features"].inputs.dataset_inputs
    assert len(features.dataset.digest) == 36
    read = {entry.dataset.name for entry in children["stage2"].inputs.dataset_inputs}
    assert read == {"samples-stage2", "features"}
    asked = {entry.dataset.name for entry in children["evaluate"].inputs.dataset_inputs}
    assert "samples-image" in asked
    assert names | read | asked <= {entry.dataset.name for entry in parent.inputs.dataset_inputs}
    figures = {item.path for item in client.list_artifacts(parent.info.run_id, "figures")}
    drawn = {"loss", "learning_rate", "grad_norm", "throughput", "memory", "retrieval"}
    assert {f"figures/{name}.png" for name in drawn} <= figures
    assert "figures/scores_1.png" in figures
    assert "scores.json" in {item.path for item in client.list_artifacts(children["evaluate"].info.run_id)}


def test_mlflow_has_a_model_per_checkpoint_with_its_scores(client: Any, undisturbed: JobRun) -> None:
    parent, children = runs(client)
    found = client.search_logged_models([parent.info.experiment_id], max_results=100)
    models = {model.name: model for model in found if model.source_run_id == children["stage2"].info.run_id}
    kept = undisturbed.folder.glob("stage2/*/checkpoints/**/state.json")
    steps = {json.loads(path.read_text())["step"] for path in kept}
    assert set(models) == {f"stage2-step-{step}" for step in steps} | {"stage2-adapter"}
    scores = {metric.key: metric.value for metric in models["stage2-adapter"].metrics}
    assert scores["accuracy/stage2/image"] == undisturbed.report["rows"]["stage2"]["accuracy"]
    assert scores["checkpoint/loss"] == undisturbed.rows("stage2")[-1]["loss"]


def test_report_page_stands_alone(client: Any, undisturbed: JobRun) -> None:
    page = (undisturbed.folder / "report.html").read_text(encoding="utf-8")
    assert "the new champion" in page
    assert "stage 2 (+ LoRA) minus base language model, no image" in page
    assert 'src="data:image/jpeg' in page
    assert ' src="http' not in page
    parent, _ = runs(client)
    assert "report.html" in {item.path for item in client.list_artifacts(parent.info.run_id)}


def test_registered_champion_answers_bytes_path_and_no_image(
    client: Any, undisturbed: JobRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    import mlflow
    import pandas

    mlflow.set_tracking_uri(client.tracking_uri)
    model = mlflow.pyfunc.load_model("models:/memvp@champion")
    (picture, *_) = sorted(undisturbed.folder.glob("build_shards/*/official_files/images/test/*.jpg"))
    question = "what colour is the circle ?"
    images = [picture.read_bytes(), str(picture), None]
    answers = model.predict(pandas.DataFrame({"image": images, "question": [question] * 3}))
    assert len(answers) == 3
    assert answers[0] == answers[1]
    assert list(model.predict([{"image": images[1], "question": question}])) == [answers[1]]
    with pytest.raises(Exception, match="row 0"):
        model.predict(pandas.DataFrame({"image": [b"no image"], "question": [question]}))


def test_served_champion_takes_base64_and_data_urls_and_no_paths(
    client: Any, undisturbed: JobRun, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What HTTP can carry; the variable is how MLflow's server tells its process which model to load."""
    import mlflow

    mlflow.set_tracking_uri(client.tracking_uri)
    model = mlflow.pyfunc.load_model("models:/memvp@champion")
    (picture, *_) = sorted(undisturbed.folder.glob("build_shards/*/official_files/images/test/*.jpg"))
    question, content = "what colour is the circle ?", base64.b64encode(picture.read_bytes()).decode()
    expected = list(model.predict([{"image": picture.read_bytes(), "question": question}]))
    url = f"data:image/jpeg;base64,{content}"
    assert list(model.predict([{"image": url, "question": question}])) == expected
    monkeypatch.setenv("__pyfunc_model_path__", "served")
    for image in (content, url):
        assert list(model.predict([{"image": image, "question": question}])) == expected
    with pytest.raises(
        Exception, match=r"row 0: expected the content of an image file in base64 .* a path is read"
    ) as no:
        model.predict([{"image": str(picture), "question": question}])
    assert str(picture) not in str(no.value)


def test_champion_gives_the_answers_of_the_evaluation(client: Any, undisturbed: JobRun) -> None:
    import mlflow
    import pandas

    mlflow.set_tracking_uri(client.tracking_uri)
    model = mlflow.pyfunc.load_model("models:/memvp@champion")
    (official,) = undisturbed.folder.glob("build_shards/*/official_files")
    (predicted,) = undisturbed.folder.glob("evaluate/*/predictions/stage2/image.jsonl")
    questions = [json.loads(line) for line in (official / "test/questions.jsonl").read_text().splitlines()][:8]
    expected = [json.loads(line)["text"] for line in predicted.read_text().splitlines()][:8]
    table = {
        "image": [str(official / "images" / row["image"]) for row in questions],
        "question": [row["text"] for row in questions],
    }
    assert list(model.predict(pandas.DataFrame(table))) == expected


def test_no_pickle_anywhere(undisturbed: JobRun) -> None:
    suffixes = {path.suffix for path in Path(undisturbed.folder.parent).rglob("*") if path.is_file()}
    assert not suffixes & {".pkl", ".pickle", ".pt", ".pth", ".bin", ".ckpt"}
