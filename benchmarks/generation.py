"""How long whole answers take, by their length: the gain of a memory over input-space prompts fades as answers grow."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import torch
from measuring import clock
from phases import Shape, Way
from ways import make_way

WAYS = ("text only", "MemVP auto", "input space")
LENGTHS = (1, 4, 16, 64, 256)
NUM_ROUNDS, BATCH_SIZE = 3, 4


def generation_curve(shape: Shape, *, folder: Path, is_smoke: bool = False) -> dict[str, Any]:
    """Seconds and ratios to text alone by length of the answer; draws core_generation.png into a folder."""
    lengths = LENGTHS[:2] if is_smoke else LENGTHS
    model = shape.language_model()
    ways = {name: make_way(name, model, shape) for name in WAYS}
    rounds: dict[str, list[list[float]]] = {name: [] for name in WAYS}
    for number in range(-1, NUM_ROUNDS):
        for name, way in ways.items():
            found = token_times(way, num_tokens=lengths[-1] if number >= 0 else lengths[0])
            if number >= 0:
                rounds[name].append([found[length - 1] for length in lengths])
    ratios = {name: _ratios(rounds[name], rounds["text only"]) for name in WAYS}
    seconds = {name: [statistics.median(column) for column in zip(*rounds[name], strict=True)] for name in WAYS}
    _draw(ratios, lengths=lengths, folder=folder, shape=shape)
    return {"lengths": lengths, "batch_size": BATCH_SIZE, "time_ratio": ratios, "seconds": seconds}


def token_times(way: Way, *, num_tokens: int) -> list[float]:
    """Seconds from the start of `generate`, image features included, to each new token."""
    torch.manual_seed(2)
    ids, embeds, features = way.embedded(BATCH_SIZE)
    moments: list[float] = []

    def note(input_ids: Any, scores: Any, **_: Any) -> Any:
        moments.append(clock())
        return torch.zeros(input_ids.shape[0], dtype=torch.bool)

    start = clock()
    way.generate(ids, embeds, features, max_new_tokens=num_tokens, stopping_criteria=[note], do_sample=False)
    return [moment - start for moment in moments]


def _ratios(rounds: list[list[float]], text: list[list[float]]) -> list[float]:
    """Median over the rounds of the quotient inside a round, by length."""
    quotients = [[one / base for one, base in zip(*pair, strict=True)] for pair in zip(rounds, text, strict=True)]
    return [statistics.median(column) for column in zip(*quotients, strict=True)]


def _draw(ratios: dict[str, list[float]], *, lengths: tuple[int, ...], folder: Path, shape: Shape) -> None:
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    figure, axes = pyplot.subplots(figsize=(6.4, 3.6), layout="constrained")
    for name, marker in zip(WAYS, ".os", strict=True):
        axes.plot(lengths, ratios[name], marker=marker, label=f"{name}")
        for length, value in zip(lengths, ratios[name], strict=True):
            if name == "input space":
                axes.annotate(f"{value:.2f}", (length, value), textcoords="offset points", xytext=(0, 7), ha="center")
    axes.set_xscale("log", base=4)
    axes.set_xticks(lengths, [str(length) for length in lengths])
    axes.set(
        xlabel="tokens of the answer", ylabel="time, text only = 1", ylim=(0, 1.15 * max(map(max, ratios.values())))
    )
    axes.set_title(
        f"generate: {shape.num_text} text tokens, {shape.num_rows} image rows, "
        f"width {shape.hidden_size}, {shape.num_layers} layers",
        fontsize=10,
    )
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    folder.mkdir(parents=True, exist_ok=True)
    figure.savefig(folder / "core_generation.png", dpi=150)
    pyplot.close(figure)
