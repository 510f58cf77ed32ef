"""Programs in processes of their own that need not import torch first: they are forked from one that has done it.

Such an import costs several seconds of processor time, more than most of these programs themselves.
"""

import multiprocessing
import os
import runpy
import sys
from collections.abc import Mapping
from contextlib import chdir
from multiprocessing import forkserver
from multiprocessing.process import BaseProcess
from pathlib import Path
from unittest.mock import patch

ROOT = Path(__file__).resolve().parents[1]
# One thread each, and no compiler: nothing here may need one.
_ALWAYS = {"OMP_NUM_THREADS": "1", "CC": "/nonexistent", "CXX": "/nonexistent"}
_CONTEXT = multiprocessing.get_context("forkserver")


def fork(program: str, *arguments: str, said: Path, variables: Mapping[str, str] | None = None) -> BaseProcess:
    """Start a module, or a script if `program` ends in .py, as `python` would in the root; what it prints is `said`."""
    process = _CONTEXT.Process(target=_run, args=(program, arguments, said, dict(variables or {})))
    with patch.dict(os.environ, _ALWAYS), chdir(ROOT):
        _CONTEXT.set_forkserver_preload(["tests.heavy_imports"])
        forkserver.ensure_running()
    process.start()
    return process


def _run(program: str, arguments: tuple[str, ...], said: Path, variables: dict[str, str]) -> None:
    os.environ.update(variables)
    os.chdir(ROOT)
    with open(said, "wb") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    sys.argv = [program, *arguments]
    if program.endswith(".py"):
        sys.path.insert(0, str(Path(program).parent.resolve()))
        runpy.run_path(program, run_name="__main__")
    else:
        runpy.run_module(program, run_name="__main__", alter_sys=True)
