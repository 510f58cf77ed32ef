"""Runs on Ray that are disturbed: what a worker does to itself, how a run is started, and what must come out of it."""

import json
import os
import signal
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow.fs
import ray.train
import torch
import torch.distributed as dist

import memvp_data.dataloader.loader
from memvp_train.checkpoints.lease import hold_lease
from memvp_train.checkpoints.state import CheckpointStore, TrainingState, newest_first, read_state
from memvp_train.config import LaunchConfig, LoraSettings, StageRun
from memvp_train.launch.workers import run_workers
from memvp_train.training.drive import WORKERS_FOLDER
from memvp_train.training.metrics_log import read_metrics
from memvp_train.training.plan import WorkerPlan
from memvp_train.training.worker import train_worker
from tests.train.plans import plan_of

LAUNCH = LaunchConfig(num_workers=2, max_failures=3)
AUDIT = "audit.jsonl"


def stage_run(tiny: Any, out: Path, *, num_steps: int, checkpoint_every: int, log_every: int = 1) -> StageRun:
    """A stage with LoRA and dropout: wrong random numbers after a restart would show."""
    settings = {"num_steps": num_steps, "checkpoint_every": checkpoint_every, "log_every": log_every}
    return tiny.run(out, lora=LoraSettings(rank=2, dropout=0.1), **settings)


def disturbed(run: StageRun, launch: LaunchConfig, *faults: dict[str, Any]) -> WorkerPlan:
    """Run the workers to their end with faults (see `faulty_worker`); returns what was run."""
    out = Path(run.out)
    out.mkdir(parents=True, exist_ok=True)
    with hold_lease(out, doing="training in") as lease:
        plan = plan_of(run, launch)
        config = {**plan.to_plain(), "faults": faults}
        run_workers(faulty_worker, config=config, launch=launch, name=WORKERS_FOLDER, storage=out, lease=lease)
    return plan


def faulty_worker(
    config: dict[str, Any],
    *,
    device: torch.device,
    checkpoints: CheckpointStore,
    beat: Callable[[int, Sequence[str]], None],
) -> None:
    """train_worker, writing the ids of each step's samples, and doing each of config["faults"] to itself.

    A fault is {"kind": name of a function of this file, "rank": who, "step": when (steps from 1), "times": how often}.
    """
    out, rank = Path(config["run"]["out"]), dist.get_rank()

    def audit(step: int, samples: Sequence[str]) -> None:
        beat(step, samples)
        if samples:
            line = json.dumps({"pid": os.getpid(), "rank": rank, "step": step + 1, "samples": list(samples)})
            with open(out / AUDIT, "a") as file:
                file.write(line + "\n")

    for fault in config["faults"]:
        if fault.get("rank", rank) == rank:
            audit, checkpoints = globals()[fault["kind"]](audit, checkpoints, fault=fault, out=out)
    train_worker(config, device=device, checkpoints=checkpoints, beat=audit)


def is_due(fault: dict[str, Any], *, step: int, out: Path) -> bool:
    """Whether the fault happens at this step, given how often it has happened."""
    if step != fault["step"]:
        return False
    marks = len(list(out.glob(f"fault-{fault['kind']}-*")))
    if marks >= fault.get("times", 1):
        return False
    (out / f"fault-{fault['kind']}-{marks}").touch()
    return True


def _at_step(audit: Any, checkpoints: Any, action: Callable[[], object], *, fault: dict[str, Any], out: Path) -> Any:
    def acting(step: int, samples: Sequence[str]) -> None:
        audit(step, samples)
        if samples and is_due(fault, step=step + 1, out=out):
            action()

    return acting, checkpoints


def die(*arguments: Any, **options: Any) -> Any:
    """SIGKILL to itself in a step."""
    return _at_step(*arguments, lambda: os.kill(os.getpid(), signal.SIGKILL), **options)


def stop(*arguments: Any, **options: Any) -> Any:
    """SIGSTOP to itself in a step: the process is there and does nothing."""
    return _at_step(*arguments, lambda: os.kill(os.getpid(), signal.SIGSTOP), **options)


def slow_down(audit: Any, checkpoints: Any, *, fault: dict[str, Any], out: Path) -> Any:
    """Steps as long as those of a larger model: there must be time to do something to them."""

    def slow(step: int, samples: Sequence[str]) -> None:
        audit(step, samples)
        if samples:
            time.sleep(fault["seconds"])

    return slow, checkpoints


def crash(*arguments: Any, **options: Any) -> Any:
    """An exception at a sample, as a faulty decoder raises it."""

    def action() -> None:
        raise RuntimeError("this sample cannot be read")

    return _at_step(*arguments, action, **options)


def lock_loader(audit: Any, checkpoints: Any, *, fault: dict[str, Any], out: Path) -> Any:
    """A loader process that waits for ever for what never comes."""

    whole = memvp_data.dataloader.loader.TrainingBatches.at

    def locked(batches: memvp_data.dataloader.loader.TrainingBatches, step: int) -> Any:
        if is_due(fault, step=step + 1, out=out):
            time.sleep(3600)
        return whole(batches, step)

    memvp_data.dataloader.loader.TrainingBatches.at = locked  # in this process and in those that it starts
    return audit, checkpoints


class _Store:
    """The same checkpoints, with something done around a commit."""

    def __init__(self, store: CheckpointStore, *, before: Callable[[TrainingState], None], after: Any = None) -> None:
        self._store, self._before, self._after = store, before, after
        self.candidates, self.check, self.wanted = store.candidates, store.check, store.wanted

    def commit(self, state: TrainingState) -> None:
        self._before(state)
        self._store.commit(state)
        if self._after is not None:
            self._after(state)


