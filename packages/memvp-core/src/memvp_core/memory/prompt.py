"""VisualPrompt: the trainable part of MemVP, a projector and two position embeddings.

It holds all of the memory's parameters and is the only code that touches them: what leaves `forward` are new tensors.
So ZeRO-3 may take the parameters away again while the layers still read the memory.

Dimensions: I images, P rows of an image, V feature width, C width of the projector's last hidden layer (V where it
has none), D model width, S slots, L layers with memory.
"""

from itertools import pairwise
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional

from memvp_core.config import Form, MemVPConfig
from memvp_core.memory.entries import ReadParts, Scale
from memvp_core.memory.precision import without_autocast
from memvp_core.visual_memory import projector_name

_ACTIVATIONS = {"silu": nn.SiLU, "gelu": nn.GELU, "relu": nn.ReLU}
_KEY_POSITION_STD = 0.02


class LastLayer(nn.Linear):
    """The last layer of a projector, f(z) = W c + b. Without codes it gives W and b themselves, through its hooks."""

    def forward(self, input: Float[Tensor, "*I C"] | None) -> Tensor:
        """f(z) (..., D) of codes (..., C); or for None the basis (D, C), or (D, C + 1) with b as its last column."""
        if input is not None:
            return super().forward(input)
        # A copy even where nothing changes: the parameter itself must not leave this module.
        # torch's types leave out that a layer may have no bias.
        bias: Any = self.bias
        return self.weight.clone() if bias is None else torch.cat([self.weight, bias[:, None]], dim=1)


class VisualPrompt(nn.Module):
    """Turns image features into the tensors from which every layer reads."""

    def __init__(
        self,
        config: MemVPConfig,
        *,
        hidden_size: int,
        num_layers: int,
        dtype: torch.dtype,
        device: torch.device | None = None,
    ) -> None:
        """`num_layers` counts the layers that get the memory."""
        super().__init__()
        if config.retrieval_scale == "auto":
            raise ValueError(
                'retrieval_scale "auto" is for training jobs, which put a number in its place before their first step; '
                "here give a number, or let memvp_core.scales.harmless_scale find one."
            )
        self.config = config
        self.hidden_size = hidden_size
        self.num_layers = num_layers
        if config.has_projector:
            self.projector = _projector(config, hidden_size=hidden_size, dtype=dtype, device=device)
            if config.num_images > 1:
                shape = (config.num_images, hidden_size)
                self.image_embedding = nn.Parameter(torch.empty(shape, dtype=dtype, device=device))
        shape = (config.num_slots, hidden_size)
        if not config.share_position_embedding:
            shape = (num_layers, *shape)
        self.key_positions = nn.Parameter(torch.empty(shape, dtype=dtype, device=device))
        self.value_positions = nn.Parameter(torch.empty(shape, dtype=dtype, device=device))
        if config.learn_scales:
            self.visual_scale = nn.Parameter(torch.empty(1, dtype=dtype, device=device))
            self.retrieval_scale = nn.Parameter(torch.empty(1, dtype=dtype, device=device))
        if config.retrieval_gate:
            self.retrieval_gates = nn.Parameter(torch.empty(num_layers, dtype=dtype, device=device))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The paper's start: Xavier projector without biases, small random keys, no values."""
        if self.config.has_projector:
            for module in self.projector:
                if isinstance(module, nn.Linear):
                    nn.init.xavier_uniform_(module.weight)
                    if self.config.projector_bias:
                        nn.init.zeros_(module.bias)
            if self.config.num_images > 1:
                nn.init.zeros_(self.image_embedding)
        nn.init.normal_(self.key_positions, std=_KEY_POSITION_STD)
        nn.init.zeros_(self.value_positions)
        if self.config.learn_scales:
            nn.init.constant_(self.visual_scale, self.config.visual_scale)
            nn.init.constant_(self.retrieval_scale, float(self.config.retrieval_scale))
        if self.config.retrieval_gate:
            nn.init.zeros_(self.retrieval_gates)

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters; features are cast to it."""
        return any_parameter(self).dtype

    @property
    def device(self) -> torch.device:
        """Of the parameters."""
        return any_parameter(self).device

    @property
    def num_codes(self) -> int | None:
        """C where codes are narrower than rows, so that they are what a memory keeps; else None."""
        narrow = self.config.has_projector and self.config.num_codes < self.hidden_size
        return self.config.num_codes if narrow else None

    def encode(self, features: Float[Tensor, "I P V"]) -> Float[Tensor, "I P W"]:
        """The smallest exact form of f(z): codes (W = C) where these are narrower than rows, else rows (W = D)."""
        if not self.config.has_projector:
            return features.new_empty(*features.shape[:2], 0)
        with without_autocast(self.device.type):
            codes = self.projector[:-1](features.to(self.dtype))
            return codes if self.num_codes is not None else self.projector[-1](codes)

    def forward(
        self,
        *,
        features: Float[Tensor, "I P V"] | None,
        codes: Float[Tensor, "I P W"] | None = None,
        row_images: Int[Tensor, "I P"] | None = None,
        row_weights: Float[Tensor, "I P"] | None = None,
        form: Form,
        dtype: torch.dtype,
    ) -> ReadParts:
        """What the layers read, in the dtype of the language model; computed in that of the parameters, never autocast.

        Give raw `features`, or `codes` that `encode` made. `row_images` says which image of its entry a row shows,
        -1 for rows that only pad; `row_weights` scale what is visual in each row.
        """
        visual_scale, retrieval_scale = self._scales()
        # Copies even where nothing changes: the parameters themselves must not leave this module.
        key_positions, value_positions = (
            self.key_positions.to(dtype, copy=True),
            self.value_positions.to(dtype, copy=True),
        )
        rows = basis = None
        row_scale: Scale = 1.0
        if self.config.has_projector:
            codes = self._codes(features, codes)
            weights = _row_weights(row_images, row_weights, dtype=self.dtype)
            if form == "factored":
                codes, basis = self._in_basis(codes, row_images)
                rows, basis, row_scale = _weighted(codes, weights).to(dtype), basis.to(dtype), visual_scale
            else:
                rows = (_weighted(self._rows(codes, row_images), weights) * visual_scale).to(dtype)
        return ReadParts(rows, basis, key_positions, value_positions, row_scale, retrieval_scale)

    def _codes(self, features: Tensor | None, codes: Tensor | None) -> Tensor:
        if codes is None:
            assert features is not None
            codes = self.encode(features)
        return codes.to(self.dtype)

    def _rows(self, codes: Tensor, row_images: Tensor | None) -> Tensor:
        """f(z), and the embedding of the image that a row shows."""
        with without_autocast(self.device.type):
            rows = codes if self.num_codes is None else self.projector[-1](codes)
        if self.config.num_images == 1:
            return rows
        return rows + functional.embedding(_numbers_of(codes, row_images), self.image_embedding)

    def _in_basis(self, codes: Tensor, row_images: Tensor | None) -> tuple[Tensor, Tensor]:
        """The same as W [c; 1; e_j]: bias and image embeddings are columns of the basis, whose codes are 1 or 0."""
        basis: Tensor = self.projector[-1](None)
        extended, columns = [codes], [basis]
        if self.config.projector_bias:
            extended.append(codes.new_ones(*codes.shape[:2], 1))
        if self.config.num_images > 1:
            one_hot = functional.one_hot(_numbers_of(codes, row_images), self.config.num_images)
            extended.append(one_hot.to(codes.dtype))
            columns.append(self.image_embedding.T)
        return torch.cat(extended, dim=-1), torch.cat(columns, dim=1)

    def _scales(self) -> tuple[Scale, Scale]:
        """lambda and s, which with gates is (L, 1)."""
        visual_scale: Scale = self.config.visual_scale
        retrieval_scale: Scale = float(self.config.retrieval_scale)
        if self.config.learn_scales:
            visual_scale, retrieval_scale = self.visual_scale.clone(), self.retrieval_scale.clone()
        if self.config.retrieval_gate:
            retrieval_scale = retrieval_scale * self.retrieval_gates[:, None]
        return visual_scale, retrieval_scale

    def projector_name(self) -> str:
        """Names the projector's present weights, as `is_same_projector` compares them."""
        named = self.projector.named_parameters() if self.config.has_projector else ()
        return projector_name(dict(named))


