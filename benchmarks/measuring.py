"""How the benchmarks measure: interleaved timings, bytes allocated, the machine, and where results are written."""

from __future__ import annotations

import argparse
import gc
import json
import os
import platform
import statistics
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch.profiler import ProfilerActivity, profile

RESULTS = Path(__file__).parent / "results"
_COUNTS = {"processor": False}
Call = Callable[[], Any]
Times = dict[str, list[float]]


def interleaved(calls: Mapping[str, Call], *, num_rounds: int, min_seconds: float = 0.0, wall: bool = False) -> Times:
    """Seconds of each call in every round; a round runs all of them, each round in another order.

    So a machine that slows down slows all alike. One call before the first round is not counted. Calls shorter than
    `min_seconds` are repeated within a round, and their mean counts. `wall` counts seconds on the wall in any case, for
    what works on several cores.
    """
    before, _COUNTS["processor"] = _COUNTS["processor"], _COUNTS["processor"] and not wall
    # What lives now is not looked at again, so that collecting before each measurement costs next to nothing.
    gc.collect()
    gc.freeze()
    repeats = {name: _repeats(call, min_seconds=min_seconds) for name, call in calls.items()}
    times: Times = {name: [] for name in calls}
    names = list(calls)
    for number in range(num_rounds):
        start = number % len(names)
        for name in names[start:] + names[:start]:
            times[name].append(timed(calls[name], repeats=repeats[name]))
    gc.unfreeze()
    _COUNTS["processor"] = before
    return times


def timed(call: Call, *, repeats: int = 1) -> float:
    """Mean seconds of a call. Garbage is collected before the clock starts."""
    gc.collect()
    start = clock()
    for _ in range(repeats):
        call()
    return (clock() - start) / repeats


def clock() -> float:
    """Seconds on the wall, or of the processor where `set_up` was told so."""
    return time.process_time() if _COUNTS["processor"] else time.perf_counter()


def _repeats(call: Call, *, min_seconds: float) -> int:
    call()
    return max(1, round(min_seconds / max(timed(call), 1e-7))) if min_seconds else 1


def ratio(times: Times, name: str, *, to: str) -> float:
    """Median over the rounds of the quotient inside a round."""
    return statistics.median(one / other for one, other in zip(times[name], times[to], strict=True))


def seconds(times: Times, name: str) -> float:
    """Median over the rounds."""
    return statistics.median(times[name])


def peak_bytes(call: Call) -> int:
    """The most that torch's CPU allocator held at any moment of a call, beyond what it held before."""
    # The profiler would tell of every start and stop.
    os.environ.setdefault("KINETO_LOG_LEVEL", "99")
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        call()
    # The events of the allocator have no public accessor but a trace file; they are what that file is written from.
    events = profiler.profiler.kineto_results.events()
    changes = sorted((event.start_ns(), event.nbytes()) for event in events if event.name() == "[memory]")
    held = peak = 0
    for _, change in changes:
        held += change
        peak = max(peak, held)
    return peak


def set_up(args: argparse.Namespace) -> dict[str, Any]:
    """Threads and clock as asked; what the numbers are taken on."""
    is_single = args.smoke or args.processor_time
    if args.threads or is_single:
        torch.set_num_threads(args.threads or 1)
    _COUNTS["processor"] = args.processor_time
    return {
        "cpu": _cpu_name(),
        "cores": os.cpu_count(),
        "threads": torch.get_num_threads(),
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "torch": torch.__version__,
        "load_before": round(os.getloadavg()[0], 1),
        "clock": "processor time of this process" if args.processor_time else "wall",
    }


def machine_line(facts: Mapping[str, Any]) -> str:
    """One line of it for a table's caption."""
    return (
        f"{facts['cpu']}, {facts['cores']} cores, {facts['threads']} threads, {facts['instructions']}, "
        f"torch {facts['torch']}; {facts['clock']}; load of the machine before the start {facts['load_before']}"
    )


def _cpu_name() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        return platform.processor()
    return next((line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine())


def parser(description: str | None) -> argparse.ArgumentParser:
    """The options that all these benchmarks have."""
    made = argparse.ArgumentParser(description=description)
    made.add_argument("--smoke", action="store_true", help="the smallest setting, in seconds; the numbers mean nothing")
    made.add_argument("--rounds", type=int, default=None, help="how often everything is measured")
    made.add_argument("--threads", type=int, default=None, help="threads of torch (default: torch's own choice)")
    made.add_argument(
        "--processor-time", action="store_true", help="count it, on one thread: for a machine that is busy"
    )
    made.add_argument("--out", type=Path, default=RESULTS, help="folder of the results (default: benchmarks/results)")
    return made


def write_result(folder: Path, name: str, content: Mapping[str, Any], *, facts: Mapping[str, Any]) -> Path:
    """Replace a result file whole. It holds the command, the date and the machine beside the numbers."""
    folder.mkdir(parents=True, exist_ok=True)
    # As typed in the repository's root: neither the interpreter's path nor the folder.
    words = " ".join(["python", f"benchmarks/{Path(sys.argv[0]).name}", *sys.argv[1:]])
    command = words.replace(f" --out {folder}", "")
    head = {"command": command, "date": time.strftime("%Y-%m-%d"), "machine": dict(facts)}
    path, partial = folder / f"{name}.json", folder / f"{name}.json.tmp"
    partial.write_text(json.dumps(head | dict(content), indent=1) + "\n", encoding="utf-8")
    partial.replace(path)
    return path


def mebibytes(count: float) -> str:
    """A number of bytes for people."""
    return f"{count / 2**20:.1f} MiB" if count >= 2**20 else f"{count / 2**10:.0f} KiB"
