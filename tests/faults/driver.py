"""A driver as a process of its own, to be killed: `python -m tests.faults.driver job.json` prints each step."""

import json
import sys
import threading
from pathlib import Path

from memvp_train.config import LaunchConfig, StageRun, from_plain
from memvp_train.training.metrics_log import follow_metrics
from tests.faults.runs import disturbed

if __name__ == "__main__":
    values = json.loads(Path(sys.argv[1]).read_text())
    run, launch = from_plain(StageRun, values["run"]), from_plain(LaunchConfig, values["launch"])

    def follow() -> None:
        for row in follow_metrics(Path(run.out) / "metrics.jsonl", stop=threading.Event(), poll_seconds=0.05):
            print(int(row["step"]), flush=True)

    threading.Thread(target=follow, daemon=True).start()
    disturbed(run, launch, {"kind": "slow_down", "seconds": 0.15})  # so that the kill comes in its middle
