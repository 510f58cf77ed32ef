"""What can never be had is refused before any work; what may still come is waited for."""

import json
import os

import pytest

from memvp_train.config import ConfigError, LaunchConfig
from memvp_train.launch.cluster import may_grow
from memvp_train.launch.resources import Resources, check_machine, check_room
from memvp_train.launch.supervision import LaunchError

HEAD = Resources(2)
GPU_NODE = Resources(16, 8)


@pytest.fixture
def machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two cores, no GPU."""
    monkeypatch.setattr(os, "cpu_count", lambda: 2)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 0)


@pytest.mark.parametrize(
    ("launch", "sentence"),
    [
        (
            LaunchConfig(use_gpu=True),
            "num_workers=2 needs 2 GPUs, but torch sees 0 on this machine; set launch.use_gpu=f",
        ),
        (LaunchConfig(use_gpu=True, num_workers=0), "launch.num_workers=0 needs 1 GPU, but torch sees 0"),
        (LaunchConfig(cpus_per_worker=99), "launch.cpus_per_worker=99 is more than the 2 cores of this machine"),
        (LaunchConfig(num_workers=1000), "launch.num_workers=1000 would share the 2 cores .* set at most 8"),
    ],
    ids=["GPU", "GPU without Ray", "cores", "workers"],
)
def test_more_than_the_machine_has_is_refused(machine: None, launch: LaunchConfig, sentence: str) -> None:
    with pytest.raises(ConfigError, match=sentence):
        check_machine(launch)


@pytest.mark.parametrize(
    "launch",
    [LaunchConfig(num_workers=8), LaunchConfig(num_workers=0, local_processes=0), LaunchConfig(cpus_per_worker=2)],
)
def test_what_only_shares_the_cores_may_start(machine: None, launch: LaunchConfig) -> None:
    check_machine(launch)


@pytest.mark.parametrize(
    ("wanted", "count", "room"),
    [
        (Resources(1), 19, 18),
        (Resources(1, 1), 9, 8),
        (Resources(99), 1, 0),
        (Resources(3), 6, 5),
        (Resources(0, 0.1), 81, 80),
    ],
    ids=str,
)
def test_workers_must_fit_on_machines(wanted: Resources, count: int, room: int) -> None:
    check_room(wanted, count=room, of="worker", machines=[HEAD, GPU_NODE])
    with pytest.raises(LaunchError, match=rf"room for {room} \(18 CPUs and 8 GPUs on 2 machines\).* ask for less"):
        check_room(wanted, count=count, of="worker", machines=[HEAD, GPU_NODE])


def test_refusal_reads_as_a_sentence() -> None:
    with pytest.raises(LaunchError) as refused:
        check_room(Resources(1, 1), count=1, of="actor", machines=[HEAD])
    assert str(refused.value) == (
        "1 actor with 1 CPU and 1 GPU each is asked for, but this Ray has room for 0 (2 CPUs and 0 GPUs on 1 machine) "
        "and starts no machines by itself; ask for less or add machines first"
    )


@pytest.mark.parametrize(
    ("kinds", "grows"),
    [
        ({"node_a1": 1, "node_b2": 1}, False),
        ({"ray.head.default": 1}, True),
        ({"head": 1, "node_b2": 1}, True),
        ({}, True),
    ],
    ids=["ray start --head", "ray up", "both", "says nothing"],
)
def test_machines_come_where_an_autoscaler_has_kinds_of_them(kinds: dict[str, int], grows: bool) -> None:
    status = json.dumps({"autoscaler_report": {"active_nodes": kinds}}).encode()
    assert may_grow(status, nodes=["a1", "b2"]) == grows


@pytest.mark.parametrize("status", [None, b"{}", b'{"autoscaler_report": null}'])
def test_machines_may_come_where_nothing_is_known(status: bytes | None) -> None:
    assert may_grow(status, nodes=["a1"])
