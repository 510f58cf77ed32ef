"""The oracle: the base model's own FFNs, run by transformers, with the memory rows in the weights of their Linears.

Eq. 8 (and Eq. 11 where the FFN is gated) taken at its word: W1 gets the keys as rows, W2 s times the values as
columns, and W3 rows x / |x|^2, which are other ones for each token. A mixture of experts gets them in every expert:
its routing weights sum to 1.
"""

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional

from memvp_core import MemVPModel
from memvp_core.reference import memory_rows


def make_concatenated(
    model: MemVPModel,
    features: Tensor | None,
    *,
    row_weights: Sequence[float] | None = None,
    blocked: Sequence[int] = (),
) -> Any:
    """A copy of the base model that has one image (or none) in its weights; `.prompt` holds the rows' parameters.

    `row_weights` are factors on the image's rows; rows that are `blocked` are not written at all.
    """
    oracle = copy.deepcopy(model)
    prompt, sites = oracle.prompt, oracle.injection.sites
    projected = None if features is None else prompt.projector(features[None])[0]
    if projected is not None and row_weights is not None:
        projected = projected * projected.new_tensor(row_weights)[:, None]
    base = oracle.unload()
    base.requires_grad_(False)
    for number, site in enumerate(sites):
        keys, values = _rows(model, prompt, projected, layer=number)
        written = [row for row in range(len(keys)) if row not in blocked]
        _write(base, site.last, keys=keys[written], values=values[written])
    base.prompt_of_oracle = prompt
    return base


def _rows(model: MemVPModel, prompt: Any, projected: Tensor | None, *, layer: int) -> tuple[Tensor, Tensor]:
    config = model.memvp_config
    visual_scale = prompt.visual_scale if config.learn_scales else config.visual_scale
    retrieval_scale = prompt.retrieval_scale if config.learn_scales else config.retrieval_scale
    keys, values = (
        memory_rows(
            projected, positions=positions if positions.ndim == 2 else positions[layer], visual_scale=visual_scale
        )
        for positions in (prompt.key_positions, prompt.value_positions)
    )
    gate = prompt.retrieval_gates[layer] if config.retrieval_gate else 1
    return keys, retrieval_scale * gate * values


def _write(base: Any, path: str, *, keys: Tensor, values: Tensor) -> None:
    """Replace the Linears of the FFN that `path` is, or is the last part of."""
    parent, _, name = path.rpartition(".")
    outer, ffn = base.get_submodule(parent), base.get_submodule(path)
    if hasattr(ffn, "experts"):
        ffn.experts = ConcatenatedExperts(ffn.experts, keys=keys, values=values)
    elif hasattr(ffn, "gate_up_proj"):
        ffn.gate_up_proj = FusedRows(ffn.gate_up_proj, keys=keys)
        ffn.down_proj = Columns(ffn.down_proj, values=values)
    elif hasattr(ffn, "gate_proj"):
        ffn.gate_proj, ffn.up_proj = Rows(ffn.gate_proj, keys=keys), GateRows(ffn.up_proj, count=len(keys))
        ffn.down_proj = Columns(ffn.down_proj, values=values)
    elif hasattr(ffn, "wi_0"):
        ffn.wi_0, ffn.wi_1 = Rows(ffn.wi_0, keys=keys), GateRows(ffn.wi_1, count=len(keys))
        ffn.wo = Columns(ffn.wo, values=values)
    else:
        first, last = next(pair for pair in PLAIN if hasattr(outer if name == pair[1] else ffn, pair[0]))
        holder = outer if name == last else ffn
        setattr(holder, first, Rows(getattr(holder, first), keys=keys))
        setattr(holder, last, Columns(getattr(holder, last), values=values))


PLAIN = [("fc1", "fc2"), ("wi", "wo"), ("c_fc", "c_proj"), ("dense_h_to_4h", "dense_4h_to_h")]


def _weight(linear: Any) -> Tensor:
    """(out, in); GPT-2's Conv1D has it the other way round."""
    return linear.weight if isinstance(linear, nn.Linear) else linear.weight.T


class _Wrapped(nn.Module):
    def __init__(self, linear: Any) -> None:
        super().__init__()
        self.linear = linear

    @property
    def weight(self) -> Tensor:
        # T5 looks at the dtype of wo's weight.
        return _weight(self.linear)


class Rows(_Wrapped):
    """W1 with the keys as further rows."""

    def __init__(self, linear: Any, *, keys: Tensor) -> None:
        super().__init__(linear)
        self.keys = keys

    def forward(self, x: Tensor) -> Tensor:
        bias = self.linear.bias
        wide = None if bias is None else torch.cat([bias, bias.new_zeros(len(self.keys))])
        return functional.linear(x, torch.cat([self.weight, self.keys]), wide)


class GateRows(_Wrapped):
    """W3 with x / |x|^2 as further rows, token by token."""

    def __init__(self, linear: Any, *, count: int) -> None:
        super().__init__(linear)
        self.count = count

    def forward(self, x: Tensor) -> Tensor:
        assert self.linear.bias is None
        tokens = [functional.linear(token, self._wide(token)) for token in x.reshape(-1, x.shape[-1])]
        return torch.stack(tokens).view(*x.shape[:-1], -1)

    def _wide(self, token: Tensor) -> Tensor:
        return torch.cat([self.weight, gate_rows(token, count=self.count)])


def gate_rows(token: Tensor, *, count: int) -> Tensor:
    return (token / torch.dot(token, token)).repeat(count, 1)


class FusedRows(_Wrapped):
    """Phi-3's [W1; W3] in one: keys after the first half, x / |x|^2 after the second."""

    def __init__(self, linear: Any, *, keys: Tensor) -> None:
        super().__init__(linear)
        self.keys = keys

    def forward(self, x: Tensor) -> Tensor:
        w1, w3 = self.weight.chunk(2)
        tokens = [
            functional.linear(token, torch.cat([w1, self.keys, w3, gate_rows(token, count=len(self.keys))]))
            for token in x.reshape(-1, x.shape[-1])
        ]
        return torch.stack(tokens).view(*x.shape[:-1], -1)


class Columns(_Wrapped):
    """W2 with s times the values as further columns."""

    def __init__(self, linear: Any, *, values: Tensor) -> None:
        super().__init__(linear)
        self.values = values

    def forward(self, active: Tensor) -> Tensor:
        return functional.linear(active, torch.cat([self.weight, self.values.T], dim=1), self.linear.bias)


class ConcatenatedExperts(nn.Module):
    """Every expert with the rows in its weights, one token at a time."""

    def __init__(self, experts: Any, *, keys: Tensor, values: Tensor) -> None:
        super().__init__()
        self.experts, self.keys, self.values = experts, keys, values

    def forward(self, hidden_states: Tensor, top_k_index: Tensor, top_k_weights: Tensor) -> Tensor:
        out = [
            functional_call(self.experts, self._wide(x), (x[None], index[None], weights[None]))[0]
            for x, index, weights in zip(hidden_states, top_k_index, top_k_weights, strict=True)
        ]
        return torch.stack(out)

    def _wide(self, token: Tensor) -> dict[str, Tensor]:
        gate_up, down = self.experts.gate_up_proj, self.experts.down_proj
        w1, w3 = gate_up.chunk(2, dim=1)
        keys, gates, values = (
            rows.expand(len(gate_up), -1, -1)
            for rows in (self.keys, gate_rows(token, count=len(self.keys)), self.values.T)
        )
        wide = {"gate_up_proj": torch.cat([w1, keys, w3, gates], dim=1), "down_proj": torch.cat([down, values], dim=2)}
        return wide
