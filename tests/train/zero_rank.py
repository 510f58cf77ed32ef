"""One rank of a gloo process group that trains a stage as a Ray worker would; started by conftest.py."""

import json
import sys
from pathlib import Path

import torch
import torch.distributed as dist

from memvp_train.checkpoints.state import FolderCheckpoints, TrainingState
from memvp_train.engines.deepspeed import import_deepspeed
from memvp_train.training.worker import train_worker


class RankCheckpoints:
    """Rank 0 writes, all wait."""

    def __init__(self, folder: Path) -> None:
        self._store = FolderCheckpoints(folder, keep=10)

    def candidates(self) -> list[Path]:
        return self._store.candidates()

    def check(self) -> None:
        self._store.check()

    def wanted(self) -> bool:
        return False

    def commit(self, state: TrainingState) -> None:
        if dist.get_rank() == 0:
            self._store.commit(state)
        dist.barrier()


def let_deepspeed_have_fp16() -> None:
    """DeepSpeed refuses fp16 on a CPU without fp16 instructions, where torch is only slow: enough for a test."""
    import_deepspeed(use_gpu=False).accelerator.get_accelerator().is_fp16_supported = lambda: True


if __name__ == "__main__":
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    for path in sys.argv[1:]:
        plan = json.loads(Path(path).read_text())
        if plan["launch"]["precision"] == "fp16":
            let_deepspeed_have_fp16()
        store = RankCheckpoints(Path(plan["run"]["out"]) / "checkpoints")
        train_worker(plan, device=torch.device("cpu"), checkpoints=store)
    dist.destroy_process_group()
