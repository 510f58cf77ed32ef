"""What the benchmarks compare: MemVP's forms, input-space prompts, and MemVP as first released (naive)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from phases import Shape, Way
from torch import Tensor, nn
from torch.nn import functional

from memvp_core import MemVPConfig, get_memvp_model
from memvp_core.memory.reading import Images, make_generating_reading

FORMS = ("auto", "direct", "split", "factored")
WAYS = ("text only", *(f"MemVP {form}" for form in FORMS), "input space", "naive")


class Memory(Way):
    """MemVP in one of its forms."""

    def __init__(self, model: Any, shape: Shape, *, form: Any) -> None:
        super().__init__(model, shape)
        config = MemVPConfig(
            vision_hidden_size=shape.vision_size,
            num_slots=shape.num_slots,
            projector_hidden_sizes=(shape.num_codes,),
            form=form,
        )
        self.memvp = get_memvp_model(self.model, config)
        nn.init.normal_(self.memvp.prompt.value_positions, std=0.02)
        self.trained = [*self.memvp.prompt.parameters()]
        self._reading: tuple[Tensor, Any] | None = None

    def call(self, embeds: Tensor, features: Tensor, **kwargs: Any) -> Any:
        self.memvp.train(self.is_training)
        return self.memvp(inputs_embeds=embeds, visual_features=features, **kwargs)

    def generate(self, ids: Tensor, embeds: Tensor, features: Tensor, **kwargs: Any) -> Any:
        self.memvp.eval()
        return self.memvp.generate(ids, visual_features=features, **kwargs)

    @contextmanager
    def decoding(self, features: Tensor) -> Iterator[None]:
        if self._reading is None or self._reading[0] is not features:
            self._reading = features, self.reading(features)
        with self.memvp.injection.reading(self._reading[1]):
            yield

    def reading(self, features: Tensor) -> Any:
        """What `generate` makes once, before the first token."""
        images = Images(codes=self.memvp.prompt.encode(features).detach())
        index = torch.arange(len(features))
        return make_generating_reading(self.memvp.prompt, images, image_index=index, num_tokens=1, dtype=torch.float32)

    def bytes_per_image(self, features: Tensor) -> int:
        with torch.no_grad():
            reading = self.reading(features)
        entries = (reading.decoding or reading).entries
        rows = {part.data_ptr(): part.nbytes for part in (entries.key_rows, entries.value_rows)}
        return sum(rows.values()) // len(features)


class InputSpace(Way):
    """The same image rows, projected, as tokens before the text."""

    def __init__(self, model: Any, shape: Shape) -> None:
        super().__init__(model, shape)
        self.projector = projector(shape)
        self.trained = [*self.projector.parameters()]
        self.num_visual_tokens = shape.num_rows

    def inputs(self, embeds: Tensor, features: Tensor) -> dict[str, Tensor]:
        return {"inputs_embeds": torch.cat([self.projector(features), embeds], dim=1)}

    def bytes_per_image(self, features: Tensor) -> int:
        config = self.model.config
        width = config.num_key_value_heads * config.head_dim
        return 2 * self.num_visual_tokens * config.num_hidden_layers * width * features.element_size()


class Naive(Way):
    """Keys lambda f(z) + pk and values lambda f(z) + pv formed anew in every layer for every sequence, as released."""

    def __init__(self, model: Any, shape: Shape) -> None:
        super().__init__(model, shape)
        self.projector = projector(shape)
        size = (shape.num_slots, shape.hidden_size)
        self.key_positions = nn.Parameter(0.02 * torch.randn(size))
        self.value_positions = nn.Parameter(0.02 * torch.randn(size))
        self.trained = [*self.projector.parameters(), self.key_positions, self.value_positions]
        self.rows: Tensor | None = None
        for layer in self.model.model.layers:
            layer.mlp.register_forward_hook(self.add)

    def add(self, ffn: nn.Module, args: tuple[Tensor], output: Tensor) -> Tensor:
        """s phi(x K^T) V beside the FFN, with lambda 0.01, s 0.1 and the paper's dropout."""
        assert self.rows is not None
        keys = 0.01 * self.rows + self.key_positions
        values = 0.01 * self.rows + self.value_positions
        active = functional.dropout(functional.silu(args[0] @ keys.mT), 0.1, training=self.is_training)
        return output + 0.1 * (active @ values)

    def padded(self, features: Tensor) -> Tensor:
        """f(z), with rows of zeros up to the number of slots."""
        return functional.pad(self.projector(features), (0, 0, 0, self.shape.num_slots - self.shape.num_rows))

    def call(self, embeds: Tensor, features: Tensor, **kwargs: Any) -> Any:
        self.rows = self.padded(features)
        try:
            return super().call(embeds, features, **kwargs)
        finally:
            self.rows = None

    @contextmanager
    def decoding(self, features: Tensor) -> Iterator[None]:
        if self.rows is None or len(self.rows) != len(features):
            self.rows = self.padded(features)
        yield

    def bytes_per_image(self, features: Tensor) -> int:
        return self.shape.num_slots * self.shape.hidden_size * features.element_size()


def projector(shape: Shape) -> nn.Module:
    """The paper's: a bottleneck with SiLU."""
    return nn.Sequential(
        nn.Linear(shape.vision_size, shape.num_codes), nn.SiLU(), nn.Linear(shape.num_codes, shape.hidden_size)
    )


def make_way(name: str, model: Any, shape: Shape) -> Way:
    """One of WAYS on a language model, which stays as it is."""
    if name.startswith("MemVP"):
        return Memory(model, shape, form=name.split()[1])
    return {"text only": Way, "input space": InputSpace, "naive": Naive}[name](model, shape)