def _kill(*ignored: Any, **also: Any) -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def die_before_report(audit: Any, checkpoints: Any, *, fault: dict[str, Any], out: Path) -> Any:
    """SIGKILL when the step is done and nothing of its checkpoint is written."""
    return audit, _Store(checkpoints, before=lambda state: is_due(fault, step=state.step, out=out) and _kill())


def die_in_upload(audit: Any, checkpoints: Any, *, fault: dict[str, Any], out: Path) -> Any:
    """SIGKILL when one of the files of the checkpoint is in its place and the others are not."""

    def before(state: TrainingState) -> None:
        if is_due(fault, step=state.step, out=out):
            pyarrow.fs.copy_files = _copy_one_and_die

    return audit, _Store(checkpoints, before=before)


def _copy_one_and_die(source: str, destination: str, **ignored: Any) -> None:
    data = (Path(source) / "weights.safetensors").read_bytes()
    (Path(destination) / "weights.safetensors").write_bytes(data)
    _kill()


def die_after_report(audit: Any, checkpoints: Any, *, fault: dict[str, Any], out: Path) -> Any:
    """SIGKILL between report() and the commit barrier."""

    def before(state: TrainingState) -> None:
        if is_due(fault, step=state.step, out=out):
            ray.train.get_all_reported_checkpoints = _kill  # type: ignore[assignment]

    return audit, _Store(checkpoints, before=before)


def die_after_commit(audit: Any, checkpoints: Any, *, fault: dict[str, Any], out: Path) -> Any:
    """SIGKILL when the checkpoint is committed and the next step has not begun."""

    def after(state: TrainingState) -> None:
        if is_due(fault, step=state.step, out=out):
            _kill()

    return audit, _Store(checkpoints, before=lambda state: None, after=after)


def fill_disk(audit: Any, checkpoints: Any, *, fault: dict[str, Any], out: Path) -> Any:
    """No file of this process may grow any more, as on a full disk."""
    import resource

    def before(state: TrainingState) -> None:
        if is_due(fault, step=state.step, out=out):
            resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))

    return audit, _Store(checkpoints, before=before)


def fail_to_write(audit: Any, checkpoints: Any, *, fault: dict[str, Any], out: Path) -> Any:
    """An input/output error of the storage in a commit."""

    def before(state: TrainingState) -> None:
        if is_due(fault, step=state.step, out=out):
            raise OSError(5, "Input/output error", str(out))

    return audit, _Store(checkpoints, before=before)


def audit_rows(out: Path) -> list[dict[str, Any]]:
    """What the workers wrote, in order; a line that a kill cut off is left out."""
    lines = (out / AUDIT).read_text().split("\n")[:-1]
    return [json.loads(line) for line in lines if line.endswith("}")]


def skipped_and_doubled(out: Path, plan: WorkerPlan, tiny: Any) -> tuple[int, int]:
    """Samples of the run's last history of each step that are missing, and that are there twice or do not belong."""
    last: dict[int, dict[int, list[str]]] = {}
    for row in audit_rows(out):
        last.setdefault(row["step"], {})[row["rank"]] = row["samples"]
    skipped = doubled = 0
    for step, expected in enumerate(expected_samples(plan, tiny), start=1):
        found = sorted(name for samples in last.get(step, {}).values() for name in samples)
        skipped += len(expected) - sum(name in found for name in expected)
        doubled += len(found) - len(set(found) & set(expected))
    assert max(last) == plan.num_steps
    return skipped, doubled


def expected_samples(plan: WorkerPlan, tiny: Any) -> list[list[str]]:
    """Sorted ids of every step's samples, from the loader on a single rank."""
    from memvp_data.features import FeatureStore
    from memvp_train.training.token_cache import EncodedTable

    table = EncodedTable(Path(plan.run.out) / "encoded.safetensors", key=plan.samples_key)
    features = FeatureStore(tiny.features)
    batches = memvp_data.dataloader.loader.TrainingBatches(
        table, features, seed=plan.run.stage.seed, global_batch_size=plan.run.stage.global_batch_size,
        micro_batch_size=8, rank=0, world_size=1, pad_token_id=table.pad_token_id, feature_shape=features.feature_shape,
    )  # fmt: skip
    steps = [batches.at(step) for step in range(plan.num_steps)]
    return [sorted(name for batch in step for name in batch.sample_ids) for step in steps]


def first_steps(out: Path) -> list[int]:
    """The step at which each group of workers began, in order."""
    firsts: dict[int, int] = {}
    for row in audit_rows(out):
        if row["rank"] == 0:
            firsts.setdefault(row["pid"], row["step"])
    return list(firsts.values())


def assert_same_end(out: Path, undisturbed: Path, *, num_steps: int) -> None:
    """Weights and losses bit for bit, and every step written down once."""
    rows, expected = (read_metrics(folder / "metrics.jsonl") for folder in (out, undisturbed))
    assert [row["step"] for row in rows] == list(range(1, num_steps + 1))
    losses = [(row["step"], row["loss"], other["loss"]) for row, other in zip(rows, expected, strict=True)]
    assert [row for row in losses if row[1] != row[2]] == []
    found, wanted = (
        read_state(newest_first(folder)[0]) for folder in (out / WORKERS_FOLDER, undisturbed / "checkpoints")
    )
    assert found.step == num_steps
    for kind in ("weights", "exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(getattr(found, kind), getattr(wanted, kind), rtol=0, atol=0)


def as_job(run: StageRun, launch: LaunchConfig, path: Path) -> Path:
    """The run as a file for tests/faults/driver.py."""
    path.write_text(json.dumps({"run": asdict(run), "launch": asdict(launch)}))
    return path
