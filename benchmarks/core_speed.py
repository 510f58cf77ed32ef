"""What a memory costs beside text alone, input-space prompts and rebuilt keys: `make bench-core`.

Small LLaMA-like models with random weights, in three phases: a training step, a prefill, and one decoded token with
a KV cache; then how the gain over input-space prompts fades as answers grow longer (the limitation the paper states).
"""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any

import torch
from generation import generation_curve
from measuring import interleaved, machine_line, mebibytes, parser, peak_bytes, ratio, seconds, set_up, write_result
from phases import Shape, Way
from rich.console import Console
from rich.table import Table
from ways import WAYS, make_way

TEXT = WAYS[0]
PHASES = {"training": 4, "prefill": 4, "decode": 64, "decode one": 1}
SHAPES = {  # name: shape, rounds
    "d256": (Shape(256, 4), 15),
    "d512": (Shape(512, 4), 11),
    "d1024": (Shape(1024, 4), 7),
    "d2048": (Shape(2048, 4), 5),
}
SMOKE = {"smoke": (Shape(64, 2, num_text=8, num_rows=6, num_slots=8, num_codes=4, vision_size=16, vocab_size=50), 1)}
CURVE = Shape(1024, 4)


def measure_phase(ways: dict[str, Way], phase: str, *, batch_size: int, num_rounds: int) -> dict[str, Any]:
    """Seconds, ratios of time and of memory to text alone, by way."""
    calls, held = {}, {}
    for name, way in ways.items():
        if phase.startswith("decode"):
            calls[name], held[name] = way.decode(batch_size)
        else:
            calls[name] = way.training_step(batch_size) if phase == "training" else way.prefill(batch_size)
    memory = {name: peak_bytes(call) + held.get(name, 0) for name, call in calls.items()}
    times = interleaved(calls, num_rounds=num_rounds, min_seconds=0.05)
    return {
        name: {
            "seconds": seconds(times, name),
            "time_ratio": ratio(times, name, to=TEXT),
            "bytes": memory[name],
            "memory_ratio": memory[name] / memory[TEXT],
        }
        for name in ways
    }


def measure_shape(shape: Shape, *, num_rounds: int, batch_sizes: dict[str, int]) -> dict[str, Any]:
    """All phases of one shape, and the bytes an image takes while tokens are decoded."""
    model = shape.language_model()
    ways = {name: make_way(name, model, shape) for name in WAYS}
    features = torch.randn(batch_sizes["decode"], shape.num_rows, shape.vision_size)
    found: dict[str, Any] = {"bytes_per_image": {name: way.bytes_per_image(features) for name, way in ways.items()}}
    found["parameters"] = sum(weight.numel() for weight in model.parameters())
    for phase, batch_size in batch_sizes.items():
        gc.collect()
        found[phase] = measure_phase(ways, phase, batch_size=batch_size, num_rounds=num_rounds)
    return found


def table_of(found: dict[str, Any], *, batch_sizes: dict[str, int], caption: str) -> Table:
    """One table for all shapes: times and memory as multiples of text alone."""
    title = (
        "Time, and memory beyond the model's weights, as multiples of text only (its own row: the numbers themselves)"
    )
    table = Table(title=title, caption=caption)
    for column in ("shape", "way"):
        table.add_column(column)
    for phase, size in batch_sizes.items():
        table.add_column(f"{phase}\nbatch {size}", justify="right")
        table.add_column("\nmemory", justify="right")
    table.add_column("an image\ntakes", justify="right")
    for shape, numbers in found.items():
        for name in WAYS:
            cells = [cell for phase in batch_sizes for cell in _cells(numbers[phase][name], is_text=name == TEXT)]
            image = mebibytes(numbers["bytes_per_image"][name]) if name != TEXT else "-"
            table.add_row(shape if name == TEXT else "", name, *cells, image, end_section=name == WAYS[-1])
    return table


def _cells(one: dict[str, float], *, is_text: bool) -> tuple[str, str]:
    if is_text:
        return f"{one['seconds'] * 1000:.1f} ms", mebibytes(one["bytes"])
    return f"{one['time_ratio']:.2f}", f"{one['memory_ratio']:.2f}"


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--shapes", nargs="*", choices=SHAPES, default=list(SHAPES))
    args = options.parse_args()
    facts, console = set_up(args), Console(width=132)
    shapes = SMOKE if args.smoke else {name: SHAPES[name] for name in args.shapes}
    batch_sizes = {phase: min(size, 2) if args.smoke else size for phase, size in PHASES.items()}
    found: dict[str, Any] = {}
    for name, (shape, num_rounds) in shapes.items():
        console.print(f"{name}: {shape}")
        found[name] = measure_shape(shape, num_rounds=args.rounds or num_rounds, batch_sizes=batch_sizes)
    console.print(table_of(found, batch_sizes=batch_sizes, caption=machine_line(facts)))
    curve = generation_curve(SMOKE["smoke"][0] if args.smoke else CURVE, folder=args.out, is_smoke=args.smoke)
    path = write_result(args.out, "core_speed", {"shapes": found, "generation": curve}, facts=facts)
    console.print(f"numbers: {_shown(path)}, picture: {_shown(path.with_name('core_generation.png'))}")


def _shown(path: Path) -> str:
    return path.relative_to(Path.cwd()).as_posix() if path.is_relative_to(Path.cwd()) else str(path)


if __name__ == "__main__":
    main()
