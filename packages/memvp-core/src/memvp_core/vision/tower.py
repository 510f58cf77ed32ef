"""VisionTower: a frozen vision model, which of its rows are features, and adapters that train inside it.

An adapter is Up(dropout(GELU(Down v))) beside a tower's FFN (arXiv 2405.05615, dim 12, scale 0.1, no biases): a memory
of static rows whose keys are Down's and whose values are Up's. So it is put in by the same hooks as the image memory.

Dimensions: L layers that run, A rows of an adapter, C width of the tower.
"""

from dataclasses import asdict
from math import sqrt
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from memvp_core.backbones import FFNSite, find_sites
from memvp_core.injection import Injection, refuse_second_memory
from memvp_core.memory.arrange import NO_IMAGE, arrange
from memvp_core.memory.entries import ReadParts, entries_for
from memvp_core.memory.precision import product_dtype
from memvp_core.memory.reading import Reading
from memvp_core.vision.features import FeatureSpec, tower_features


class VisionTower(nn.Module):
    """Pixels to features; `adapter_size` rows in every layer that runs are its only trainable parameters."""

    def __init__(
        self,
        tower: nn.Module,
        spec: FeatureSpec | None = None,
        *,
        adapter_size: int = 0,
        adapter_scale: float = 0.1,
        adapter_dropout: float = 0.1,
    ) -> None:
        """The tower is changed in place (requires_grad, hooks) until `unload`. Without adapters it is frozen whole."""
        super().__init__()
        self.tower = tower.requires_grad_(False)
        self.spec = spec or FeatureSpec()
        self.adapter_size, self.adapter_scale, self.adapter_dropout = adapter_size, adapter_scale, adapter_dropout
        self._injection: Injection | None = None
        if adapter_size:
            refuse_second_memory(tower)
            sites = _sites_that_run(tower, self.spec)
            self.adapters = StaticRows(tower, num_layers=len(sites), size=adapter_size)
            self._injection = Injection(tower, sites=sites, activation=nn.GELU())

    def forward(self, pixel_values: Float[Tensor, "B *frames channels H W"]) -> Float[Tensor, "B g C"]:
        """Features, as `vision.tower_features` takes them; with gradients where there are adapters."""
        if self._injection is None:
            with torch.no_grad():
                return tower_features(self.tower, pixel_values, self.spec)
        with self._injection.reading(self._reading(pixel_values)):
            return tower_features(self.tower, pixel_values, self.spec)

    def _reading(self, pixel_values: Tensor) -> Reading:
        keys, values = self.adapters(product_dtype(pixel_values.dtype, device=pixel_values.device.type))
        # One unit without an image: however many images come, they all read the same rows.
        arrangement = arrange(torch.tensor([NO_IMAGE]), device=keys.device)
        parts = ReadParts(None, None, keys, values, retrieval_scale=self.adapter_scale)
        entries = entries_for(parts, arrangement=arrangement, insert_in="none")
        return Reading(entries, arrangement, form="split", dropout=self.adapter_dropout if self.training else 0.0)

    def no_features(self) -> Float[Tensor, "0 g C"]:
        """Features of no image, through which a batch without images still gives the adapters zero gradients."""
        config: Any = self.tower.config
        weight = next(self.tower.parameters())
        # A blank image, thrown away: the attention of transformers cannot take an empty batch.
        return self(weight.new_zeros(1, config.num_channels, config.image_size, config.image_size))[:0]

    def train(self, mode: bool = True) -> "VisionTower":
        """The tower itself stays in evaluation mode: it is frozen."""
        super().train(mode)
        self.tower.eval()
        return self

    def settings(self) -> dict[str, Any]:
        """What makes the same one around the same tower, ready for JSON."""
        own = {name: getattr(self, name) for name in ("adapter_size", "adapter_scale", "adapter_dropout")}
        return {"spec": asdict(self.spec), **own}

    @classmethod
    def from_settings(cls, tower: nn.Module, settings: dict[str, Any]) -> "VisionTower":
        """The inverse of `settings`."""
        spec: dict[str, Any] = dict(settings["spec"])
        if not isinstance(spec["layer"], int):
            spec["layer"] = tuple(spec["layer"])
        rest = {name: value for name, value in settings.items() if name != "spec"}
        return cls(tower, FeatureSpec(**spec), **rest)

    def unload(self) -> nn.Module:
        """Take the adapters out and give back the tower."""
        if self._injection is not None:
            self._injection.remove()
        return self.tower


class StaticRows(nn.Module):
    """Keys and values of the adapters; the start is torch's own for Down, and zero for Up."""

    def __init__(self, tower: nn.Module, *, num_layers: int, size: int) -> None:
        """Float32 at least, on the tower's device."""
        super().__init__()
        weight = next(tower.parameters())
        dtype = torch.promote_types(weight.dtype, torch.float32)
        config: Any = tower.config
        shape = (num_layers, size, config.hidden_size)
        self.keys = nn.Parameter(torch.empty(shape, dtype=dtype, device=weight.device))
        self.values = nn.Parameter(torch.empty(shape, dtype=dtype, device=weight.device))
        bound = 1 / sqrt(config.hidden_size)
        nn.init.uniform_(self.keys, -bound, bound)
        nn.init.zeros_(self.values)

    def forward(self, dtype: torch.dtype) -> tuple[Float[Tensor, "L A C"], Float[Tensor, "L A C"]]:
        """Copies in the tower's dtype: the parameters themselves must not leave this module."""
        return self.keys.to(dtype, copy=True), self.values.to(dtype, copy=True)


def _sites_that_run(tower: nn.Module, spec: FeatureSpec) -> list[FFNSite]:
    """FFNs below the deepest hidden state that is taken; those above would train without a gradient."""
    sites = find_sites(tower)
    # Hidden state 0 is the embeddings, so state i comes after i layers.
    deepest = max(layer if layer >= 0 else len(sites) + 1 + layer for layer in spec.layers)
    return [site for site in sites if site.layer < deepest]
