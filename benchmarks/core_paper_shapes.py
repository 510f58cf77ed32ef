"""The paper's comparisons of speed and memory, at sizes that fit a CPU: `make bench-paper-shapes`.

Fig. 2: latency of 64 text tokens with 256 visual prompts in input space, at batch 4 and 16. Fig. 4: training memory of
T5-base at batch 64. Table 3: 256 patches and 6 tokens in input space against memory, training and one-token inference.
The paper measured LLaMA-7B on A800s and T5-base on a V100. T5-base is whole here; the LLaMA has four layers of width
1,024, and the other methods' own adapters are left out: what differs between rows is only where the images are.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from measuring import Call, interleaved, machine_line, parser, peak_bytes, ratio, seconds, set_up, write_result
from phases import Shape
from rich.console import Console
from rich.table import Table
from t5_training import WAYS as T5_WAYS
from t5_training import Training
from ways import make_way

LLAMA = Shape(1024, 4)
SMOKE = Shape(64, 2, num_text=8, num_rows=6, num_slots=8, num_codes=4, vision_size=16, vocab_size=50)
WAYS = ("text only", "MemVP auto", "naive", "input space")
# A prompt of ScienceQA has some 100 to 200 tokens.
NUM_SCIENCE_TEXT, NUM_FEW = 160, 6
PAPER = {
    "Fig. 2, batch 4": "256 visual prompts: up to 4.8 x text only",
    "Fig. 2, batch 16": "",
    "Table 3, training, batch 4": "MemVP 0.28 s, LLaVA-LoRA (256) 0.49 s = 1.75 x, LaVIN (6) 0.39 s = 1.39 x",
    "Table 3, inference, batch 64": "MemVP 1.88 s, LLaVA-LoRA (256) 3.42 s = 1.82 x, LaVIN (6) 2.06 s = 1.10 x",
    "Fig. 4, T5-base, batch 64": "memory 56 % of VL-PET's, which has 36 tokens in input space and adapters",
}


def figure_2(shape: Shape, *, batch_size: int, num_rounds: int) -> dict[str, Any]:
    """Prefill of a text with and without visual prompts."""
    model = shape.language_model()
    calls = {name: make_way(name, model, shape).prefill(batch_size) for name in WAYS}
    return _times(calls, to="text only", num_rounds=num_rounds)


def table_3(shape: Shape, *, phase: str, batch_size: int, num_rounds: int) -> dict[str, Any]:
    """As many tokens in input space as patches (LLaVA), or six (LaVIN), against memory."""
    shape = shape if shape == SMOKE else replace(shape, num_text=NUM_SCIENCE_TEXT)
    few = replace(shape, num_rows=NUM_FEW)
    model = shape.language_model()
    ways = {"memory": make_way("MemVP auto", model, shape), f"{NUM_FEW} tokens": make_way("input space", model, few)}
    ways[f"{shape.num_rows} patches"] = make_way("input space", model, shape)
    calls = {name: getattr(way, phase)(batch_size) for name, way in ways.items()}
    return _times(calls, to="memory", num_rounds=num_rounds)


def figure_4(*, batch_size: int, is_small: bool) -> dict[str, Any]:
    """The most that a training step of T5 holds: weights, gradients, AdamW's moments, activations."""
    found: dict[str, Any] = {}
    for name in T5_WAYS:
        training = Training(name, batch_size=batch_size, is_small=is_small)
        found[name] = {"bytes": peak_bytes(training.step()) + training.weight_bytes}
    for one in found.values():
        one["share_of_input_space"] = one["bytes"] / found["input space"]["bytes"]
    return found


def _times(calls: dict[str, Call], *, to: str, num_rounds: int) -> dict[str, Any]:
    times = interleaved(calls, num_rounds=num_rounds)
    return {name: {"seconds": seconds(times, name), "time_ratio": ratio(times, name, to=to)} for name in calls}


def table_of(found: dict[str, Any], *, caption: str) -> Table:
    """Ours beside the paper's own numbers."""
    table = Table(title="The paper's comparisons, at sizes that fit a CPU", caption=caption)
    for column in ("comparison", "images in", "here", "the paper's own"):
        table.add_column(column)
    for title, rows in found.items():
        cells = [_cell(one) for one in rows.values()]
        table.add_row(title, "\n".join(rows), "\n".join(cells), PAPER[title], end_section=True)
    return table


def _cell(one: dict[str, float]) -> str:
    if "bytes" in one:
        return f"{one['bytes'] / 2**30:.2f} GiB = {one['share_of_input_space']:.0%}"
    return f"{one['seconds']:.3f} s = {one['time_ratio']:.2f} x"


def main() -> None:
    args = parser(__doc__).parse_args()
    facts, console = set_up(args), Console(width=130)
    shape, rounds = (SMOKE, 1) if args.smoke else (LLAMA, args.rounds or 5)
    sizes = [2, 2, 2, 2] if args.smoke else [4, 16, 64, 64]
    titles = iter(PAPER)
    found = {next(titles): figure_2(shape, batch_size=size, num_rounds=rounds) for size in sizes[:2]}
    found[next(titles)] = table_3(shape, phase="training_step", batch_size=sizes[0], num_rounds=rounds)
    found[next(titles)] = table_3(shape, phase="prefill", batch_size=sizes[2], num_rounds=min(rounds, 3))
    found[next(titles)] = figure_4(batch_size=sizes[3], is_small=args.smoke)
    console.print(f"LLaMA-like: {shape}")
    console.print(table_of(found, caption=machine_line(facts)))
    console.print(f"numbers: {write_result(args.out, 'core_paper_shapes', found, facts=facts).name}")


if __name__ == "__main__":
    main()
