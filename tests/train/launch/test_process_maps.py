"""Maps in processes without Ray: the order, errors, and a process that is killed at its work."""

import os
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from memvp_data.samples import SampleError, from_id
from memvp_train.inference.predict import answer
from memvp_train.launch.process_maps import map_processes, map_shard_processes
from memvp_train.launch.supervision import LaunchError
from tests.train.predictions import fragile_answerer, untrained_job


def test_map_keeps_the_order_and_the_error() -> None:
    done: list[int] = []
    names = map_shard_processes(from_id, ["a_sb", "c", "d_de"], num_processes=2, on_done=done.append)
    assert names == ["a/b", "c", "d.e"]
    assert done == [1, 2, 3]
    with pytest.raises(SampleError, match="not made by to_id"):
        map_shard_processes(from_id, ["a", "_"], num_processes=2)


def _numbers() -> Callable[[int], tuple[int, int, int]]:
    calls: list[int] = []

    def run(item: int) -> tuple[int, int, int]:
        calls.append(item)
        time.sleep(0.2)  # for the other to start
        return os.getpid(), len(calls), torch.get_num_threads()

    return run


def test_each_process_makes_its_function_once_and_takes_one_core() -> None:
    answers = map_processes(_numbers, range(6), num_actors=2)
    calls: dict[int, list[int]] = {}
    for pid, call, threads in answers:
        calls.setdefault(pid, []).append(call)
        assert threads == 1
    assert len(calls) == 2
    assert all(sorted(each) == list(range(1, len(each) + 1)) for each in calls.values())


class _Odd(Exception):
    """Cannot be made from its arguments again."""

    def __init__(self, *, reason: str) -> None:
        super().__init__(f"because of {reason}")


def _refuse(item: int) -> None:
    raise _Odd(reason="rain")


def _unmade() -> Callable[[int], int]:
    raise SampleError("no such table")


def test_whatever_is_raised_is_told() -> None:
    with pytest.raises(RuntimeError, match="_Odd: because of rain"):
        map_shard_processes(_refuse, [0], num_processes=1)
    with pytest.raises(SampleError, match="no such table"):
        map_processes(_unmade, [0], num_actors=1)


def test_processes_write_the_file_that_this_one_writes_though_one_is_killed(tiny: Any, tmp_path: Path) -> None:
    job = untrained_job(tiny, tmp_path)
    killed = tmp_path / "killed"

    def map_fragile(make: Any, items: Any, **settings: Any) -> list[Any]:
        return map_processes(partial(fragile_answerer, killed), items, **settings)

    out = answer(job, tmp_path / "apart.jsonl", map_actors=map_fragile, num_actors=2)
    assert killed.exists()
    assert out.read_bytes() == answer(job, tmp_path / "here.jsonl").read_bytes()


def test_one_that_dies_again_and_again_ends_the_map() -> None:
    with pytest.raises(LaunchError, match="died at the same item again and again"):
        map_processes(partial(fragile_answerer, None), [{"start": 10}], num_actors=1)
