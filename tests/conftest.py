"""What every test gets: the repository's root, one thread per process, and no way to reach a model hub.

`make test` runs two processes. Tests of one file stay together, since they share what is slow to make; those that
start Ray share one process, so that never more than one cluster competes for the cores, and come first, since they take
longest.
"""

import os
from pathlib import Path
from typing import Any

import pytest

# Before torch or transformers is imported anywhere: the tests measure no speed and need no network.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
os.environ.setdefault("DS_ACCELERATOR", "cpu")
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")


_ON_RAY = (
    "tests/e2e/",
    "tests/train/launch/test_workers.py",
    "tests/test_benchmarks.py::test_smallest_setting_writes_a_result[train_overhead]",
)
# A file that takes most of a minute and comes last would keep one process at work while the other waits.
_LONG = (
    "tests/train/engines/test_deepspeed.py",
    "tests/train/engines/test_zero3.py",
    "tests/train/inference/test_predict.py",
    "tests/pipelines/test_recipes.py",
    "tests/pipelines/test_benchmark_jobs.py",
    "tests/data/shards/test_killed_writer.py",
    "tests/test_benchmarks.py",
)


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests on Ray first, then those of long files."""
    items.sort(key=lambda item: (not item.nodeid.startswith(_ON_RAY), not item.nodeid.startswith(_LONG)))


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Any) -> Any:
    """Which tests stay together when there are several processes."""
    from xdist.scheduler import LoadScopeScheduling

    class ByFile(LoadScopeScheduling):
        def _split_scope(self, nodeid: str) -> str:
            return "ray" if nodeid.startswith(_ON_RAY) else nodeid.split("::")[0]

    return ByFile(config, log)


@pytest.fixture(scope="session")
def repository() -> Path:
    """The root of the checkout."""
    return Path(__file__).resolve().parents[1]
