"""Settings of the models a stage is built from: the frozen language model, the vision tower and the LoRA."""

from dataclasses import dataclass
from typing import Any, Literal

from memvp_train.config.errors import require


@dataclass(frozen=True)
class LanguageModelConfig:
    """The frozen language model."""

    path: str
    """Folder, hub name or `toyworld/language`."""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """Type of its weights outside training; training takes the type from `LaunchConfig.precision`."""
    overrides: dict[str, Any] | None = None
    """Fields of the model's own config to change, such as `num_hidden_layers: 2`."""
    random_init: bool = False
    """Only the config is read and the weights are drawn: for trials without the download of a large model."""
    seed: int = 0
    """Seed of `random_init`."""
    load_in_4bit: bool = False
    """Keep its linear layers in 4 bits (NF4, bitsandbytes) in training; needs a GPU."""

    def __post_init__(self) -> None:
        require(bool(self.path), message="language.path is empty; give a folder, a hub name or toyworld/language")


@dataclass(frozen=True)
class VisionConfig:
    """The frozen vision tower and which of its tokens become features."""

    path: str
    """Folder, hub name or `toyworld/vision`."""
    layer: int | tuple[int, ...] = -2
    """Hidden state that is taken, counted as transformers does: 0 embeddings, -1 last layer; several side by side."""
    tokens: Literal["patches", "cls", "all"] = "patches"
    """Which tokens of that layer."""
    post_norm: bool = False
    """Apply the tower's final layer norm to them."""
    projection: bool = False
    """Then project them into the space that CLIP shares with text, as for frames of videos."""
    grid: int | None = None
    """Max-pool the square grid of patches to this many per side, in the tower's own pass; none takes every patch."""
    pool_side: int | None = None
    """Average stored patches in blocks to this many per side; none stores every patch."""
    preprocessing: str = "clip_224"
    """Name of a preprocessing in memvp_data.images."""
    upright: bool = True
    """Turn images as their EXIF orientation says; false as the scripts of benchmarks that look at them as they lie."""
    batch_size: int = 32
    """Images per forward pass."""
    feature_dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Type of the stored features."""
    adapter_dim: int = 0
    """Width of adapters that train in the tower, which then runs in every step; 0: wholly frozen."""
    adapter_dropout: float = 0.1
    """Dropout in these adapters."""
    random_init: bool = False
    """Only the config is read and the weights are drawn."""
    overrides: dict[str, Any] | None = None
    """Fields of the tower's own config to change."""
    seed: int = 0
    """Seed of `random_init`."""

    def __post_init__(self) -> None:
        if not isinstance(self.layer, int):
            object.__setattr__(self, "layer", tuple(self.layer))
            require(len(self.layer) > 0, message="vision.layer is empty; -2 is the usual choice")
        require(bool(self.path), message="vision.path is empty; give a folder, a hub name or toyworld/vision")
        require(
            self.batch_size >= 1, message=f"vision.batch_size must be at least 1 image, got {self.batch_size}; try 32"
        )
        require(
            self.pool_side is None or (self.pool_side >= 1 and self.tokens == "patches"),
            message=f"vision.pool_side {self.pool_side} with tokens {self.tokens!r}; pool patches, to 1 or more",
        )
        require(
            self.grid is None or (self.grid >= 1 and self.tokens == "patches" and self.pool_side is None),
            message=f"vision.grid {self.grid} with tokens {self.tokens!r} and pool_side {self.pool_side}; "
            "pool patches, to 1 or more, in one way",
        )
        require(self.adapter_dim >= 0, message=f"vision.adapter_dim must be 0 (none) or more, got {self.adapter_dim}")
        require(
            0 <= self.adapter_dropout < 1,
            message=f"vision.adapter_dropout must be in [0, 1), got {self.adapter_dropout}",
        )


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adapters on the language model's linear layers."""

    rank: int = 16
    """Rank r."""
    alpha: int = 32
    """Scale: the update is multiplied by alpha / rank."""
    dropout: float = 0.0
    """Dropout before the low-rank pair."""
    target_modules: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
    """Last part of the names of the layers that get one."""

    def __post_init__(self) -> None:
        require(self.rank >= 1, message=f"lora.rank must be at least 1, got {self.rank}; leave lora out for none")
        require(0 <= self.dropout < 1, message=f"lora.dropout must be in [0, 1), got {self.dropout}")
        require(len(self.target_modules) > 0, message="lora.target_modules is empty; name layers such as q_proj")
