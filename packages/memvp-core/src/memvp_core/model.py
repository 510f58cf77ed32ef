"""MemVPModel: a frozen language model that reads images through memory in its feed-forward networks.

The usual way in is `get_memvp_model(language_model, config)`. Training calls the model with `visual_features`, so that
the projector runs inside `forward` where DDP and ZeRO expect it; inference encodes an image once and passes `memory`.
"""

from collections.abc import Callable, Generator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from memvp_core import lora
from memvp_core.backbones import FFNSite, choose_layers, find_sites, language_prefix, text_config
from memvp_core.config import MemVPConfig, TargetStack
from memvp_core.injection import Injection, refuse_second_memory
from memvp_core.memory.inputs import batch_of, check_encoder_runs, check_features, check_order, read_inputs
from memvp_core.memory.prompt import VisualPrompt, any_parameter
from memvp_core.memory.reading import Reading
from memvp_core.norms import TrainedNorms
from memvp_core.offload import execution_device, refuse_offloaded
from memvp_core.pretrained import AdapterFiles
from memvp_core.saving import adapter_files
from memvp_core.trainer_face import TrainerFace
from memvp_core.vision.tower import VisionTower
from memvp_core.visual_memory import VisualMemory


def get_memvp_model(
    language_model: nn.Module,
    config: MemVPConfig,
    vision_tower: nn.Module | None = None,
    *,
    sites: Sequence[FFNSite] | None = None,
) -> "MemVPModel":
    """Freeze a language model of transformers (a PeftModel's LoRA stays trainable) and give it a memory.

    With a vision tower the model takes pixels too; wrap it in a `VisionTower` to choose its features or to train
    adapters in it. `sites` says where the FFNs are in a model that the table of backbones.py does not know.
    """
    return MemVPModel(language_model, config, vision_tower, sites=sites)


