"""A Reading is all that the layers need to know during one call: which tokens see which image, and its rows."""

from dataclasses import dataclass, field, replace

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from memvp_core.config import Form
from memvp_core.flops import Workload, choose_form
from memvp_core.memory.arrange import NO_IMAGE, Arrangement, arrange
from memvp_core.memory.entries import Entries, entries_for
from memvp_core.memory.forms import Activation, read_form
from memvp_core.memory.prompt import VisualPrompt

# How many tokens an answer is taken to have when the form for decoding is chosen.
_NUM_NEW_TOKENS = 32


@dataclass(frozen=True)
class Images:
    """The images that a call was given: raw features, or what a VisualMemory holds of them."""

    features: Float[Tensor, "I P V"] | None = None
    codes: Float[Tensor, "I P W"] | None = None
    row_images: Int[Tensor, "I P"] | None = None
    row_weights: Float[Tensor, "I P"] | None = None
    blocked: Bool[Tensor, "I P"] | None = None

    @property
    def shape(self) -> torch.Size:
        """(I, P)."""
        given = self.features if self.codes is None else self.codes
        assert given is not None
        return given.shape[:2]


@dataclass(frozen=True)
class Reading:
    """The memory of one call, arranged for its batch."""

    entries: Entries
    """Keys and values in the order of the arrangement."""

    arrangement: Arrangement
    """Which part of the batch reads which entry."""

    form: Form
    """How the retrieval is computed."""

    dropout: float
    """On the activations; 0 outside training."""

    decoding: "Reading | None" = None
    """What a single new token reads: the image of the last one, in the form that suits one token."""

    _elsewhere: dict[torch.device, "Reading"] = field(default_factory=dict[torch.device, "Reading"], init=False)

    def on(self, device: torch.device) -> "Reading":
        """The same for layers on another device, to which it is moved once for all of them."""
        if self.entries.device == device:
            return self
        if device not in self._elsewhere:
            entries, arrangement = self.entries.to(device), self.arrangement.to(device)
            self._elsewhere[device] = replace(self, entries=entries, arrangement=arrangement)
        return self._elsewhere[device]

    def retrieve(self, x: Tensor, *, layer: int, activation: Activation) -> Tensor:
        """What x (B, T, D) retrieves in a layer, counted over the layers with memory."""
        num_new = 0 if self.decoding is None else self._num_new(x)
        if self.decoding is not None and num_new:
            new = self.decoding.retrieve(x[:, -num_new:], layer=layer, activation=activation)
            if num_new == x.shape[1]:
                return new
            prompt = self.retrieve(x[:, :-num_new], layer=layer, activation=activation)
            return torch.cat([prompt, new], dim=1)
        here = self.on(x.device)
        found = read_form(
            x.to(here.entries.dtype),
            entries=here.entries.of_layer(layer),
            arrangement=here.arrangement_of(x),
            activation=activation,
            dropout=self.dropout,
            form=self.form,
        )
        return found.to(x.dtype)

    def _num_new(self, x: Tensor) -> int:
        """How many of the last tokens are new ones: all of one, and without a cache those beyond the prompt's."""
        num_tokens = x.shape[1] if self.arrangement.num_tokens is None else self.arrangement.num_tokens
        return 1 if x.shape[1] == 1 else max(0, x.shape[1] - num_tokens)

    def scaled(self, factor: float) -> "Reading":
        """The same with s times a factor."""
        entries = replace(self.entries, retrieval_scale=self.entries.retrieval_scale * factor)
        decoding = None if self.decoding is None else self.decoding.scaled(factor)
        return replace(self, entries=entries, decoding=decoding)

    def arrangement_of(self, x: Tensor) -> Arrangement:
        """Beam search and several returned sequences bring every row of the batch several times."""
        times, rest = divmod(x.shape[0], self.arrangement.batch_size)
        num_tokens = self.arrangement.num_tokens
        if rest or not times or num_tokens not in (None, x.shape[1]):
            raise ValueError(
                f"image_index is for {tuple(self.arrangement.index.shape)} (batch, tokens), but a layer was given "
                f"{tuple(x.shape[:2])}; the index must have one row per sequence and one column per token."
            )
        return self.arrangement.repeat(times)


