"""What the connected Ray has, whether machines may still come, and what is waited for."""

import json

import ray
from ray.experimental.internal_kv import _internal_kv_get, _internal_kv_put
from ray.util import placement_group_table

from memvp_train.config import LaunchConfig
from memvp_train.launch import resources
from memvp_train.launch.resources import Resources, counted

SECONDS_BETWEEN = 30.0
"""Between two lines that say what is waited for."""
# Ray's autoscaler (the monitor beside every head) writes down what it sees; with nothing to start machines with, it
# calls every machine by its id.
_STATUS_KEY, _NAMED_BY_ID = "__autoscaling_status", "node_{}"
_ONE_MACHINE_KEY = "memvp-one-machine"


def mark_one_machine() -> None:
    """Note in a Ray that was started for one job on this machine that no others will come."""
    _internal_kv_put(_ONE_MACHINE_KEY, b"1")


def check_room(wanted: Resources, *, count: int = 1, of: str = "worker") -> None:
    """Refuse what this Ray can never give. Raises LaunchError."""
    nodes = [node for node in ray.nodes() if node["Alive"]]
    status, names = _internal_kv_get(_STATUS_KEY), [node["NodeID"] for node in nodes]
    if _internal_kv_get(_ONE_MACHINE_KEY) or not may_grow(status, nodes=names):
        resources.check_room(wanted, count=count, of=of, machines=[Resources.of(node["Resources"]) for node in nodes])


def check_workers(launch: LaunchConfig) -> None:
    """Refuse more training workers than this Ray can ever hold at once. Raises LaunchError."""
    check_room(Resources.of_worker(launch), count=launch.num_workers)


def may_grow(status: bytes | None, *, nodes: list[str]) -> bool:
    """Whether an autoscaler may start machines, by what it wrote; yes when it wrote nothing (it does not always)."""
    report = json.loads(status or b"{}").get("autoscaler_report") or {}
    kinds = report.get("active_nodes") or {}
    return not kinds or not set(kinds) <= {_NAMED_BY_ID.format(node) for node in nodes}


def waiting_for(wanted: Resources, *, count: int, of: str) -> str:
    """The line that says what is waited for, and what there is."""
    has, free = Resources.of(ray.cluster_resources()), Resources.of(ray.available_resources())
    return f"waiting for room for {counted(count, of)} with {wanted} each: this Ray has {has}, free are {free}"


def waits_for_workers() -> bool:
    """Whether a group of this job's workers has no machines yet."""
    job = ray.get_runtime_context().get_job_id()
    # The id of a group ends with that of the job that made it.
    groups = [group for name, group in placement_group_table().items() if name.endswith(job)]
    return any(group["state"] in ("PENDING", "RESCHEDULING") for group in groups)
