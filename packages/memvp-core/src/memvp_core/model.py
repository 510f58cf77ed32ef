"""MemVPModel: a frozen language model that reads images through memory in its feed-forward networks.

The usual way in is `get_memvp_model(language_model, config)`. Training calls the model with `visual_features`, so that
the projector runs inside `forward` where DDP and ZeRO expect it; inference encodes an image once and passes `memory`.
"""

from collections.abc import Callable, Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from memvp_core import lora, saving
from memvp_core.backbones import choose_layers, find_ffns
from memvp_core.config import MemVPConfig
from memvp_core.injection import Injection
from memvp_core.prompt import VisualPrompt
from memvp_core.reading import Reading, checked_index, make_reading
from memvp_core.visual_memory import VisualMemory


def get_memvp_model(language_model: nn.Module, config: MemVPConfig) -> "MemVPModel":
    """Freeze a causal language model of transformers (a PeftModel's LoRA stays trainable) and give it a memory."""
    return MemVPModel(language_model, config)


class MemVPModel(nn.Module):
    """A language model and its visual prompt; only the prompt, and a LoRA if there is one, are trainable."""

    def __init__(self, language_model: nn.Module, config: MemVPConfig) -> None:
        """The language model is changed in place (hooks, requires_grad) until `unload`."""
        super().__init__()
        base_config: Any = getattr(language_model, "config", None)
        backbone, sites = find_ffns(language_model, model_type=getattr(base_config, "model_type", "unknown"))
        sites = choose_layers(sites, layers=config.layers_to_transform)
        self.memvp_config = config
        self.language_model = language_model
        self._trainable_before = {name for name, p in language_model.named_parameters() if p.requires_grad}
        if not lora.has_lora(language_model):
            language_model.requires_grad_(False)
        embedding = _embedding_weight(language_model)
        self.prompt = VisualPrompt(
            config,
            hidden_size=base_config.hidden_size,
            num_layers=len(sites),
            # 16-bit weights are too coarse to add small updates to.
            dtype=torch.promote_types(embedding.dtype, torch.float32),
            device=embedding.device,
        )
        self._injection = Injection(language_model, backbone=backbone, sites=sites)
        self._is_disabled = False

    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Tensor | None = None,
        labels: Int[Tensor, "B T"] | None = None,
        *,
        visual_features: Float[Tensor, "I g c"] | None = None,
        memory: VisualMemory | None = None,
        image_index: Int[Tensor, "B"] | Int[Tensor, "B T"] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The language model's own output.

        `image_index` names the entry of the features or the memory that each sequence (or token) reads, -1 for none;
        None gives sequence i entry i. Without features and memory every sequence is image-free.
        """
        kwargs |= {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        if self._is_disabled:
            return self.language_model(**kwargs)
        batch = input_ids if input_ids is not None else kwargs["inputs_embeds"]
        reading = _uncompiled(self._reading)(
            batch, visual_features=visual_features, memory=memory, image_index=image_index, is_generating=False
        )
        with self._injection.reading(reading):
            return self.language_model(**kwargs)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Int[Tensor, "B T"],
        *,
        visual_features: Float[Tensor, "I g c"] | None = None,
        memory: VisualMemory | None = None,
        image_index: Int[Tensor, "B"] | Int[Tensor, "B T"] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The language model's own `generate`; images as in `forward`, new tokens read the image of the last one."""
        language_model: Any = self.language_model
        if self._is_disabled:
            return language_model.generate(input_ids=input_ids, **kwargs)
        reading = _uncompiled(self._reading)(
            input_ids, visual_features=visual_features, memory=memory, image_index=image_index, is_generating=True
        )
        with self._injection.reading(reading):
            return language_model.generate(input_ids=input_ids, **kwargs)

    @torch.no_grad()
    def encode(self, features: Float[Tensor, "I g c"]) -> VisualMemory:
        """Project images once, for inference; the memory has the language model's dtype."""
        self._check_features(features)
        return VisualMemory(self.prompt.project(features).to(self._dtype), self.prompt.projector_fingerprint())

    def _reading(
        self,
        batch: Tensor,
        *,
        visual_features: Tensor | None,
        memory: VisualMemory | None,
        image_index: Tensor | None,
        is_generating: bool,
    ) -> Reading:
        """What the layers will read while `batch`, (B, T) or (B, T, D), goes through the language model."""
        rows = None if memory is None else self._checked_rows(memory, batch=batch)
        if rows is not None and visual_features is not None:
            raise ValueError("give visual_features or memory, not both.")
        images = rows if rows is not None else visual_features
        index = checked_index(
            image_index,
            batch_shape=batch.shape,
            num_images=0 if images is None else images.shape[0],
            has_images=images is not None,
        )
        # Always through the prompt's own forward: there DDP's and ZeRO's hooks sit, and a call without any image
        # still gives its parameters a gradient of zero.
        features = None if rows is not None else self._checked_features(visual_features, batch=batch)
        parts = self.prompt(features=features, rows=rows, dtype=self._dtype)
        return make_reading(
            parts,
            image_index=index,
            config=self.memvp_config,
            is_training=self.training,
            is_generating=is_generating,
        )

    def _checked_rows(self, memory: VisualMemory, *, batch: Tensor) -> Tensor:
        present = self.prompt.projector_fingerprint()
        if memory.projector != present:
            raise ValueError(
                f"this memory was made by projector {memory.projector}, the model now has {present}: "
                "encode the images again with this model."
            )
        _check_num_rows(memory.rows, config=self.memvp_config)
        return memory.rows.to(batch.device)

    def _checked_features(self, features: Tensor | None, *, batch: Tensor) -> Tensor:
        if features is None:
            return batch.new_empty((0, 1, self.memvp_config.vision_hidden_size), dtype=self.prompt.dtype)
        self._check_features(features)
        return features

    def _check_features(self, features: Tensor) -> None:
        width = self.memvp_config.vision_hidden_size
        if features.ndim != 3 or features.shape[-1] != width:
            raise ValueError(
                f"visual features must have the shape (images, rows, {width}), got {tuple(features.shape)}: "
                "the model was made for another vision tower."
            )
        _check_num_rows(features, config=self.memvp_config)

    @property
    def _dtype(self) -> torch.dtype:
        return _embedding_weight(self.language_model).dtype

    @property
    def injection(self) -> Injection:
        """The hooks; `injection.sites` are the FFNs with memory, in the order of the layers."""
        return self._injection

    @contextmanager
    def disable_adapter(self) -> Generator[None]:
        """The base model bit for bit, LoRA off too, in a block; every thread that uses this model sees it so."""
        before, self._is_disabled = self._is_disabled, True
        try:
            with lora.lora_disabled(self.language_model):
                yield
        finally:
            self._is_disabled = before

    def unload(self) -> nn.Module:
        """Take the memory out and give back the language model as it was (a LoRA stays); this model is spent."""
        self._injection.remove()
        if not lora.has_lora(self.language_model):
            for name, parameter in self.language_model.named_parameters():
                parameter.requires_grad_(name in self._trainable_before)
        return self.language_model

    def gradient_checkpointing_enable(self, gradient_checkpointing_kwargs: dict[str, Any] | None = None) -> None:
        """Recompute layers in backward; the memory goes along. Non-reentrant unless the settings say otherwise."""
        settings = gradient_checkpointing_kwargs or {"use_reentrant": False}
        language_model: Any = self.language_model
        if hasattr(language_model, "activation_checkpointing_enable"):
            language_model.activation_checkpointing_enable(settings)
        else:
            language_model.gradient_checkpointing_enable(settings)

    def gradient_checkpointing_disable(self) -> None:
        """Keep activations again."""
        language_model: Any = self.language_model
        if hasattr(language_model, "activation_checkpointing_disable"):
            language_model.activation_checkpointing_disable()
        else:
            language_model.gradient_checkpointing_disable()

    activation_checkpointing_enable = gradient_checkpointing_enable
    activation_checkpointing_disable = gradient_checkpointing_disable

    def add_lora(self, lora_config: Any) -> None:
        """Put a `peft.LoraConfig` on the language model; target names are those of the language model."""
        lora.inject_lora(self.language_model, lora_config)

    @property
    def peft_config(self) -> Any:
        """Absent, as on any module that PEFT has not wrapped."""
        raise AttributeError("peft_config")

    @peft_config.setter
    def peft_config(self, value: Any) -> None:
        # PEFT leaves its settings on every module it has wrapped: the one sure sign of get_peft_model(self).
        raise ValueError(
            "get_peft_model on a MemVPModel would freeze the visual memory and put LoRA on the projector: build the "
            "model again and use model.add_lora(lora_config), which puts it on the language model."
        )

    def trainable_state(self) -> dict[str, Tensor]:
        """Names and live tensors of all that trains: the memory's parameters and the LoRA's."""
        return {name: parameter for name, parameter in self.named_parameters() if parameter.requires_grad}

    def num_trainable_parameters(self) -> int:
        """Numbers that train; right under ZeRO-3 too."""
        return sum(map(_numel, self.trainable_state().values()))

    def print_trainable_parameters(self) -> None:
        """One line, as PEFT prints it."""
        trainable, total = self.num_trainable_parameters(), sum(map(_numel, self.parameters()))
        print(f"trainable params: {trainable:,} || all params: {total:,} || trainable%: {100 * trainable / total:.4f}")

    def save_pretrained(self, path: str | Path, *, state: Mapping[str, Tensor] | None = None) -> None:
        """Write the adapter to a folder, a LoRA beside it in lora/; see saving.py.

        `state` (names as in `trainable_state`) replaces the model's own tensors: give the gathered ones under ZeRO-3.
        """
        saving.save_adapter(self, Path(path), state=state)

    @classmethod
    def from_pretrained(cls, language_model: nn.Module, path: str | Path) -> "MemVPModel":
        """The model that `save_pretrained` wrote, on a language model as it was before."""
        config, tensors = saving.read_adapter(Path(path))
        model = cls(language_model, config)
        saving.load_adapter(model, tensors, path=Path(path))
        return model


def _uncompiled(function: Callable[..., Reading]) -> Callable[..., Reading]:
    """How a batch is grouped depends on the values of its index, which torch.compile cannot know."""
    if not torch.compiler.is_compiling():
        # The usual case. Decorating the function instead would import the compiler, which takes as long as torch.
        return function
    # torch leaves the decorator untyped.
    compiler: Any = torch.compiler
    return compiler.disable(function)


def _check_num_rows(rows: Tensor, *, config: MemVPConfig) -> None:
    if rows.shape[1] > config.num_slots:
        raise ValueError(
            f"an image has {rows.shape[1]} rows here, but the memory has only {config.num_slots} slots: "
            f"set num_slots to at least {rows.shape[1]}."
        )


def _embedding_weight(language_model: nn.Module) -> Tensor:
    model: Any = language_model
    return model.get_input_embeddings().weight


def _numel(parameter: Tensor) -> int:
    # ZeRO-3 leaves an empty tensor in place and keeps the count beside it.
    return int(getattr(parameter, "ds_numel", parameter.numel()))
