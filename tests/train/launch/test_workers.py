"""Training on Ray: a killed worker changes nothing; a port that is taken is said so first. Worse: tests/faults."""

import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from memvp_core import MemVPConfig, get_memvp_model
from memvp_data.samples import SampleError, from_id
from memvp_train.checkpoints.state import newest_first, read_state
from memvp_train.config import ConfigError, LaunchConfig, LoraSettings
from memvp_train.inference.generate import AnswerSettings
from memvp_train.inference.predict import ShardAnswerer, answer
from memvp_train.inference.prediction_job import PredictionJob
from memvp_train.launch.checks import check_launch
from memvp_train.launch.maps import map_actors, map_shards
from memvp_train.launch.session import LaunchError, ray_session
from memvp_train.models.language import build_language_model
from memvp_train.training.metrics_log import read_metrics
from memvp_train.training.stage import run_stage
from tests.train.plans import plan_of

NUM_STEPS = 100
LAUNCH = LaunchConfig(num_workers=2, max_failures=2)


def _run(tiny: Any, out: Path) -> Any:
    return tiny.run(out, lora=LoraSettings(rank=2, dropout=0.1), num_steps=NUM_STEPS, checkpoint_every=20, log_every=5)


@pytest.fixture(scope="module")
def undisturbed(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same two ranks without Ray, from the first step to the last."""
    out = tmp_path_factory.mktemp("undisturbed")
    tiny.train_ranks(plan_of(_run(tiny, out), LAUNCH), num_ranks=2)
    return out


def _assert_same(out: Path, undisturbed: Path) -> None:
    rows, expected = (read_metrics(folder / "metrics.jsonl") for folder in (out, undisturbed))
    assert [row["step"] for row in rows] == list(range(1, NUM_STEPS + 1))
    assert [row["loss"] for row in rows] == [row["loss"] for row in expected]
    found, wanted = (read_state(newest_first(folder)[0]) for folder in (out / "train", undisturbed / "checkpoints"))
    torch.testing.assert_close(found.weights, wanted.weights, rtol=0, atol=0)
    assert (out / "adapter" / "adapter_config.json").is_file()


@pytest.fixture(scope="module")
def session() -> Iterator[None]:
    with ray_session(LAUNCH):
        yield


def test_port_that_is_taken_is_named_before_anything_starts() -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(ConfigError, match=f"port {port} on 127.0.0.1 is in use .*set launch.dashboard_port"):
            check_launch(LaunchConfig(dashboard_port=port))
    check_launch(LaunchConfig(dashboard_port=port))


def test_ray_that_does_not_answer_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    code = (
        "from memvp_train.launch.workers import *\n"
        "try:\n"
        "    with ray_session(LaunchConfig()): pass\n"
        "except LaunchError as error: print(error)\n"
    )
    monkeypatch.setenv("RAY_ADDRESS", "127.0.0.1:1")
    before = time.monotonic()
    output = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert output.startswith("no Ray answers at RAY_ADDRESS=127.0.0.1:1")
    assert time.monotonic() - before < 60


@pytest.mark.faults
def test_killed_worker_is_replaced_and_training_ends_the_same(
    tiny: Any, tmp_path: Path, undisturbed: Path, session: None
) -> None:
    killed: list[int] = []

    def kill_one(row: dict[str, float]) -> None:
        if row["step"] >= 30 and not killed:
            workers = [
                p for p in psutil.Process().children(recursive=True) if "RayTrainWorker" in " ".join(p.cmdline())
            ]
            killed.append(workers[0].pid)
            os.kill(workers[0].pid, signal.SIGKILL)

    run_stage(_run(tiny, tmp_path), LAUNCH, on_step=kill_one)
    assert len(killed) == 1
    _assert_same(tmp_path, undisturbed)


def test_workers_are_no_nicer_than_this_process(session: None) -> None:
    # Ray's default is 15 above it: then whatever else runs on the machine starves the job.
    assert map_shards(os.nice, [0]) == [os.nice(0)]


def test_map_keeps_the_order_and_the_error(session: None) -> None:
    done: list[int] = []
    assert map_shards(from_id, ["a_sb", "c", "d_de"], on_done=done.append) == ["a/b", "c", "d.e"]
    assert done == [1, 2, 3]
    with pytest.raises(SampleError, match="not made by to_id"):
        map_shards(from_id, ["a", "_"])


def test_actors_write_the_file_that_this_process_writes_though_one_is_killed(
    tiny: Any, tmp_path: Path, session: None
) -> None:
    model = get_memvp_model(build_language_model(tiny.language), MemVPConfig.from_dict(tiny.memvp))
    model.save_pretrained(tmp_path / "adapter")
    job = PredictionJob(
        language=tiny.language,
        adapter=str(tmp_path / "adapter"),
        samples=str(tiny.samples),
        settings=AnswerSettings(template="toyworld", max_new_tokens=3, batch_size=2),
        features=str(tiny.features),
        samples_per_shard=5,
    )
    killed = tmp_path / "killed"

    def fragile() -> Callable[[Any], None]:
        answerer = ShardAnswerer()

        def run(item: Any) -> None:
            if item["start"] == 10 and not killed.exists():
                killed.touch()
                os.kill(os.getpid(), signal.SIGKILL)
            answerer(item)

        return run

    seen: list[int] = []
    out = answer(
        job,
        tmp_path / "on-ray.jsonl",
        map_actors=lambda make, items, **settings: map_actors(fragile, items, **settings),
        num_actors=2,
        progress=seen.append,
    )
    assert killed.exists()
    assert out.read_bytes() == answer(job, tmp_path / "here.jsonl").read_bytes()
    assert (seen[0], seen[-1]) == (0, 24)


def test_what_an_actor_refuses_is_raised_here(session: None) -> None:
    with pytest.raises(SampleError, match="not made by to_id"):
        map_actors(lambda: from_id, ["a", "_"], num_actors=1)
    with pytest.raises(LaunchError, match="no machine of this Ray has 1 CPUs and 99 GPUs for an actor; ask for less"):
        map_actors(lambda: from_id, ["a"], num_actors=1, gpus_per_actor=99)


def test_what_a_worker_refuses_is_raised_here(tiny: Any, tmp_path: Path, session: None) -> None:
    run = _run(tiny, tmp_path)
    with pytest.raises(LaunchError, match=r"(loss|grad_norm) is (nan|inf) at step \d+"):
        run_stage(
            replace(run, stage=replace(run.stage, learning_rate=1e30, max_grad_norm=0.0)),
            replace(LAUNCH, max_failures=0),
        )
