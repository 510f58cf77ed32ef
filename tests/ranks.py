"""Runs a module of the tests in several processes that can form a gloo group."""

import tempfile
import time
from pathlib import Path

from tests.forks import fork
from tests.ports import free_port

# Idle, no group of the tests takes half a minute.
SECONDS = 600


def run_ranks(module: str, *arguments: str, num_ranks: int = 2) -> None:
    """`python -m module arguments` once per rank; all must end well in time, and none outlives this call."""
    with tempfile.TemporaryDirectory() as folder:
        group = {"WORLD_SIZE": str(num_ranks), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        group["TORCH_EXTENSIONS_DIR"] = f"{folder}/extensions"
        said = [Path(folder) / f"{rank}.txt" for rank in range(num_ranks)]
        ranks = [
            fork(module, *arguments, said=path, variables={**group, "RANK": str(rank), "LOCAL_RANK": str(rank)})
            for rank, path in enumerate(said)
        ]
        end = time.monotonic() + SECONDS
        try:
            for rank in ranks:
                rank.join(max(0, end - time.monotonic()))
        finally:
            for rank in ranks:
                rank.kill()
                rank.join()
        texts = [path.read_text(errors="replace") for path in said if path.is_file()]
        assert [rank.exitcode for rank in ranks] == [0] * num_ranks, "\n".join(texts)[-4000:]
