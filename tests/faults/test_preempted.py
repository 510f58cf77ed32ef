"""Nodes taken away with notice: a checkpoint just in time, and nothing lost though none was due."""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from tests.faults.runs import LAUNCH, as_job, assert_same_end, first_steps, skipped_and_doubled, stage_run
from tests.train.plans import plan_of

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(4000)]

STEPS = 50


def test_two_nodes_taken_away_with_notice(tiny: Any, tmp_path: Path, fault_row: Callable[..., None]) -> None:
    # Only the last step would have a checkpoint by itself. No failure is allowed: notices have a budget of their own.
    launch = replace(LAUNCH, max_failures=0)
    runs = {name: stage_run(tiny, tmp_path / name, num_steps=STEPS, checkpoint_every=1000) for name in ("out", "quiet")}
    tiny.train_ranks(plan_of(runs["quiet"], launch), num_ranks=2)
    job = as_job(runs["out"], launch, tmp_path / "job.json")
    environment = {**os.environ, "RAY_TRAIN_PREEMPTION_POLL_INTERVAL_S": "0.5", "RAY_AUTH_MODE": "disabled"}
    environment.pop("RAY_ADDRESS", None)
    done = subprocess.run(
        [sys.executable, "-m", "tests.faults.preempted", str(job)],
        capture_output=True,
        text=True,
        env=environment,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    seen = json.loads((tmp_path / "out" / "notices.json").read_text())
    assert [entry["notice"] <= entry["checkpoint"] for entry in seen] == [True, True]
    saved = [entry["checkpoint"] for entry in seen]
    assert first_steps(tmp_path / "out") == [1, *(step + 1 for step in saved)]
    prepared = plan_of(runs["out"], launch)
    assert skipped_and_doubled(tmp_path / "out", prepared, tiny) == (0, 0)
    assert_same_end(tmp_path / "out", tmp_path / "quiet", num_steps=STEPS)
    late = [entry["checkpoint"] - entry["notice"] for entry in seen]
    fault_row(
        goal="R3",
        fault="node taken away with notice",
        what_was_done="nodes of a ray.cluster_utils.Cluster drained as preempted, 8 s of notice, then killed",
        times=2,
        result=f"checkpoints at steps {saved[0]} and {saved[1]}, where none was due; weights bit-equal",
        figure=f"committed at most {max(late)} steps of 0.3 s after the notice; 0 samples skipped, 0 doubled",
    )
