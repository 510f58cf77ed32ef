"""The cost model: what a retrieval costs in each form, which form `auto` takes, and what a whole model costs.

A FLOP is one multiplication or one addition of a matrix product, as torch's FlopCounterMode counts them; everything
elementwise is free. The paper's tables count so too, for the language model alone: without projector and vision tower.
"""

from dataclasses import dataclass
from itertools import pairwise
from typing import Any, Literal

import torch

from memvp_core.config import Form, FormChoice

Kind = Literal["text", "input_space", "memory"]
_SHORT = (torch.float16, torch.bfloat16)


@dataclass(frozen=True)
class Workload:
    """The sizes that decide what a retrieval costs, for one call of a model."""

    num_queries: int
    """Tokens of the batch."""
    num_entries: int
    """Images that the batch reads."""
    num_rows: int
    """Rows of an image (P)."""
    num_slots: int
    """Position rows (S)."""
    hidden_size: int
    """Width of the language model (D)."""
    num_codes: int | None = None
    """Width of the projector's last hidden layer (C); None where `factored` cannot be."""
    num_layers: int = 1
    """Layers that read."""
    positions_are_shared: bool = True
    """One pair of position embeddings for all layers."""
    num_steps: int = 1
    """How often all layers read what is prepared once: one new token each, while an answer is generated."""


@dataclass(frozen=True)
class DeviceSpeed:
    """How fast a device is, roughly: only ratios matter, and only between forms."""

    flops: float
    """Per second, in matrix products."""
    bandwidth: float
    """Bytes per second."""
    launch: float
    """Seconds to start an operation."""


# Two cores of a server, fitted to the timings of benchmarks/core_forms.py; and one H100, below its data sheet, not
# measured.
DEVICE_SPEEDS = {"cpu": DeviceSpeed(2.0e11, 5.0e10, 6e-6), "cuda": DeviceSpeed(4.0e14, 2.5e12, 6e-6)}


def retrieval_flops(form: Form, load: Workload) -> int:
    """FLOPs of one layer's retrieval: scores and values are two products of the same size each."""
    queries, width = load.num_queries, load.hidden_size
    positions = 4 * queries * load.num_slots * width
    if form in ("direct", "reference"):
        return positions
    if form == "split":
        return positions + 4 * queries * load.num_rows * width
    return positions + 4 * queries * _codes(load) * (width + load.num_rows)


def retrieval_bytes(form: Form, load: Workload, *, itemsize: int) -> int:
    """Bytes that one layer's retrieval reads and writes beside the states: stored rows, scores (float32), values."""
    queries, width, entries = load.num_queries, load.hidden_size, load.num_entries
    scores, positions = 8 * queries * load.num_slots, 2 * load.num_slots * width * itemsize
    if form in ("direct", "reference"):
        slots = load.num_slots
        if not load.positions_are_shared:
            # A layer also writes its keys and values: rows are read, summed with positions, and copied beside the rest.
            slots = 2 * load.num_slots + 3 * load.num_rows
        return scores + 2 * entries * slots * width * itemsize
    row_scores = 12 * queries * load.num_rows
    if form == "split":
        return scores + positions + row_scores + 2 * (entries * load.num_rows + queries) * width * itemsize
    codes = _codes(load)
    own = 2 * (entries * load.num_rows * codes + width * codes + queries * width) * itemsize + 16 * queries * codes
    return scores + positions + row_scores + own


def call_bytes(form: Form, load: Workload, *, itemsize: int) -> int:
    """Bytes moved once per call, outside the layers: writing rows, and for `direct` keys and values, for each image."""
    if form == "factored":
        return 0
    rows = 2 * load.num_entries * load.num_rows * load.hidden_size * itemsize
    if form == "split" or not load.positions_are_shared:
        return rows
    return rows + 4 * load.num_entries * load.num_slots * load.hidden_size * itemsize


def projection_flops(num_images: int, num_rows: int, *, widths: tuple[int, ...]) -> int:
    """FLOPs of a projector with these layer widths; the last two alone are what codes need to become rows."""
    return sum(2 * num_images * num_rows * wide * out for wide, out in pairwise(widths))


def _codes(load: Workload) -> int:
    if load.num_codes is None:
        raise ValueError(
            'form "factored" needs rows given as codes in a basis, of which there is none here: '
            'use a projector with a last hidden width below the model\'s, or form "split".'
        )
    return load.num_codes


_NUM_STARTED: dict[Form, tuple[int, int]] = {
    "direct": (4, 18),
    "split": (5, 9),
    "factored": (9, 7),
    "reference": (4, 18),
}
"""Operations started in one layer, and once per call: what the smallest workloads took, in launches."""


