"""One stage of tuning from settings to an adapter: `run_stage`, the function that pipelines call.

The driver checks everything that can be wrong, tokenises once, starts the workers and writes the adapter from the last
committed checkpoint. Called again after a crash it continues; called again when finished it returns what is there.
"""

import warnings
from collections.abc import Callable
from pathlib import Path

from memvp_train.checkpoints.lease import hold_lease
from memvp_train.config import LaunchConfig, StageRun
from memvp_train.training.drive import train
from memvp_train.training.identity import absolute, stage_settings
from memvp_train.training.metrics_log import METRICS_FILE, MetricsRow, following_metrics
from memvp_train.training.prepare import prepare_stage
from memvp_train.training.result import StageResult, finished_stage, publish
from memvp_train.training.start import harm_sentence


def run_stage(
    run: StageRun,
    launch: LaunchConfig,
    *,
    on_step: Callable[[MetricsRow], None] = lambda row: None,
    on_sample: Callable[[int], None] = lambda done: None,
) -> StageResult:
    """Train a stage, or continue it, or return it if it is done.

    `on_step` gets each row of metrics.jsonl once, from a thread, as it appears; `on_sample` the number of samples
    tokenised so far. Raises a `ValueError` with one sentence for whatever the caller can mend, before workers start.
    """
    base_name, run = run.language.path, absolute(run)
    settings = stage_settings(run, precision=launch.precision)
    out = Path(run.out)
    done = finished_stage(out, settings=settings)
    if done is not None:
        return done
    with hold_lease(out, doing="training in") as lease:
        plan = prepare_stage(run, launch, settings=settings, on_sample=on_sample)

        def hear(row: MetricsRow) -> None:
            if sentence := harm_sentence(row, run.memvp):
                warnings.warn(sentence, stacklevel=2)
            on_step(row)

        with following_metrics(out / METRICS_FILE, on_step=hear):
            state = train(plan, lease=lease)
        lease.check()
        return publish(plan, state=state, base_name=base_name)
