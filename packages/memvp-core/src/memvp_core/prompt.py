"""VisualPrompt: the trainable part of MemVP, a projector and two position embeddings.

It holds all of the memory's parameters and is the only code that touches them: what leaves `forward` are new tensors.
So ZeRO-3 may take the parameters away again while the layers still read the memory.

Dimensions: I images, P rows of an image, C feature width, D model width, S slots, L layers with memory.
"""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memvp_core.config import MemVPConfig
from memvp_core.visual_memory import fingerprint

_ACTIVATIONS = {"silu": nn.SiLU, "gelu": nn.GELU, "relu": nn.ReLU}
_KEY_POSITION_STD = 0.02

ScaledParts = tuple[Tensor, Tensor, Tensor, Tensor]


class VisualPrompt(nn.Module):
    """Turns image features into the four tensors from which every layer reads."""

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
        self.config = config
        self.projector = _projector(config, hidden_size=hidden_size, dtype=dtype, device=device)
        shape = (config.num_slots, hidden_size)
        if not config.share_position_embedding:
            shape = (num_layers, *shape)
        self.key_positions = nn.Parameter(torch.empty(shape, dtype=dtype, device=device))
        self.value_positions = nn.Parameter(torch.empty(shape, dtype=dtype, device=device))
        if config.learn_scales:
            self.visual_scale = nn.Parameter(torch.empty(1, dtype=dtype, device=device))
            self.retrieval_scale = nn.Parameter(torch.empty(1, dtype=dtype, device=device))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """The paper's start: Xavier projector without biases, small random keys, no values."""
        for module in self.projector:
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if self.config.projector_bias:
                    nn.init.zeros_(module.bias)
        nn.init.normal_(self.key_positions, std=_KEY_POSITION_STD)
        nn.init.zeros_(self.value_positions)
        if self.config.learn_scales:
            nn.init.constant_(self.visual_scale, self.config.visual_scale)
            nn.init.constant_(self.retrieval_scale, self.config.retrieval_scale)

    @property
    def dtype(self) -> torch.dtype:
        """Of the parameters; features are cast to it."""
        return self.key_positions.dtype

    def project(self, features: Float[Tensor, "I P C"]) -> Float[Tensor, "I P D"]:
        """f(z): the rows a VisualMemory holds."""
        return self.projector(features.to(self.dtype))

    def forward(
        self, *, features: Float[Tensor, "I P C"] | None, rows: Float[Tensor, "I P D"] | None, dtype: torch.dtype
    ) -> ScaledParts:
        """Key rows lambda f(z), value rows s lambda f(z), key positions pk and value positions s pv.

        Give raw `features`, or `rows` that `project` made. The parts are computed in the dtype of the parameters and
        leave in `dtype`, that of the language model.
        """
        if rows is None:
            assert features is not None
            rows = self.project(features)
        visual_scale, retrieval_scale = self._scales()
        key_rows = rows.to(self.dtype) * visual_scale
        # A copy even where nothing changes: the parameter itself must not leave this module.
        key_positions = self.key_positions.clone()
        parts = (key_rows, key_rows * retrieval_scale, key_positions, self.value_positions * retrieval_scale)
        return (parts[0].to(dtype), parts[1].to(dtype), parts[2].to(dtype), parts[3].to(dtype))

    def _scales(self) -> tuple[float | Tensor, float | Tensor]:
        if self.config.learn_scales:
            return self.visual_scale, self.retrieval_scale
        return self.config.visual_scale, self.config.retrieval_scale

    def projector_fingerprint(self) -> str:
        """Names the projector's present weights."""
        return fingerprint(dict(self.projector.named_parameters()))


def _projector(
    config: MemVPConfig, *, hidden_size: int, dtype: torch.dtype, device: torch.device | None
) -> nn.Sequential:
    widths = (config.vision_hidden_size, *config.projector_hidden_sizes, hidden_size)
    layers: list[nn.Module] = []
    for wide, out in pairwise(widths):
        if layers:
            layers.append(_ACTIVATIONS[config.projector_activation]())
        layers.append(nn.Linear(wide, out, bias=config.projector_bias, dtype=dtype, device=device))
    return nn.Sequential(*layers)
