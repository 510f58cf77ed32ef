"""What the training stack costs beside a bare torch loop on the same batches: `make bench-train`.

One stage is trained through all of it, as a job does: Ray, DeepSpeed (ZeRO-2), the loader, checkpoints, metrics and a
tracker that sends them to MLflow; the bare loop runs between its steps in the same worker (overhead_meter.py). Then
the same stage on one and on two workers, a batch each, for weak scaling.
"""

from __future__ import annotations

import json
import os
import random
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import patch

import torch
from measuring import machine_line, parser, set_up, write_result
from overhead_meter import BLOCK, FILE, measured_worker, summary
from rich.console import Console
from rich.table import Table

# The tracker is the pipelines'; Python puts only this script's folder on the path.
sys.path.insert(1, str(Path(__file__).resolve().parents[1]))

from memvp_data.features import feature_record
from memvp_data.samples import Sample, Turn, write_samples
from memvp_data.shards import write_shards
from memvp_train.config import LanguageModelConfig, LaunchConfig, LoraSettings, StageConfig, StageRun
from memvp_train.launch.session import ray_session
from memvp_train.training import drive
from memvp_train.training.metrics_log import MetricsRow
from memvp_train.training.stage import run_stage
from pipelines.config.tracking import TrackingConfig
from pipelines.tracking.mlflow import Tracker
from pipelines.tracking.opening import open_tracker

WORDS = "what colour is the thing left of the red square and above every large green circle ?".split()
NUM_ROWS, WIDTH = 64, 256
MEDIUM = {"hidden_size": 512, "intermediate_size": 1408, "num_attention_heads": 8, "num_key_value_heads": 8,
          "head_dim": 64, "num_hidden_layers": 6}  # fmt: skip
SMALL = {"hidden_size": 32, "intermediate_size": 48, "num_attention_heads": 2, "num_key_value_heads": 2, "head_dim": 16}
MEMVP = {"vision_hidden_size": WIDTH, "num_slots": 96, "projector_hidden_sizes": (128,)}
BATCH = 8
KINDS = {
    "one worker": LaunchConfig(num_workers=1, zero_stage=2),
    "one worker, loader process": LaunchConfig(num_workers=1, zero_stage=2, loader_processes=1),
    "two workers": LaunchConfig(num_workers=2, zero_stage=2),
}
TARGETS = {"overhead_processor": "1.05", "waiting_share": "0.02", "checkpoint_stall_steps_wall": "1"}
_SECONDS_BETWEEN_SENDS = 3.0


def make_run(folder: Path, *, num_steps: int, batch_size: int, is_small: bool) -> StageRun:
    """A drawn model, talks of 20 to 60 words about drawn features, and a stage with LoRA."""
    draw = random.Random(0)
    samples = [
        Sample(f"s-{n:05d}", (f"image-{n % 64:03d}",), (Turn("user", _words(draw)), Turn("assistant", _words(draw))))
        for n in range(512)
    ]
    write_samples(folder / "samples.parquet", iter(samples))
    records = (
        (f"image-{n:03d}", {"safetensors": feature_record(torch.randn(NUM_ROWS, WIDTH).half())}) for n in range(64)
    )
    write_shards(folder / "features", records, kind="features")
    return StageRun(
        language=LanguageModelConfig("toyworld/language", overrides=SMALL if is_small else MEDIUM, random_init=True),
        memvp=MEMVP,
        stage=StageConfig(
            num_steps=num_steps,
            global_batch_size=batch_size,
            micro_batch_size=BATCH,
            learning_rate=1e-4,
            template="toyworld",
            max_length=128,
            checkpoint_every=15,
            lora=LoraSettings(rank=16),
        ),
        samples=str(folder / "samples.parquet"),
        features=str(folder / "features"),
        init_adapter=None,
        out=str(folder / "out"),
    )


def _words(draw: random.Random) -> str:
    return " ".join(draw.choices(WORDS, k=draw.randint(10, 30)))


def train(run: StageRun, launch: LaunchConfig, *, tracker: Tracker) -> dict[str, Any]:
    """Train a stage with the meter in its workers; every few seconds rows go to MLflow, as a job sends them."""
    waiting, sent = list[MetricsRow](), [time.monotonic()]
    run_id = tracker.open_child("stage", key=run.out, settings={})

    def on_step(row: MetricsRow) -> None:
        waiting.append(row)
        if time.monotonic() - sent[0] > _SECONDS_BETWEEN_SENDS:
            tracker.log_curves(run_id, waiting)
            waiting.clear()
            sent[0] = time.monotonic()

    start = time.process_time()
    with patch.object(drive, "train_worker", measured_worker):
        run_stage(run, launch, on_step=on_step)
    content = json.loads(Path(run.out, FILE).read_text())
    return content | {"driver_seconds": time.process_time() - start}


def measure(
    folder: Path, *, num_steps: int, is_small: bool, report: Callable[[dict[str, Any]], object]
) -> dict[str, Any]:
    """The runs' summaries by name, given to `report` as they come; the small one is of one worker alone."""
    uri = f"sqlite:///{folder / 'mlflow.db'}"
    tracker = open_tracker(
        TrackingConfig(uri=uri), uri=uri, storage=folder, run_folder=folder, key="bench", console=Console()
    )
    tracker.open_parent(name="overhead", settings={}, text="")
    found: dict[str, Any] = {}
    kinds = {"one worker": KINDS["one worker"]} if is_small else KINDS
    for name, launch in kinds.items():
        place = folder / name.replace(" ", "_")
        place.mkdir()
        run = make_run(place, num_steps=num_steps, batch_size=BATCH * launch.num_workers, is_small=is_small)
        with ray_session(launch):
            content = train(run, launch, tracker=tracker)
        found[name] = summary(content, checkpoint_every=run.stage.checkpoint_every, warm_up=BLOCK)
        found[name] |= {"driver_seconds": content["driver_seconds"], "load": os.getloadavg()[0]}
        report(found)
    if "two workers" in found:
        # Two workers do twice the work of a step: what a step may take is what it took on one.
        found["weak_scaling"] = {
            "efficiency": found["one worker"]["wall_seconds"] / found["two workers"]["wall_seconds"]
        }
    return found


def table_of(found: dict[str, Any], *, caption: str) -> Table:
    """Runs beside each other."""
    names = [name for name in found if name != "weak_scaling"]
    table = Table(title="The training stack beside a bare torch loop", caption=caption)
    for column in ("", *names, "goal"):
        table.add_column(column, justify="left" if not column else "right")
    for key in dict.fromkeys(key for name in names for key in found[name]):
        cells = [f"{found[name][key]:.4f}" if key in found[name] else "" for name in names]
        table.add_row(key.replace("_", " "), *cells, TARGETS.get(key, ""))
    if "weak_scaling" in found:
        table.add_row("weak scaling efficiency", "", "", f"{found['weak_scaling']['efficiency']:.3f}", "as measured")
    return table


def main() -> None:
    args = parser(__doc__).parse_args()
    facts, console = set_up(args), Console(width=140)
    num_steps = 2 * BLOCK if args.smoke else BLOCK * (args.rounds or 7)

    def report(found: dict[str, Any]) -> Path:
        return write_result(args.out, "train_overhead", found, facts=facts)

    with tempfile.TemporaryDirectory() as folder:
        found = measure(Path(folder), num_steps=num_steps, is_small=args.smoke, report=report)
    # The workers' threads are the launch's, one each.
    console.print(table_of(found, caption=machine_line(facts)))
    console.print(f"numbers: {report(found).name}")


if __name__ == "__main__":
    main()
