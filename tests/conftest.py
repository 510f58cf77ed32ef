"""What every test gets: the repository's root, one thread per process, and no way to reach a model hub.

`make test` runs two processes. Tests of one file stay together, since they share what is slow to make; those on Ray
share one process and, where they start none of their own, one Ray, and come first, since they take longest.
"""

import gc
import os
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.ports import free_port

# Before torch or transformers is imported anywhere: the tests measure no speed and need no network.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
# Ray would let its workers wait until nobody else wants the processor.
os.environ.setdefault("RAY_worker_niceness", "0")

_ON_RAY = (
    "tests/e2e/",
    "tests/train/launch/test_maps.py",
    "tests/train/launch/test_workers.py",
    "tests/faults/test_drivers.py",
    "tests/faults/test_preempted.py",
    "tests/faults/test_workers.py",
    "tests/test_benchmarks.py::test_smallest_setting_writes_a_result[train_overhead]",
)
# A file that takes most of a minute and comes last would keep one process at work while the other waits.
_LONG = (
    "tests/faults/test_tracking_down.py",
    "tests/faults/test_two_launches.py",
    "tests/train/engines/test_deepspeed.py",
    "tests/train/engines/test_zero3.py",
    "tests/train/inference/test_predict.py",
    "tests/pipelines/test_recipes.py",
    "tests/pipelines/test_benchmark_jobs.py",
    "tests/core/test_architectures.py",
    "tests/data/shards/test_killed_writer.py",
    "tests/test_benchmarks.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on Ray first, then those of long files."""
    items.sort(key=lambda item: (not item.nodeid.startswith(_ON_RAY), not item.nodeid.startswith(_LONG)))


def pytest_collection_finish() -> None:
    """What is imported stays: the collector, which many tests call, need not look through it each time."""
    gc.collect()
    gc.freeze()


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Which tests stay together when there are several processes."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "ray" if nodeid.startswith(_ON_RAY) else nodeid.split("::")[0]

    return ByFile(config, log)


_shared_ray = ExitStack()


@pytest.fixture(scope="session")
def on_ray() -> str:
    """The address of the dashboard of a Ray on this machine, one for all tests of `_ON_RAY` that ask for it."""
    from memvp_train.config import LaunchConfig
    from memvp_train.launch.session import ray_session

    port = free_port()
    _shared_ray.enter_context(ray_session(LaunchConfig(num_workers=2, dashboard_port=port)))
    return f"http://127.0.0.1:{port}"


@pytest.hookimpl(trylast=True)
def pytest_runtest_teardown(nextitem: pytest.Item | None) -> None:
    """The other tests have the processor and the memory for themselves, and find no Ray."""
    if nextitem is None or not nextitem.nodeid.startswith(_ON_RAY):
        _shared_ray.close()


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]
