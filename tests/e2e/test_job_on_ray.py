"""A job submitted to Ray: data by its tasks, training by two workers, answers by two actors, as in one process."""

import json
from pathlib import Path

import pytest

from pipelines.jobs.entry import run_entry
from pipelines.jobs.kinds import FINETUNE
from pipelines.jobs.services import Services
from tests.e2e.e2e_jobs import IN_ONE_PROCESS, ON_TWO_WORKERS, SECONDS_ON_RAY, JobRun, run_command, submit_command

RECIPE = """
name: on-ray
data: {dataset: gqa, train: train, tests: [testdev], toyworld: {num_images: 8}, max_shard_samples: 4}
language: {path: toyworld/language}
vision: {path: toyworld/vision, layer: -2, tokens: patches, preprocessing: toyworld_96}
memvp: {vision_hidden_size: 128, num_slots: 40, projector_hidden_sizes: [8], memory_dropout: 0.0}
stage:
  num_steps: 6
  global_batch_size: 8
  micro_batch_size: 2
  lora: {rank: 2, alpha: 4}
  template: toyworld
  max_length: 64
  checkpoint_every: 3
  log_every: 1
answers: {max_new_tokens: 2, shown: [own]}
launch: {zero_stage: 2, precision: fp32}
"""


@pytest.fixture(scope="module")
def storage(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("on-ray")
    (folder / "recipe.yaml").write_text(RECIPE)
    return folder


def settings(storage: Path, *overrides: str) -> list[str]:
    return [f"--config={storage / 'recipe.yaml'}", f"--storage={storage}", *overrides]


@pytest.fixture(scope="module")
def submitted(on_ray: str, storage: Path) -> JobRun:
    """The job on the Ray of the tests, to which the repository is sent."""
    command = submit_command(on_ray, "pipelines/finetune.py", *settings(storage, ON_TWO_WORKERS))
    run = run_command(command, folder=storage / "on-ray", seconds=SECONDS_ON_RAY, RAY_AUTH_MODE="token")
    assert run.code == 0, run.out[-3000:] + run.err[-3000:]
    return run


@pytest.fixture(scope="module")
def here(submitted: JobRun, storage: Path) -> JobRun:
    """The same job in this process."""
    return JobRun(storage / "here", run_entry(FINETUNE, settings(storage, "--name=here", IN_ONE_PROCESS)), "", "", 0)


def only(folder: Path, pattern: str) -> Path:
    (found,) = folder.glob(pattern)
    return found


def test_it_ends_as_one_does_here(submitted: JobRun, here: JobRun, storage: Path) -> None:
    assert here.code == 0
    assert str(storage) in submitted.out
    assert list(submitted.report["seconds"]) == list(here.report["seconds"])


def test_features_by_tasks_are_those_of_one_process(submitted: JobRun, here: JobRun) -> None:
    made = [only(run.folder, "extract_features/*/features") for run in (submitted, here)]
    files = [{path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()} for folder in made]
    assert len(files[0]) > 2
    assert files[0] == files[1]


def test_two_workers_train_as_one_process(submitted: JobRun, here: JobRun) -> None:
    assert list(submitted.folder.glob("tune/*/train/step-*"))
    assert not list(submitted.folder.glob("tune/*/checkpoints"))
    assert list(here.folder.glob("tune/*/checkpoints/step-*"))
    rows, expected = submitted.rows("tune"), here.rows("tune")
    assert [row["step"] for row in rows] == [row["step"] for row in expected] == [1, 2, 3, 4, 5, 6]
    # Sums over ranks add in another order.
    for name in ("loss", "grad_norm", "learning_rate"):
        assert [row[name] for row in rows] == pytest.approx([row[name] for row in expected], rel=1e-4)
    found, wanted = submitted.adapter("tune"), here.adapter("tune")
    assert found.keys() == wanted.keys()
    for name, tensor in wanted.items():
        # Adam's division magnifies the last bits.
        assert float((found[name] - tensor).abs().max()) < 1e-4, name


def test_actors_answer_as_one_process(submitted: JobRun, here: JobRun) -> None:
    paths = [
        row["predictions"] for run in (submitted, here) for row in run.report["benchmarks"]["gqa, testdev"].values()
    ]
    answers = [[json.loads(line) for line in Path(path).read_text().splitlines()] for path in paths]
    assert len(answers) == 2
    assert [row["question_id"] for row in answers[0]] == [row["question_id"] for row in answers[1]]
    texts = [[row["text"] for row in rows] for rows in answers]
    # Where two words are as likely, the last bits decide.
    assert sum(one != other for one, other in zip(*texts, strict=True)) <= len(texts[0]) / 20


def test_nothing_of_it_is_made_again_and_no_ray_is_asked_for(
    submitted: JobRun, storage: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refused(services: Services) -> None:
        raise AssertionError("there is nothing to run")

    monkeypatch.setattr(Services, "start_ray", refused)
    steps = list(submitted.report["seconds"])
    assert run_entry(FINETUNE, settings(storage, ON_TWO_WORKERS)) == 0
    assert submitted.report["reused"] == steps
