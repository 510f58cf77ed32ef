"""A cluster of several nodes in one machine, two of which are taken away with notice while a run trains on them.

`python -m tests.faults.preempted job.json` writes the step of each notice and of its checkpoint to
notices.json in the folder of the run.
"""

import json
import sys
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray
from ray._raylet import GcsClient
from ray.cluster_utils import Cluster
from ray.core.generated import autoscaler_pb2

from memvp_train.checkpoints.state import newest_step
from memvp_train.config import LaunchConfig, StageRun, from_plain
from memvp_train.launch.heartbeat import Heartbeat, read_heartbeats
from memvp_train.launch.supervision import SIGNS_FOLDER
from memvp_train.training.drive import WORKERS_FOLDER
from tests.faults.runs import disturbed

NOTICE_SECONDS = 8
NODE = {"num_cpus": 1, "object_store_memory": 80_000_000}
PREEMPTION = autoscaler_pb2.DrainNodeReason.Value("DRAIN_NODE_REASON_PREEMPTION")


def sign_at(folder: Path, *, rank: int, step: int, old: set[int]) -> Heartbeat:
    """The rank's sign when a group without any of the processes `old` has begun the step."""
    while True:
        for sign in read_heartbeats(folder):
            if sign.rank == rank and (sign.step or 0) >= step and sign.pid not in old:
                return sign
        time.sleep(0.05)


def take_away(cluster: Cluster, nodes: list[Any], sign: Heartbeat) -> None:
    """Tell that the node of a worker goes, and take it at the deadline."""
    client = GcsClient(address=cluster.address)
    deadline = int((time.time() + NOTICE_SECONDS) * 1000)
    accepted, reason = client.drain_node(sign.node, PREEMPTION, "spot machine", deadline)
    assert accepted, reason
    time.sleep(NOTICE_SECONDS)
    cluster.remove_node(next(node for node in nodes if node.node_id == sign.node), allow_graceful=False)


if __name__ == "__main__":
    values = json.loads(Path(sys.argv[1]).read_text())
    run, launch = from_plain(StageRun, values["run"]), from_plain(LaunchConfig, values["launch"])
    train = Path(run.out) / WORKERS_FOLDER
    cluster = Cluster(initialize_head=True, head_node_args={**NODE, "num_cpus": 0})
    nodes = [cluster.add_node(**NODE) for _ in range(4)]  # two to train on, two to take their places
    ray.init(address=cluster.address, log_to_driver=False)
    seen: list[dict[str, int]] = []

    def disturb() -> None:
        old = set[int]()
        for rank, step in ((1, 8), (0, 26)):
            sign = sign_at(train / SIGNS_FOLDER, rank=rank, step=step, old=old)
            old = {each.pid for each in read_heartbeats(train / SIGNS_FOLDER)}
            take_away(cluster, nodes, sign)
            seen.append({"notice": sign.step or 0, "checkpoint": newest_step(train)})

    try:
        with ThreadPoolExecutor(1) as pool:
            done = pool.submit(disturb)
            disturbed(run, launch, {"kind": "slow_down", "seconds": 0.3})
            done.result(timeout=60)
        (Path(run.out) / "notices.json").write_text(json.dumps(seen))
    finally:
        ray.shutdown()
        cluster.shutdown()
