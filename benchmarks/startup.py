"""Processor seconds until a command that has nothing to do is done: --help, --dry-run, a job that re-uses everything.

    python benchmarks/startup.py                      (a minute or two: the smoke job runs once before)

Every command runs in a process of its own; the least of several runs counts, as other work on the machine only adds.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
JOB = ["pipelines/instruct_tune.py", "--config", "pipelines/recipes/smoke.yaml", "--launch.num_workers=0"]
SCRIPTS = ("instruct_tune", "finetune", "evaluate", "sweep", "plan")


def processor_seconds(arguments: list[str]) -> float:
    """Of `python <arguments>` and its children, user and system."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run([sys.executable, *arguments], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


def commands(storage: Path) -> dict[str, list[str]]:
    """What is measured, by name; the job below `storage` is finished."""
    helps = {f"{name}.py --help": [f"pipelines/{name}.py", "--help"] for name in SCRIPTS}
    return {
        **helps,
        "--dry-run, nothing made": [*JOB, f"--storage={storage / 'empty'}", "--dry-run"],
        "--dry-run, all made": [*JOB, f"--storage={storage}", "--dry-run"],
        "job, all made": [*JOB, f"--storage={storage}"],
    }


def main() -> None:
    """Measure, print, write startup.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "benchmarks/results", help="folder of startup.json")
    parser.add_argument("--smoke", action="store_true", help="each once: the numbers mean nothing")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        storage = Path(folder)
        subprocess.run([sys.executable, *JOB, f"--storage={storage}"], cwd=ROOT, stdout=subprocess.DEVNULL, check=True)
        found = {
            name: round(min(processor_seconds(command) for _ in range(1 if args.smoke else 3)), 2)
            for name, command in commands(storage).items()
        }
    for name, value in found.items():
        print(f"{name:28} {value:6.2f} s")
    result = {
        "command": f"python {' '.join(sys.argv)}",
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"cores": os.cpu_count(), "load_after": round(os.getloadavg()[0], 1)},
        "processor_seconds": found,
    }
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "startup.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
