"""Processes on this machine without Ray, a core each, that end with the process that started them.

Where models are small, threads of one process mostly wait for one another, and whatever else runs on the machine makes
all of them wait; processes meet once a step. They are forked from a server that has imported everything, so none pays
for imports or inherits a thread or a lock.
"""

import multiprocessing
import multiprocessing.forkserver
import os
import signal
import threading
from multiprocessing.connection import wait
from multiprocessing.context import ForkServerContext

from memvp_train.config import LaunchConfig, StageConfig
from memvp_train.launch.cores import num_cores
from memvp_train.launch.environment import environment

START_METHOD = "forkserver"
# What workers run, and the parts of transformers that are otherwise imported when a model is built.
_IMPORTED_ONCE = [
    "memvp_train.training.worker",
    "memvp_train.inference.predict",
    "memvp_train.features.extract",
    "peft",
    "transformers.models.auto.modeling_auto",
    "transformers.models.auto.tokenization_auto",
    "transformers.models.clip.modeling_clip",
    "transformers.models.llama.modeling_llama",
]


def num_processes(launch: LaunchConfig, stage: StageConfig | None = None) -> int:
    """`launch.local_processes`; for 0, one a core, or as many as share the micro-batches of `stage` equally."""
    if launch.local_processes or launch.use_gpu:
        return max(1, launch.local_processes)
    cores = num_cores()
    if stage is None:
        return cores
    shares = stage.global_batch_size / stage.micro_batch_size
    return next((count for count in range(cores, 1, -1) if shares % count == 0), 1)


def serve_processes() -> ForkServerContext:
    """Start the server that processes are forked from, once; returns what makes them.

    It imports in the background: start it early, and the first process need not wait.
    """
    context = multiprocessing.get_context(START_METHOD)
    context.set_forkserver_preload(_IMPORTED_ONCE)
    with environment({"OMP_NUM_THREADS": "1"}):
        multiprocessing.forkserver.ensure_running()
    return context


def begin_process() -> None:
    """The first thing that a process does: take one core, and end when the one that started it has, however it did."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # ctrl-C reaches the whole group; who started this one ends it
    import torch

    torch.set_num_threads(1)
    parent = multiprocessing.parent_process()
    assert parent is not None

    def follow() -> None:
        wait([parent.sentinel])
        os._exit(1)

    threading.Thread(target=follow, name="end-with-parent", daemon=True).start()
