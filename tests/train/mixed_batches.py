"""Micro-batches that mix text-only samples with one and several images, in the orders that would make ranks wait.

Used by zero3_rank.py and the test that starts it. Each step says which images the rows of each rank show.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from memvp_core import MemVPConfig, MemVPModel, VisionTower, get_memvp_model
from memvp_data.dataloader.batch import Batch, Segment, collate
from memvp_data.dataloader.batch_images import ImageSource, shown_images
from memvp_data.text import Encoded
from memvp_train.training.loss import micro_batch_loss
from tests.core.conftest import FEATURE_WIDTH, make_model
from tests.core.tiny_models import VOCABULARY, make_tiny

Rows = tuple[tuple[str, ...], ...]
STEPS: tuple[tuple[Rows, Rows], ...] = (
    (((), ()), (("a",), ("b", "c"))),  # one rank all text, the other all images
    ((("a", "b"), ("c",)), ((), ())),  # and the other way round
    (((), ()), ((), ())),  # none anywhere
    (((), ("a",)), (("b", "a", "c"), ())),  # in turns within a batch
    ((("a",), ("a",)), (("b",), ("a", "b"))),  # several images on one rank only
)
# Looked at once more after training, as validation does.
VALIDATED = (0, 2)
ROWS, TOWER_WIDTH, SIDE = 4, 16, 8
START = 2


@dataclass(frozen=True)
class Mixed:
    """A model that such batches train."""

    architecture: str
    settings: dict[str, Any]
    has_tower: bool = False
    is_checkpointed: bool = False


MIXED = {
    "mixed_features": Mixed("llama", {"form": "factored", "num_images": 3}),
    "mixed_pixels": Mixed("llama", {"form": "direct"}, has_tower=True, is_checkpointed=True),
    "mixed_bart": Mixed("bart", {"share_position_embedding": False}, has_tower=True),
}


def build_mixed(case: Mixed) -> MemVPModel:
    """In float32, every adapter of the tower at work."""
    still = {} if case.architecture == "llama" else dict.fromkeys(_DROPOUTS, 0.0)
    base = make_tiny(case.architecture, dtype=torch.float32, **still)
    settings = {"num_slots": 3 * ROWS, **case.settings}
    if not case.has_tower:
        model = make_model(base, **settings)
    else:
        defaults = {"visual_scale": 2.0, "retrieval_scale": 0.9, "projector_hidden_sizes": (7,), "memory_dropout": 0.0}
        config = MemVPConfig(vision_hidden_size=TOWER_WIDTH, **{**defaults, **settings})
        tower = _tower()
        torch.manual_seed(1)
        model = get_memvp_model(base, config, tower)
        for parameter in model.trainable_state().values():
            nn.init.normal_(parameter, std=0.5)
    if case.is_checkpointed:
        model.gradient_checkpointing_enable()
    return model.train()


_DROPOUTS = ("dropout", "attention_dropout", "activation_dropout")


def _tower() -> VisionTower:
    from transformers import CLIPVisionConfig, CLIPVisionModel

    torch.manual_seed(2)
    sizes: dict[str, Any] = {"intermediate_size": 24, "num_hidden_layers": 3, "num_attention_heads": 2, "patch_size": 4}
    config = CLIPVisionConfig(hidden_size=TOWER_WIDTH, image_size=SIDE, initializer_range=0.3, **sizes)
    return VisionTower(CLIPVisionModel(config), adapter_size=3, adapter_dropout=0.0)


class _Images:
    """Image "a", "b" or "c": features, or pixels for a tower that makes as many rows of them."""

    num_rows = ROWS

    def __init__(self, *, is_pixels: bool) -> None:
        self.feature_shape = (3, SIDE, SIDE) if is_pixels else (ROWS, FEATURE_WIDTH)

    def __contains__(self, image_id: object) -> bool:
        return image_id in ("a", "b", "c")

    def load(self, image_ids: Any) -> Tensor:
        seeds = [torch.Generator().manual_seed(ord(image_id)) for image_id in image_ids]
        return torch.stack([torch.randn(self.feature_shape, generator=seed) for seed in seeds])


def mixed_batch(case: Mixed, step: int, *, ranks: tuple[int, ...]) -> Batch:
    """The rows of these ranks as the loader makes them; labels are counted over both."""
    samples = [[_sample(case, step=step, rank=rank, row=row)] for rank in (0, 1) for row in range(2)]
    rows = [samples[2 * rank + row] for rank in ranks for row in range(2)]
    source: ImageSource = _Images(is_pixels=case.has_tower)
    entries = list(dict.fromkeys(one.image_ids for (one,) in rows if one.image_ids))
    return collate(
        [[Segment(one, one.weight)] for (one,) in rows],
        shown=shown_images(entries, source=source, feature_shape=source.feature_shape),
        entries={images: place for place, images in enumerate(entries)},
        pad_token_id=0,
        num_global_labels=sum(one.num_labels for (one,) in samples),
        is_packed=False,
        decoder_start_token_id=START if case.architecture == "bart" else None,
    )


def _sample(case: Mixed, *, step: int, rank: int, row: int) -> Encoded:
    number = 4 * step + 2 * rank + row
    generator = torch.Generator().manual_seed(number)
    ids = torch.randint(3, VOCABULARY - 1, (5 + row,), generator=generator).tolist()
    labels = (*[-100] * 3, *ids[3:])
    return Encoded(str(number), tuple(ids), labels, STEPS[step][rank][row])


def mixed_loss(model: nn.Module, batch: Batch) -> Tensor:
    """This batch's share of the loss over both ranks."""
    return micro_batch_loss(model, batch, device=torch.device("cpu"), dtype=torch.float32)
