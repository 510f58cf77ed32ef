"""The loader at ten million samples: start, resume, throughput, padding, images per batch and quality of the shuffle.

`python benchmarks/data_loader.py`. Start and resume are timed in processes of their own, from the opened file to the
first batch, without importing torch. About two minutes, 1.5 GB of disk for a while. Linux only.
"""

from __future__ import annotations

import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
from measuring import machine_line, parser, set_up, write_result
from numpy.typing import NDArray
from rich.console import Console
from rich.table import Table
from torch import Tensor

from memvp_data.dataloader.loader import TrainingBatches
from memvp_data.dataloader.mapped_columns import ColumnsWriter
from memvp_data.dataloader.prefetch import PrefetchedBatches
from memvp_data.dataloader.state import LoaderState
from memvp_data.dataloader.token_table import COLUMNS, SCHEMA_VERSION, TokenTable
from memvp_data.order import sample_order, shuffle_keys

NUM_SAMPLES, QUESTIONS_PER_IMAGE, MAX_LENGTH, GLOBAL_BATCH = 10_000_000, 10, 20, 512
SHAPE = (16, 64)
PIECE = 500_000


class MadeUpFeatures:
    """Features of any image without a file behind them: the loader alone is measured."""

    feature_shape, num_rows = SHAPE, SHAPE[0]

    def __contains__(self, image_id: object) -> bool:
        return True

    def load(self, image_ids: Any) -> Tensor:
        return torch.zeros(len(image_ids), *SHAPE)