def any_parameter(module: nn.Module) -> nn.Parameter:
    """For its dtype and device. Under ZeRO-3 `module.weight` gathers the weight, on all ranks or they wait for ever."""
    return next(module.parameters())


def _numbers_of(codes: Tensor, row_images: Tensor | None) -> Tensor:
    """Which image each row shows; padding counts as the first, and is weighted with 0."""
    if row_images is None:
        return torch.zeros(codes.shape[:2], dtype=torch.long, device=codes.device)
    return row_images.to(codes.device, torch.long).clamp(min=0)


def _row_weights(row_images: Tensor | None, row_weights: Tensor | None, *, dtype: torch.dtype) -> Tensor | None:
    """(I, P, 1): 0 for padding."""
    if row_images is None:
        return None if row_weights is None else row_weights.to(dtype)[..., None]
    shown = (row_images >= 0).to(dtype)
    return (shown if row_weights is None else shown * row_weights.to(shown))[..., None]


def _weighted(rows: Tensor, weights: Tensor | None) -> Tensor:
    return rows if weights is None else rows * weights.to(rows.device)


def _projector(
    config: MemVPConfig, *, hidden_size: int, dtype: torch.dtype, device: torch.device | None
) -> nn.Sequential:
    widths = (config.vision_hidden_size, *config.projector_hidden_sizes, hidden_size)
    layers: list[nn.Module] = []
    for number, (wide, out) in enumerate(pairwise(widths)):
        kind = LastLayer if number == len(widths) - 2 else nn.Linear
        layers.append(kind(wide, out, bias=config.projector_bias, dtype=dtype, device=device))
        layers.append(_ACTIVATIONS[config.projector_activation]())
    return nn.Sequential(*layers[:-1])
