"""Settings of feature extraction, tuning and launching: plain frozen dataclasses that any YAML reader can fill.

Each class refuses impossible values when it is made, in one sentence; what needs a file or a model to be checked is
checked in models.py and stage.py before any worker starts.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal


class ConfigError(ValueError):
    """A setting is impossible, or two settings exclude each other."""


def _require(condition: bool, *, message: str) -> None:
    if not condition:
        raise ConfigError(message)


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

    def __post_init__(self) -> None:
        _require(bool(self.path), message="language.path is empty; give a folder, a hub name or toyworld/language")


@dataclass(frozen=True)
class VisionConfig:
    """The frozen vision tower and which of its tokens become features."""

    path: str
    """Folder, hub name or `toyworld/vision`."""
    layer: int = -2
    """Hidden state that is taken, counted as transformers does: 0 embeddings, -1 last layer."""
    tokens: Literal["patches", "cls", "all"] = "patches"
    """Which tokens of that layer."""
    post_norm: bool = False
    """Apply the tower's final layer norm to them."""
    pool_side: int | None = None
    """Average the square grid of patches in blocks to this many per side; none stores every patch."""
    preprocessing: str = "clip_224"
    """Name of a preprocessing in memvp_data.images."""
    batch_size: int = 32
    """Images per forward pass."""
    feature_dtype: Literal["float16", "bfloat16", "float32"] = "float16"
    """Type of the stored features."""
    random_init: bool = False
    """Only the config is read and the weights are drawn."""
    overrides: dict[str, Any] | None = None
    """Fields of the tower's own config to change."""
    seed: int = 0
    """Seed of `random_init`."""

    def __post_init__(self) -> None:
        _require(bool(self.path), message="vision.path is empty; give a folder, a hub name or toyworld/vision")
        _require(
            self.batch_size >= 1, message=f"vision.batch_size must be at least 1 image, got {self.batch_size}; try 32"
        )
        _require(
            self.pool_side is None or (self.pool_side >= 1 and self.tokens == "patches"),
            message=f"vision.pool_side {self.pool_side} with tokens {self.tokens!r}; pool patches, to 1 or more",
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
        _require(self.rank >= 1, message=f"lora.rank must be at least 1, got {self.rank}; leave lora out for none")
        _require(0 <= self.dropout < 1, message=f"lora.dropout must be in [0, 1), got {self.dropout}")
        _require(len(self.target_modules) > 0, message="lora.target_modules is empty; name layers such as q_proj")


@dataclass(frozen=True)
class StageConfig:
    """One stage of tuning. Exactly one of `num_steps` and `num_epochs` is set."""

    num_steps: int | None = None
    """Optimiser steps."""
    num_epochs: float | None = None
    """Passes over the samples; rounded up to whole steps."""
    global_batch_size: int = 32
    """Samples per optimiser step over all workers."""
    micro_batch_size: int = 16
    """Samples per forward pass of one worker; the rest of the global batch is accumulated."""
    learning_rate: float = 5e-3
    """Peak rate of the memory: projector and positions."""
    lora_learning_rate: float | None = None
    """Peak rate of the LoRA weights; none takes `learning_rate`."""
    weight_decay: float = 0.0
    """AdamW's decay, on matrices only."""
    betas: tuple[float, float] = (0.9, 0.999)
    """AdamW's running averages."""
    warmup_fraction: float = 0.03
    """Share of the steps in which the rate climbs; a cosine to zero follows."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm; 0 leaves them as they are."""
    template: str = "plain"
    """Name of a template in memvp_data.text."""
    max_length: int = 512
    """Tokens kept of a sample."""
    seed: int = 0
    """Seed of initial weights, sample order and dropout."""
    checkpoint_every: int = 200
    """Steps between checkpoints; the last step always has one."""
    log_every: int = 10
    """Steps between writes of the metrics; every step has its line."""
    lora: LoraSettings | None = None
    """LoRA on the language model, trained from zero in this stage."""
    gradient_checkpointing: bool = False
    """Recompute activations in backward to save memory."""

    def __post_init__(self) -> None:
        _require(
            (self.num_steps is None) != (self.num_epochs is None),
            message=f"exactly one of num_steps and num_epochs must be set, got {self.num_steps} and {self.num_epochs}",
        )
        self._check_positive()
        _require(
            0 <= self.warmup_fraction < 1, message=f"warmup_fraction must be in [0, 1), got {self.warmup_fraction}"
        )
        _require(
            len(self.betas) == 2 and all(0 <= beta < 1 for beta in self.betas),
            message=f"betas must be two numbers in [0, 1), got {self.betas}",
        )
        if self.lora is None and self.lora_learning_rate is not None:
            raise ConfigError("lora_learning_rate is set but lora is not; add lora or remove lora_learning_rate")

    def _check_positive(self) -> None:
        names = ("num_steps", "num_epochs", "global_batch_size", "micro_batch_size", "learning_rate")
        for name in (*names, "lora_learning_rate", "max_length", "checkpoint_every", "log_every"):
            value = getattr(self, name)
            _require(value is None or value > 0, message=f"{name} must be above 0, got {value}")
        for name in ("weight_decay", "max_grad_norm"):
            _require(getattr(self, name) >= 0, message=f"{name} must not be negative, got {getattr(self, name)}")

    def num_micro_batches(self, *, num_workers: int) -> int:
        """Forward passes of one worker per optimiser step."""
        return -(-self.global_batch_size // (self.micro_batch_size * num_workers))

    def steps_for(self, *, num_samples: int) -> int:
        """Optimiser steps of the stage over `num_samples` samples."""
        if self.num_steps is not None:
            return self.num_steps
        return max(1, math.ceil((self.num_epochs or 0) * num_samples / self.global_batch_size))


@dataclass(frozen=True)
class LaunchConfig:
    """Where and how the workers of a stage run."""

    num_workers: int = 2
    """Training processes; 0 trains in this process, without Ray and DeepSpeed."""
    use_gpu: bool = False
    """One GPU per worker."""
    zero_stage: Literal[1, 2, 3] = 2
    """DeepSpeed ZeRO: 1 splits the optimiser over workers, 2 gradients too, 3 the frozen weights too."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """Type of the weights in training; bf16 keeps fp32 master copies of what is trained."""
    max_failures: int = 3
    """Times a broken group of workers is started again from its last checkpoint."""
    cpus_per_worker: int = 1
    """CPU cores and torch threads of a worker."""
    loader_processes: int = 0
    """Processes beside each worker that make its batches ahead; 0 makes them between two steps."""
    dashboard_port: int | None = None
    """Port of the dashboard of a Ray started here; none takes a free one."""
    timeout_seconds: int = 1800
    """Longest wait of one worker for another."""

    def __post_init__(self) -> None:
        _require(
            self.num_workers >= 0,
            message=f"launch.num_workers must be 0 (this process) or more, got {self.num_workers}",
        )
        _require(self.max_failures >= 0, message=f"launch.max_failures must be 0 or more, got {self.max_failures}")
        _require(
            self.cpus_per_worker >= 1, message=f"launch.cpus_per_worker must be at least 1, got {self.cpus_per_worker}"
        )
        _require(
            self.loader_processes >= 0,
            message=f"launch.loader_processes must be 0 or more, got {self.loader_processes}",
        )
        _require(
            self.timeout_seconds >= 1, message=f"launch.timeout_seconds must be above 0, got {self.timeout_seconds}"
        )
        port = self.dashboard_port
        _require(
            port is None or 1024 <= port <= 65535,
            message=f"launch.dashboard_port must be between 1024 and 65535, got {port}; leave it out for a free one",
        )


def check_batch_split(stage: StageConfig, *, num_workers: int) -> None:
    """Refuse a global batch that the workers cannot share equally: unequal shares would leave one waiting for ever."""
    workers = max(1, num_workers)
    _require(
        stage.global_batch_size % workers == 0,
        message=f"global_batch_size {stage.global_batch_size} must be a multiple of the {workers} workers; "
        f"try {math.ceil(stage.global_batch_size / workers) * workers}",
    )


def stage_from_dict(values: Mapping[str, Any]) -> StageConfig:
    """The inverse of `dataclasses.asdict` after a trip through JSON."""
    lora = values["lora"]
    if lora is not None:
        lora = LoraSettings(**{**lora, "target_modules": tuple(lora["target_modules"])})
    return StageConfig(**{**values, "betas": tuple(values["betas"]), "lora": lora})


@dataclass(frozen=True)
class StageRun:
    """What a stage trains on and where it puts things; plain data."""

    language: LanguageModelConfig
    """The frozen language model."""
    memvp: dict[str, Any]
    """Fields of memvp_core.MemVPConfig."""
    stage: StageConfig
    """How it is trained."""
    samples: str
    """Samples table (Parquet)."""
    features: str | None
    """Folder of feature shards; none trains without any image (a blind control)."""
    init_adapter: str | None
    """Adapter to start from; none starts a new memory."""
    out: str
    """Folder of the stage: adapter/, metrics.jsonl, checkpoints."""


def run_from_dict(values: dict[str, Any]) -> StageRun:
    """The inverse of `dataclasses.asdict`: workers get plain dictionaries."""
    language = LanguageModelConfig(**values["language"])
    return StageRun(**{**values, "language": language, "stage": stage_from_dict(values["stage"])})