def write_table(path: Path, *, num_samples: int) -> None:
    """A table as TokenTableWriter makes it, written in large pieces: samples of 4 to 20 tokens, ten to an image."""
    num_images = -(-num_samples // QUESTIONS_PER_IMAGE)
    num_tokens = 0
    with ColumnsWriter(path, columns=COLUMNS) as columns:
        for name in ("offsets", "first_rows", "name_offsets", "image_name_offsets"):
            columns.append(name, [0])
        for start in range(0, num_samples, PIECE):
            numbers = np.arange(start, min(start + PIECE, num_samples))
            lengths = numbers * 7919 % (MAX_LENGTH - 3) + 4
            ends = num_tokens + np.cumsum(lengths)
            columns.append("input_ids", np.repeat(numbers % 32_000, lengths))
            labelled = np.zeros(lengths.sum(), np.bool_)
            labelled[ends - 1 - num_tokens] = labelled[ends - 2 - num_tokens] = True
            columns.append("labelled", labelled)
            columns.append("offsets", ends)
            columns.append("num_labels", np.full(len(numbers), 2))
            columns.append("weights", np.ones(len(numbers)))
            columns.append("first_rows", numbers + 1)
            columns.append("images", numbers // QUESTIONS_PER_IMAGE)
            _append_names(columns, "name", numbers)
            num_tokens = int(ends[-1])
        _append_names(columns, "image_name", np.arange(num_images))
        columns.append("entry_images", np.arange(num_images))
        columns.append("entry_offsets", np.arange(num_images + 1))
        columns.close({"longest": str(MAX_LENGTH), "token_table": SCHEMA_VERSION})


def _append_names(columns: ColumnsWriter, kind: str, numbers: NDArray[np.int64]) -> None:
    """Names of eight digits."""
    digits = numbers[:, None] // 10 ** np.arange(7, -1, -1) % 10 + ord("0")
    columns.append(f"{kind}s", digits.astype(np.uint8).ravel())
    columns.append(f"{kind}_offsets", (numbers + 1) * 8)


def loader(rows: Any, **options: Any) -> TrainingBatches:
    """One rank of one."""
    settings = {"seed": 0, "global_batch_size": GLOBAL_BATCH, "micro_batch_size": 64, "rank": 0, "world_size": 1}
    return TrainingBatches(rows, MadeUpFeatures(), pad_token_id=0, feature_shape=SHAPE, **{**settings, **options})


def private_mb() -> float:
    """Memory of this process alone, without the pages of files, which the system takes back when it needs them."""
    lines = Path("/proc/self/status").read_text(encoding="utf-8").splitlines()
    return int(next(line for line in lines if line.startswith("RssAnon")).split()[1]) / 1024


def peak_mb() -> float:
    """Most memory this process ever held, file pages included."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def child(path: str, state: str) -> None:
    """Start (no state) or resume, in a fresh process, and print what it took."""
    imported, private = peak_mb(), private_mb()
    start, processor = time.perf_counter(), time.process_time()
    batches = loader(TokenTable(path))
    step = batches.resume(LoaderState.from_dict(json.loads(state))) if state else 0
    batches.at(step)
    found = {"seconds": _since(start), "processor_seconds": time.process_time() - processor}
    found |= {"peak_mb": peak_mb(), "above_imports_mb": peak_mb() - imported, "private_mb": private_mb() - private}
    print(json.dumps(found))


def in_fresh_process(path: Path, *, state: str = "") -> dict[str, float]:
    """What `child` prints."""
    command = [sys.executable, __file__, "--child", str(path), state]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


def start_and_resume(path: Path, *, is_short: bool) -> dict[str, Any]:
    """A start at step 0, and resumes at places all over the first two epochs; at one of them if `is_short`."""
    num_steps = len(TokenTable(path)) // GLOBAL_BATCH
    batches = loader(TokenTable(path))
    found: dict[str, Any] = {"start": in_fresh_process(path)}
    places = {"middle": num_steps // 2, "last of the epoch": num_steps, "next epoch": num_steps + 1}
    for name, step in list(places.items())[: 1 if is_short else None]:
        found[f"resume, {name}"] = in_fresh_process(path, state=json.dumps(batches.state(step).to_dict()))
    return found


def walked_start(path: Path, *, num_samples: int) -> float:
    """Seconds to start from a plain list of the first samples, every one of them looked at."""
    samples = TokenTable(path)[:num_samples]
    start = time.perf_counter()
    loader(samples).at(0)
    return time.perf_counter() - start


def throughput(path: Path, *, num_steps: int) -> dict[str, Any]:
    """Every way of making batches, for a few steps each."""
    ways: dict[str, dict[str, Any]] = {
        "by length": {},
        "token budget 1024": {"token_budget": 1024, "micro_batch_size": 256},
        "packed, rows of 256": {"packed_tokens": 256, "micro_batch_size": 4},
    }
    table = TokenTable(path)
    found = {name: _made(loader(table, **options), num_steps=num_steps) for name, options in ways.items()}
    for num_workers in (0, 1, 2):
        ahead = PrefetchedBatches(loader(table), num_steps=num_steps + 1, num_workers=num_workers)
        ahead.at(0)
        start = time.perf_counter()
        for step in range(1, num_steps + 1):
            ahead.at(step)
        found[f"by length, {num_workers} workers"] = {"samples_per_second": num_steps * GLOBAL_BATCH / _since(start)}
        ahead.close()
    return found


def _made(batches: TrainingBatches, *, num_steps: int) -> dict[str, float]:
    start = time.perf_counter()
    made = [batch for step in range(num_steps) for batch in batches.at(step)]
    seconds = _since(start)
    tokens = sum(int(batch.attention_mask.sum()) for batch in made)
    places = sum(batch.input_ids.numel() for batch in made)
    return {
        "samples_per_second": num_steps * GLOBAL_BATCH / seconds,
        "tokens_per_second": tokens / seconds,
        "padding_share": 1 - tokens / places,
        "micro_batches_per_step": len(made) / num_steps,
    }


def _since(start: float) -> float:
    return time.perf_counter() - start


def grouping(path: Path, *, num_samples: int, folder: Path) -> dict[str, Any]:
    """Images whose features a step loads, shuffled or with the questions of an image together."""
    if num_samples != len(TokenTable(path)):
        path = folder / "smaller"
        write_table(path, num_samples=num_samples)
    found: dict[str, Any] = {}
    ways: dict[str, dict[str, Any]] = {
        "shuffled": {},
        "8 questions together": {"questions_per_image": 8},
        "8 questions together, packed": {"questions_per_image": 8, "packed_tokens": 256, "micro_batch_size": 4},
    }
    for name, options in ways.items():
        start = time.perf_counter()
        batches = loader(TokenTable(path), **options)
        batches.at(0)
        seconds = _since(start)
        made = [batch for step in range(5) for batch in batches.at(step)]
        padding = 1 - sum(int(batch.attention_mask.sum()) for batch in made) / sum(b.input_ids.numel() for b in made)
        images = sum(len(batch.visual_features) for batch in made) / 5
        found[name] = {"images_per_step": images, "padding_share": padding, "seconds_to_first_step": seconds}
    return found


def shuffles(num_samples: int) -> dict[str, Any]:
    """How often neighbours come from one shard of 100: the correlation of their shards, and the share of equals."""
    generator = np.random.default_rng(0)
    orders = {
        "ours, sorted": np.argsort(shuffle_keys(seed=0, epoch=0, count=num_samples)),
        "ours, looked up": sample_order(seed=0, epoch=0, num_samples=max(num_samples, (1 << 20) + 1)),
        "full shuffle of numpy": generator.permutation(num_samples),
        "shards shuffled, then a buffer of 1000": np.fromiter(_buffered(num_samples, generator=generator), np.int64),
    }
    found: dict[str, Any] = {}
    for name, order in orders.items():
        shards = order * 100 // len(order)
        found[name] = {
            "correlation": float(np.corrcoef(shards[:-1], shards[1:])[0, 1]),
            "same_shard": float(np.mean(shards[:-1] == shards[1:])),
        }
    return found


def _buffered(num_samples: int, *, generator: np.random.Generator, size: int = 1000) -> Iterator[int]:
    """As webdataset: whole shards in random order, then each sample swapped for one of a buffer."""
    shards = np.array_split(np.arange(num_samples), 100)
    stream = np.concatenate([shards[number] for number in generator.permutation(100)]).tolist()
    buffer = stream[:size]
    places = generator.integers(len(buffer), size=len(stream)).tolist()
    for sample, place in zip(stream[size:], places, strict=False):
        yield buffer[place]
        buffer[place] = sample
    yield from generator.permutation(buffer).tolist()


def measure(num_samples: int, *, num_steps: int, is_short: bool) -> dict[str, Any]:
    """Everything, on a table in a temporary folder."""
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "table"
        start = time.perf_counter()
        write_table(path, num_samples=num_samples)
        num_walked = min(num_samples, 50_000)
        return {
            "num_samples": num_samples,
            "table_mb": path.stat().st_size / 1e6,
            "seconds_to_write": _since(start),
            "start_and_resume": start_and_resume(path, is_short=is_short),
            "start_from_a_list": {"num_samples": num_walked, "seconds": walked_start(path, num_samples=num_walked)},
            "throughput": throughput(path, num_steps=num_steps),
            "grouping": grouping(path, num_samples=min(num_samples, 1_000_000), folder=Path(name)),
            "shuffle": shuffles(min(num_samples, 1_000_000)),
        }


def show(content: dict[str, Any], *, facts: dict[str, Any]) -> None:
    """Tables for people."""
    console = Console()
    for name in ("start_and_resume", "throughput", "grouping", "shuffle"):
        columns = list(dict.fromkeys(column for row in content[name].values() for column in row))
        table = Table("", *[column.replace("_", " ") for column in columns], title=name.replace("_", " "))
        for row, values in content[name].items():
            table.add_row(row, *[f"{values[column]:,.4g}" if column in values else "" for column in columns])
        console.print(table)
    walked = content["start_from_a_list"]
    console.print(f"start from a list of {walked['num_samples']:,} samples: {walked['seconds']:.2f} s")
    console.print(f"{content['num_samples']:,} samples; grouping and shuffle: the first million at most")
    console.print(machine_line(facts))


def main() -> None:
    """Command line."""
    options = parser(__doc__)
    options.add_argument("--num-samples", type=int, default=NUM_SAMPLES)
    args = options.parse_args()
    facts = set_up(args)
    num_samples, num_steps = (20_000, 3) if args.smoke else (args.num_samples, 30)
    content = measure(num_samples, num_steps=num_steps, is_short=args.smoke)
    show(content, facts=facts)
    write_result(args.out, "data_loader", content, facts=facts)


if __name__ == "__main__":
    if sys.argv[1:2] == ["--child"]:
        child(*sys.argv[2:])
    else:
        main()
