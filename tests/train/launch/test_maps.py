"""Maps on Ray: order, errors, and an actor that is killed at its work."""

import os
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import ray

from memvp_data.samples import SampleError, from_id
from memvp_train.inference.predict import answer
from memvp_train.launch.maps import map_actors, map_shards
from memvp_train.launch.session import LaunchError
from tests.train.busy_ray import busy_until_said
from tests.train.predictions import fragile_answerer, untrained_job


def test_workers_are_no_nicer_than_this_process(on_ray: str) -> None:
    # Ray's default is 15 above it: then whatever else runs on the machine starves the job.
    assert map_shards(lambda step: os.nice(step), [0]) == [os.nice(0)]


def test_map_keeps_the_order_and_the_error(on_ray: str) -> None:
    done: list[int] = []
    assert map_shards(from_id, ["a_sb", "c", "d_de"], on_done=done.append) == ["a/b", "c", "d.e"]
    assert done == [1, 2, 3]
    with pytest.raises(SampleError, match="not made by to_id"):
        map_shards(from_id, ["a", "_"])


def test_actors_write_the_file_that_this_process_writes_though_one_is_killed(
    tiny: Any, tmp_path: Path, on_ray: str
) -> None:
    job, killed = untrained_job(tiny, tmp_path), tmp_path / "killed"
    seen: list[int] = []
    out = answer(
        job,
        tmp_path / "on-ray.jsonl",
        map_actors=lambda make, items, **settings: map_actors(partial(fragile_answerer, killed), items, **settings),
        num_actors=2,
        progress=seen.append,
    )
    assert killed.exists()
    assert out.read_bytes() == answer(job, tmp_path / "here.jsonl").read_bytes()
    assert (seen[0], seen[-1]) == (0, 24)


def test_what_an_actor_refuses_is_raised_here(on_ray: str) -> None:
    with pytest.raises(SampleError, match="not made by to_id"):
        map_actors(lambda: from_id, ["a", "_"], num_actors=1)
    with pytest.raises(LaunchError, match=r"1 actor with 1 CPU and 99 GPUs each .* room for 0 .*; ask for less"):
        map_actors(lambda: from_id, ["a"], num_actors=1, gpus_per_actor=99)
    with pytest.raises(LaunchError, match=r"1 task with 99 CPUs and 0 GPUs each .* room for 0 .*; ask for less"):
        map_shards(from_id, ["a"], cpus_per_task=99)


@pytest.mark.parametrize("kind", [pytest.param("task", marks=pytest.mark.slow), "actor"])
def test_wait_for_room_is_said(kind: str, on_ray: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("memvp_train.launch.maps.SECONDS_BETWEEN", 0.2)
    cpus = int(ray.cluster_resources()["CPU"])
    line = f"waiting for room for 1 {kind} with {cpus} CPUs and 0 GPUs each: this Ray has {cpus} CPUs and 0 GPUs, "
    with busy_until_said(line, logger="memvp_train.launch.maps"):
        if kind == "task":
            assert map_shards(from_id, ["a_sb"], cpus_per_task=cpus) == ["a/b"]
        else:
            assert map_actors(lambda: from_id, ["a_sb"], num_actors=1, cpus_per_actor=cpus) == ["a/b"]