def seconds(form: Form, load: Workload, *, itemsize: int, device: DeviceSpeed) -> float:
    """Estimated time of all layers' retrievals in one call, and of what is prepared for them."""
    num_reads = load.num_layers * load.num_steps
    flops = num_reads * retrieval_flops(form, load)
    moved = num_reads * retrieval_bytes(form, load, itemsize=itemsize) + call_bytes(form, load, itemsize=itemsize)
    if form != "factored" and load.num_codes is not None:
        flops += projection_flops(load.num_entries, load.num_rows, widths=(load.num_codes, load.hidden_size))
    in_layer, in_call = _NUM_STARTED[form]
    launches = num_reads * in_layer + in_call
    return flops / device.flops + moved / device.bandwidth + launches * device.launch


def choose_form(form: FormChoice, load: Workload, *, dtype: torch.dtype, device: str = "cpu") -> Form:
    """The form that `auto` takes: the fastest by the cost model among those that lose no precision.

    In 16 bits `direct` is out: adding small image rows to positions rounds 1.7 % of the visual score away.
    """
    if form != "auto":
        if form == "factored":
            _codes(load)
        return form
    forms: list[Form] = ["split"] if dtype in _SHORT else ["direct", "split"]
    if load.num_codes is not None and load.num_codes < load.hidden_size:
        forms.append("factored")
    speed = DEVICE_SPEEDS.get(device, DEVICE_SPEEDS["cpu"])
    return min(forms, key=lambda form: seconds(form, load, itemsize=dtype.itemsize, device=speed))


def layer_flops(kind: Kind, *, num_text_tokens: int, hidden_size: int, num_rows: int = 0) -> int:
    """Eq. 13-15: one transformer layer with an FFN of four times its width, for L text tokens and n image rows.

    text: 4Ld(6d + L). input_space: the same for L + n tokens, which is 4nd(6d + n + 2L) more. memory: 4ndL more.
    """
    tokens, width = num_text_tokens, hidden_size
    if kind == "input_space":
        tokens += num_rows
    flops = 4 * tokens * width * (6 * width + tokens)
    return flops + (4 * num_rows * width * num_text_tokens if kind == "memory" else 0)


def model_flops(
    config: Any,
    *,
    kind: Kind = "text",
    num_text_tokens: int,
    num_target_tokens: int = 0,
    num_rows: int = 0,
    num_slots: int = 0,
    num_codes: int | None = None,
    form: Form = "direct",
) -> int:
    """FLOPs of one forward pass over one sample of a transformers BART, T5 or LLaMA-like model.

    `num_target_tokens` are the decoder's tokens of an encoder-decoder. input_space puts `num_rows` tokens before the
    text; memory gives every layer (of the encoder, where there is one) a retrieval of that `form`.
    """
    tokens = num_text_tokens + (num_rows if kind == "input_space" else 0)
    if config.is_encoder_decoder:
        macs = _encoder_decoder_macs(config, source=tokens, target=num_target_tokens)
    else:
        macs = _decoder_macs(config, tokens=tokens)
    if kind != "memory":
        return 2 * macs
    load = Workload(num_text_tokens, 1, num_rows, num_slots, config.hidden_size, num_codes)
    return 2 * macs + config.num_hidden_layers * retrieval_flops(form, load)


def _decoder_macs(config: Any, *, tokens: int) -> int:
    width, inner = config.hidden_size, _attention_width(config)
    groups = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    linear = 2 * width * inner + 2 * width * inner * groups // config.num_attention_heads
    layer = tokens * (linear + _ffn_macs(config, config.intermediate_size)) + 2 * tokens**2 * inner
    return config.num_hidden_layers * layer + tokens * width * config.vocab_size


def _encoder_decoder_macs(config: Any, *, source: int, target: int) -> int:
    width, inner = config.hidden_size, _attention_width(config)
    ffn = [_ffn_macs(config, size) for size in _ffn_sizes(config)]
    encoder = source * (4 * width * inner + ffn[0]) + 2 * source**2 * inner
    cross = 2 * width * inner * (source + target) + 2 * source * target * inner
    decoder = target * (4 * width * inner + ffn[1]) + 2 * target**2 * inner + cross
    num_decoder_layers = getattr(config, "num_decoder_layers", None) or config.decoder_layers
    return config.num_hidden_layers * encoder + num_decoder_layers * decoder + target * width * config.vocab_size


def _attention_width(config: Any) -> int:
    head = getattr(config, "d_kv", None) or getattr(config, "head_dim", None)
    return config.hidden_size if head is None else head * config.num_attention_heads


def _ffn_sizes(config: Any) -> tuple[int, int]:
    size = getattr(config, "d_ff", None)
    return (config.encoder_ffn_dim, config.decoder_ffn_dim) if size is None else (size, size)


def _ffn_macs(config: Any, size: int) -> int:
    gated = getattr(config, "is_gated_act", not config.is_encoder_decoder)
    return (3 if gated else 2) * config.hidden_size * size
