"""MemVPConfig: every setting of a visual memory, checked when it is made.

The symbols of the paper (arXiv 2405.05615) stand in parentheses. Nothing here touches a tensor.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from itertools import pairwise
from typing import Any, Literal, get_args

ProjectorActivation = Literal["silu", "gelu", "relu"]
InsertIn = Literal["both", "keys", "values", "none"]
PositionMode = Literal["add", "concat"]
PaddedRows = Literal["live", "masked"]
NoImage = Literal["positions", "base"]
TargetStack = Literal["auto", "encoder", "decoder", "both"]
Form = Literal["direct", "split", "factored", "reference"]
FormChoice = Literal["auto", "direct", "split", "factored", "reference"]

_FORMER_NAMES = {"method": "form"}
# Settings that came later, with what older files mean by leaving them out.
_LATER = {"retrieval_gate": False}


@dataclass(frozen=True, kw_only=True)
class MemVPConfig:
    """How image features become rows of the feed-forward memories of a language model."""

    vision_hidden_size: int
    """Width of one image feature."""

    num_slots: int = 320
    """Rows of the position embedding (n); an image may bring at most this many."""

    visual_scale: float = 0.01
    """Factor on the projected image rows (lambda); its start value when `learn_scales`."""

    retrieval_scale: float | Literal["auto"] = 0.1
    """Factor on what the memory returns (s); its start value when `learn_scales`. "auto": found before training."""

    learn_scales: bool = False
    """Train both scales."""

    retrieval_gate: bool = False
    """A learned factor on s for each layer with memory, 0 at first: training starts from the base model."""

    projector_hidden_sizes: tuple[int, ...] = (128,)
    """Widths of the projector's hidden layers; () makes it one linear layer."""

    projector_activation: ProjectorActivation = "silu"
    """Activation between the projector's layers; gelu is the exact (erf) form."""

    projector_bias: bool = True
    """Give the projector's linear layers a bias."""

    share_position_embedding: bool = True
    """One pair of position embeddings for all layers, or one pair per layer."""

    insert_in: InsertIn = "both"
    """Where the image rows are added: to keys and values, to one of them, or nowhere (ablations of Table 4)."""

    position_mode: PositionMode = "add"
    """Image rows are added to the position rows (paper), or stand before them as rows of their own (Table 4)."""

    num_images: int = 1
    """Images one entry may hold side by side; above 1, each has a learned embedding that is added to its rows."""

    padded_rows: PaddedRows = "live"
    """Rows beyond the image's own: "live" as static memory (paper), or "masked". Image-free samples keep all rows."""

    no_image: NoImage = "positions"
    """What an image-free sample reads: the "positions" (paper), or nothing, which is exactly the "base" model."""

    memory_dropout: float = 0.1
    """Dropout on the activations of the memory rows, in training."""

    target_stack: TargetStack = "auto"
    """The layers that get the memory; "auto" is the encoder where there is one (paper), else the decoder."""

    layers_to_transform: tuple[int, ...] | None = None
    """Numbers of the layers that get the memory; None is all of them."""

    train_layer_norms: bool = False
    """Train the norms of the language model too, as the paper does for BART and T5."""

    form: FormChoice = "auto"
    """Form of the retrieval (memory/forms.py): they agree in value and gradient, and differ in speed and rounding."""

    def __post_init__(self) -> None:
        """Turn lists and whole numbers, as YAML gives them, into tuples and floats; check everything."""
        object.__setattr__(self, "projector_hidden_sizes", tuple(self.projector_hidden_sizes))
        if self.layers_to_transform is not None:
            object.__setattr__(self, "layers_to_transform", tuple(self.layers_to_transform))
        self._check_sizes()
        self._check_numbers()
        self._check_choices()
        object.__setattr__(self, "visual_scale", float(self.visual_scale))
        if self.retrieval_scale != "auto":
            object.__setattr__(self, "retrieval_scale", float(self.retrieval_scale))

    def _check_sizes(self) -> None:
        for name in ("vision_hidden_size", "num_slots", "num_images"):
            _check_positive_integer(getattr(self, name), name=name)
        for size in self.projector_hidden_sizes:
            _check_positive_integer(size, name="every entry of projector_hidden_sizes")
        layers = self.layers_to_transform
        if layers is not None and (not layers or len(set(layers)) != len(layers) or min(layers) < 0):
            raise ValueError(
                f"layers_to_transform must be None or different layer numbers from 0 on, got {list(layers)}."
            )

    def _check_numbers(self) -> None:
        for name in ("visual_scale", "retrieval_scale"):
            value = getattr(self, name)
            if name == "retrieval_scale" and value == "auto":
                continue
            if isinstance(value, bool) or not isinstance(value, int | float) or not abs(value) < float("inf"):
                words = ' or "auto"' if name == "retrieval_scale" else ""
                raise ValueError(f"{name} must be a finite number{words}, got {value!r}.")
        if not 0.0 <= self.memory_dropout < 1.0:
            raise ValueError(f"memory_dropout must be at least 0 and below 1, got {self.memory_dropout!r}.")
        switches = ("learn_scales", "retrieval_gate", "projector_bias", "share_position_embedding", "train_layer_norms")
        for name in switches:
            if not isinstance(getattr(self, name), bool):
                raise ValueError(f"{name} must be true or false, got {getattr(self, name)!r}.")

    def _check_choices(self) -> None:
        choices = {
            "projector_activation": ProjectorActivation,
            "insert_in": InsertIn,
            "position_mode": PositionMode,
            "padded_rows": PaddedRows,
            "no_image": NoImage,
            "target_stack": TargetStack,
            "form": FormChoice,
        }
        for name, allowed in choices.items():
            if getattr(self, name) not in get_args(allowed):
                options = ", ".join(get_args(allowed))
                raise ValueError(f"{name} must be one of {options}; got {getattr(self, name)!r}.")
        self._check_combinations()

    def _check_combinations(self) -> None:
        if self.retrieval_scale == "auto" and (self.learn_scales or self.retrieval_gate):
            other = "learn_scales" if self.learn_scales else "retrieval_gate"
            raise ValueError(
                f'retrieval_scale "auto" finds one fixed number before training, and {other} learns it: '
                "take one of the two."
            )
        if self.retrieval_gate and self.insert_in in ("keys", "none"):
            raise ValueError(
                f"retrieval_gate with insert_in {self.insert_in!r} would never train: gates and values would both "
                'begin at 0 and each has no gradient without the other; use "both" or "values", or no gate.'
            )
        if self.position_mode == "concat" and self.padded_rows == "masked":
            raise ValueError(
                'padded_rows "masked" has no meaning with position_mode "concat", where no row is padded: '
                'leave it at "live".'
            )
        if self.insert_in == "none" and self.padded_rows == "masked":
            raise ValueError(
                'padded_rows "masked" has no meaning with insert_in "none", where an image has no rows: '
                'leave it at "live".'
            )
        if self.position_mode == "concat" and self.insert_in in ("keys", "values"):
            raise ValueError(
                f'insert_in {self.insert_in!r} with position_mode "concat" leaves image rows without a key or a value, '
                'so they would have no effect: use "both", or position_mode "add".'
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain values, ready for JSON."""
        values = asdict(self)
        for name in ("projector_hidden_sizes", "layers_to_transform"):
            values[name] = None if values[name] is None else list(values[name])
        return values

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "MemVPConfig":
        """The inverse of `to_dict`, former names included; a name that is no setting, or a missing one, is refused."""
        values = present_names(values)
        known = [field.name for field in fields(cls)]
        unknown = sorted(set(values) - set(known))
        if unknown:
            raise ValueError(f"MemVPConfig has no setting {', '.join(unknown)}; it has: {', '.join(known)}.")
        if "vision_hidden_size" not in values:
            raise ValueError("MemVPConfig needs vision_hidden_size, the width of one image feature.")
        return cls(**values)

    @property
    def has_projector(self) -> bool:
        """Whether there are image rows at all."""
        return self.insert_in != "none"

    @property
    def num_codes(self) -> int:
        """Width of what the projector's last layer is given: its last hidden width, or the features' own."""
        return (self.vision_hidden_size, *self.projector_hidden_sizes)[-1]

    def num_parameters(self, *, hidden_size: int, num_layers: int) -> int:
        """Trainable numbers of the memory (projector, positions, scales) in a model of this width and depth."""
        hooked = num_layers if self.layers_to_transform is None else len(self.layers_to_transform)
        positions = 2 * self.num_slots * hidden_size * (1 if self.share_position_embedding else hooked)
        scales = 2 * self.learn_scales + hooked * self.retrieval_gate
        return self._num_projector_parameters(hidden_size) + positions + scales

    def _num_projector_parameters(self, hidden_size: int) -> int:
        if not self.has_projector:
            return 0
        widths = (self.vision_hidden_size, *self.projector_hidden_sizes, hidden_size)
        images = self.num_images * hidden_size if self.num_images > 1 else 0
        return images + sum((wide + self.projector_bias) * out for wide, out in pairwise(widths))


def present_names(values: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a memory as saved once, under the names that they have now, with those that there were not then."""
    return _LATER | {_FORMER_NAMES.get(name, name): value for name, value in values.items()}


def _check_positive_integer(value: object, *, name: str) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or value < 1:
        raise ValueError(f"{name} must be a positive whole number, got {value!r}.")