def make_reading(
    prompt: VisualPrompt,
    images: Images,
    *,
    image_index: Int[Tensor, "B"] | Int[Tensor, "B T"],
    num_tokens: int,
    dtype: torch.dtype,
    is_training: bool,
    num_steps: int = 1,
) -> Reading:
    """Arrange the images of a call for the batch that `image_index` describes, of so many tokens a sequence.

    `num_steps` is how many calls of the language model are expected to read it.
    """
    config = prompt.config
    arrangement = arrange(image_index, device=prompt.device)
    load = _workload(prompt, images, arrangement=arrangement, num_tokens=num_tokens, num_steps=num_steps)
    form = choose_form(config.form, load, dtype=dtype, device=prompt.device.type)
    parts = prompt(
        features=images.features,
        codes=images.codes,
        row_images=images.row_images,
        row_weights=images.row_weights,
        form=form,
        dtype=dtype,
    )
    entries = entries_for(
        parts,
        arrangement=arrangement,
        insert_in=config.insert_in,
        position_mode=config.position_mode,
        padded_rows=config.padded_rows,
        no_image=config.no_image,
        row_images=images.row_images,
        blocked=images.blocked,
    )
    if form in ("direct", "reference") and config.share_position_embedding:
        # Once per call instead of once per layer.
        entries = entries.folded()
    return Reading(entries, arrangement, form=form, dropout=config.memory_dropout if is_training else 0.0)


def make_generating_reading(
    prompt: VisualPrompt, images: Images, *, image_index: Tensor, num_tokens: int, dtype: torch.dtype
) -> Reading:
    """For a prompt and then new tokens, one by one, that read the image of the prompt's last one."""
    reading = make_reading(
        prompt, images, image_index=image_index, num_tokens=num_tokens, dtype=dtype, is_training=False
    )
    last = image_index if image_index.ndim == 1 else image_index[:, -1]
    decoding_sizes = {"num_tokens": 1, "num_steps": _NUM_NEW_TOKENS}
    load = _workload(prompt, images, arrangement=reading.arrangement, **decoding_sizes)
    form = choose_form(prompt.config.form, load, dtype=dtype, device=prompt.device.type)
    if form == reading.form and reading.arrangement.num_tokens is None:
        return reading
    decoding = make_reading(prompt, images, image_index=last, dtype=dtype, is_training=False, **decoding_sizes)
    return replace(reading, decoding=decoding)


def _workload(
    prompt: VisualPrompt, images: Images, *, arrangement: Arrangement, num_tokens: int, num_steps: int
) -> Workload:
    return Workload(
        num_queries=arrangement.batch_size * num_tokens,
        num_entries=len(arrangement.entries),
        num_rows=images.shape[1],
        num_slots=prompt.config.num_slots,
        hidden_size=prompt.hidden_size,
        num_codes=prompt.num_codes,
        num_layers=prompt.num_layers,
        positions_are_shared=prompt.config.share_position_embedding,
        num_steps=num_steps,
    )


def checked_index(
    image_index: Tensor | None, *, batch_shape: torch.Size, num_images: int, has_images: bool
) -> Int[Tensor, "B"] | Int[Tensor, "B T"]:
    """The index of a batch (B, T), on the CPU; without one, sequence i has image i, or none has an image."""
    batch_size, num_tokens = batch_shape[:2]
    if image_index is None:
        return _index_in_order(batch_size, num_images=num_images, has_images=has_images)
    index = image_index.cpu()
    if index.is_floating_point() or tuple(index.shape) not in ((batch_size,), (batch_size, num_tokens)):
        raise ValueError(
            f"image_index must hold whole numbers, one per sequence ({batch_size},) or per token "
            f"({batch_size}, {num_tokens}); got {index.dtype} of shape {tuple(index.shape)}."
        )
    if index.numel() and (int(index.max()) >= num_images or int(index.min()) < NO_IMAGE):
        wrong = int(index.max()) if int(index.max()) >= num_images else int(index.min())
        raise ValueError(
            f"image_index holds {wrong}, but there are {num_images} images here: "
            f"use 0 to {num_images - 1}, or {NO_IMAGE} for no image."
        )
    return index


def _index_in_order(batch_size: int, *, num_images: int, has_images: bool) -> Tensor:
    if not has_images:
        return torch.full((batch_size,), NO_IMAGE)
    if num_images != batch_size:
        raise ValueError(
            f"there are {num_images} images for {batch_size} sequences: give image_index, the image of each sequence."
        )
    return torch.arange(batch_size)