class MemVPModel(AdapterFiles, TrainerFace, nn.Module):
    """A language model and its visual prompt; only the prompt, and a LoRA if there is one, are trainable."""

    def __init__(
        self,
        language_model: nn.Module,
        config: MemVPConfig,
        vision_tower: nn.Module | None = None,
        *,
        sites: Sequence[FFNSite] | None = None,
    ) -> None:
        """Language model and tower are changed in place (hooks, requires_grad) until `unload`."""
        super().__init__()
        refuse_second_memory(language_model)
        lora.refuse_prompts(language_model)
        found = find_sites(language_model, target=config.target_stack) if sites is None else sites
        sites = choose_layers(found, layers=config.layers_to_transform)
        self.memvp_config = config
        self.language_model = language_model
        self._trainable_before = {name for name, p in language_model.named_parameters() if p.requires_grad}
        try:
            self._join(language_model, config, vision_tower, sites=sites)
        except Exception:
            self._restore_trainable()
            raise

    def _join(
        self, language_model: nn.Module, config: MemVPConfig, vision_tower: nn.Module | None, *, sites: list[FFNSite]
    ) -> None:
        if config.train_layer_norms:
            refuse_offloaded(language_model, wanted="train_layer_norms")
        if not lora.has_lora(language_model):
            language_model.requires_grad_(False)
        norms_in = language_prefix(language_model)
        self.trained_norms = TrainedNorms(language_model, prefix=norms_in) if config.train_layer_norms else None
        embedding = _embedding(language_model)
        self.prompt = VisualPrompt(
            config,
            hidden_size=text_config(language_model).hidden_size,
            num_layers=len(sites),
            # 16-bit weights are too coarse to add small updates to.
            dtype=torch.promote_types(embedding.dtype, torch.float32),
            device=execution_device(_embedding_module(language_model)),
        )
        if vision_tower is not None and not isinstance(vision_tower, VisionTower):
            vision_tower = VisionTower(vision_tower)
        self.vision_tower = vision_tower
        self._injection = Injection(language_model, sites=sites)
        self._is_disabled = False
        self.has_merged_lora = False

    def forward(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        attention_mask: Tensor | None = None,
        labels: Int[Tensor, "B T"] | None = None,
        *,
        visual_features: Float[Tensor, "I g c"] | None = None,
        pixel_values: Float[Tensor, "I *frames channels H W"] | None = None,
        row_images: Int[Tensor, "I g"] | None = None,
        memory: VisualMemory | None = None,
        image_index: Int[Tensor, "B"] | Int[Tensor, "B T"] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The language model's own output.

        `image_index` names the entry of the features or the memory that each sequence (or token) reads, -1 for none;
        None gives sequence i entry i. Without features and memory every sequence is image-free. `row_images` says
        which image of its entry each row of the features shows, -1 for rows that only pad.
        """
        kwargs |= {"input_ids": input_ids, "attention_mask": attention_mask, "labels": labels}
        if self._is_disabled:
            return self.language_model(**kwargs)
        check_encoder_runs(kwargs, images=(visual_features, pixel_values, memory), stack=self.memory_stack)
        reading = _uncompiled(self._reading)(
            batch_of(kwargs, stack=self.memory_stack),
            visual_features=self._features(visual_features, pixel_values, memory),
            row_images=row_images,
            memory=memory,
            image_index=image_index,
            is_generating=False,
        )
        with self._injection.reading(reading):
            return self.language_model(**kwargs)

    @torch.no_grad()
    def generate(
        self,
        input_ids: Int[Tensor, "B T"] | None = None,
        *,
        visual_features: Float[Tensor, "I g c"] | None = None,
        pixel_values: Float[Tensor, "I *frames channels H W"] | None = None,
        row_images: Int[Tensor, "I g"] | None = None,
        memory: VisualMemory | None = None,
        image_index: Int[Tensor, "B"] | Int[Tensor, "B T"] | None = None,
        **kwargs: Any,
    ) -> Any:
        """The language model's own `generate`; images as in `forward`, new tokens read the image of the last one.

        The text may also come as `inputs_embeds`, or as `inputs`, the first argument's name there. An index per token
        is refused where the layers do not see the whole prompt at once (chunked prefill, assistants, decoders with a
        text of their own).
        """
        language_model: Any = self.language_model
        kwargs |= {} if input_ids is None else {"input_ids": input_ids}
        if self._is_disabled:
            return language_model.generate(**kwargs)
        check_encoder_runs(kwargs, images=(visual_features, pixel_values, memory), stack=self.memory_stack)
        reading = _uncompiled(self._reading)(
            batch_of(kwargs, stack=None),
            visual_features=self._features(visual_features, pixel_values, memory),
            row_images=row_images,
            memory=memory,
            image_index=image_index,
            is_generating=True,
        )
        check_order(reading, kwargs, own=getattr(self, "generation_config", None), stack=self.memory_stack)
        with self._injection.reading(reading):
            return language_model.generate(**kwargs)

    def _features(
        self, features: Tensor | None, pixel_values: Tensor | None, memory: VisualMemory | None
    ) -> Tensor | None:
        """The features given, or those of the tower."""
        tower = self.vision_tower
        if pixel_values is None:
            if features is None and memory is None and self.training and tower is not None and tower.adapter_size:
                return tower.no_features()
            return features
        if tower is None or features is not None or memory is not None:
            found = "no vision tower" if tower is None else "visual_features or a memory too"
            raise ValueError(f"pixel_values go to a model with a vision_tower, and alone; here are {found}.")
        return tower(pixel_values)

    @torch.no_grad()
    def encode(self, features: Float[Tensor, "I g c"], *, row_images: Int[Tensor, "I g"] | None = None) -> VisualMemory:
        """Project images once, for inference; the memory has the language model's dtype."""
        check_features(features, config=self.memvp_config)
        codes = self.prompt.encode(features).to(self._dtype)
        return VisualMemory(codes, self.prompt.projector_name(), row_images=row_images)

    def _reading(self, batch: Tensor, *, is_generating: bool, **inputs: Any) -> Reading:
        return read_inputs(
            self.prompt,
            self.memvp_config,
            batch=batch,
            dtype=self._dtype,
            is_generating=is_generating,
            is_training=self.training,
            **inputs,
        )

    @property
    def _dtype(self) -> torch.dtype:
        return _embedding(self.language_model).dtype

    @property
    def memory_stack(self) -> TargetStack | None:
        """Which stack of an encoder-decoder has the memory; None in other models."""
        if not getattr(self.config, "is_encoder_decoder", False):
            return None
        paths = [site.first.split(".") for site in self._injection.sites]
        in_encoder, in_decoder = (any(stack in path for path in paths) for stack in ("encoder", "decoder"))
        return "both" if in_encoder and in_decoder else "decoder" if in_decoder else "encoder"

    @property
    def injection(self) -> Injection:
        """The hooks; `injection.sites` are the FFNs with memory, in the order of the layers."""
        return self._injection

    def set_retrieval_scale(self, scale: float) -> None:
        """Put another number in place of s (`retrieval_scale`), for this model and all that is saved of it."""
        if self.memvp_config.learn_scales:
            raise ValueError(
                "s is learned here (learn_scales), so it is no setting: give retrieval_scale, its start value, to the "
                "config of a new model."
            )
        self.memvp_config = self.prompt.config = replace(self.memvp_config, retrieval_scale=scale)

    @contextmanager
    def disable_adapter(self) -> Generator[None]:
        """The base model bit for bit, LoRA off too, in a block; every thread that uses this model sees it so."""
        if self.has_merged_lora:
            raise ValueError("the LoRA was merged into the language model, so there is no base model left to show.")
        before, self._is_disabled = self._is_disabled, True
        norms = nullcontext() if self.trained_norms is None or before else self.trained_norms.put_back()
        try:
            with lora.lora_disabled(self.language_model), norms:
                yield
        finally:
            self._is_disabled = before

    def unload(self) -> nn.Module:
        """Take the memory out and give back the language model as it was (a LoRA stays); this model is spent."""
        self._injection.remove()
        if self.vision_tower is not None:
            self.vision_tower.unload()
        if self.trained_norms is not None:
            self.trained_norms.restore()
        if not lora.has_lora(self.language_model):
            self._restore_trainable()
        return self.language_model

    def _restore_trainable(self) -> None:
        for name, parameter in self.language_model.named_parameters():
            parameter.requires_grad_(name in self._trainable_before)

    def add_lora(self, lora_config: Any) -> None:
        """Put a `peft.LoraConfig` on the language model; target names are those of the language model."""
        with self._injection.taken_out():
            lora.inject_lora(self.language_model, lora_config)

    def merge_lora(self) -> None:
        """Fold the LoRA into the language model's weights, for good: `unload` then gives the merged model.

        The memory stays beside them. It no longer fits the old base: saving and `disable_adapter` are refused.
        """
        self.language_model = lora.merge_lora(self.language_model)
        self._injection.remove()
        # PEFT's layers are gone, and with them the hooks that sat on them.
        sites = [adapter_files.plain_site(site) for site in self._injection.sites]
        self._injection = Injection(self.language_model, sites=sites)
        self.has_merged_lora = True


def _uncompiled(function: Callable[..., Reading]) -> Callable[..., Reading]:
    """How a batch is grouped depends on the values of its index, which torch.compile cannot know."""
    if not torch.compiler.is_compiling():
        # The usual case. Decorating the function instead would import the compiler, which takes as long as torch.
        return function
    # torch leaves the decorator untyped.
    compiler: Any = torch.compiler
    return compiler.disable(function)


def _embedding(language_model: nn.Module) -> Tensor:
    return any_parameter(_embedding_module(language_model))


def _embedding_module(language_model: nn.Module) -> nn.Module:
    model: Any = language_model
    return model.get_input_embeddings()
