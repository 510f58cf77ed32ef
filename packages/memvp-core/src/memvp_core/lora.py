# PEFT is only partly typed.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
"""LoRA on the language model, through PEFT: put it on, switch it off, merge it. Files: saving/lora_files.py."""

from collections import Counter
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from torch import nn

from memvp_core.files import is_elsewhere
from memvp_core.offload import refuse_offloaded

_ADAPTER = "default"


def has_lora(language_model: nn.Module) -> bool:
    """Whether PEFT has been here, as a wrapper or by injection."""
    return bool(getattr(language_model, "peft_config", None))


def refuse_prompts(language_model: nn.Module) -> None:
    """Prompt tuning and its kind, which no switch of a layer's takes away and no adapter folder brings back."""
    if has_lora(language_model) and not _lora_layers(language_model):
        kind = kind_of(active_config(language_model))
        raise ValueError(
            f"this PeftModel is a {kind}, which adapts no layer but puts states of its own beside the text's: a memory "
            "goes with LoRA and PEFT's other methods for layers, or with the language model alone."
        )


def inject_lora(language_model: nn.Module, config: Any) -> None:
    """Put a `peft.LoraConfig` on the language model in place; what is trainable in it (norms) stays so."""
    if has_lora(language_model):
        raise ValueError("this language model has a LoRA already: load a fresh one, or leave add_lora out.")
    refuse_offloaded(language_model, wanted="a new LoRA")
    from peft import inject_adapter_in_model

    on_meta = next(language_model.parameters()).device.type == "meta"
    trainable = [parameter for parameter in language_model.parameters() if parameter.requires_grad]
    inject_adapter_in_model(config, language_model, adapter_name=_ADAPTER, low_cpu_mem_usage=on_meta)
    for parameter in trainable:
        parameter.requires_grad_(True)


@contextmanager
def lora_disabled(language_model: nn.Module) -> Generator[None]:
    """The language model without its LoRA, for a block; what was trainable stays so afterwards."""
    layers = _switches(language_model)
    enabled = [layer for layer in layers if not layer.disable_adapters]
    trainable = [parameter for parameter in language_model.parameters() if parameter.requires_grad]
    for layer in enabled:
        layer.enable_adapters(False)
    try:
        yield
    finally:
        for layer in enabled:
            layer.enable_adapters(True)
        _restore_trainable(language_model, trainable)


def _restore_trainable(language_model: nn.Module, trainable: list[nn.Parameter]) -> None:
    """PEFT's switch decides anew what is trainable; the user's own choice has to come back."""
    kept = {id(parameter) for parameter in trainable}
    for parameter in language_model.parameters():
        parameter.requires_grad_(id(parameter) in kept)


def _lora_layers(language_model: nn.Module) -> list[Any]:
    if not has_lora(language_model):
        return []
    from peft.tuners.tuners_utils import BaseTunerLayer

    return [module for module in language_model.modules() if isinstance(module, BaseTunerLayer)]


def _switches(language_model: nn.Module) -> list[Any]:
    """All that PEFT can switch off: its layers, and the copies of whole modules (modules_to_save)."""
    if not has_lora(language_model):
        return []
    from peft.utils import ModulesToSaveWrapper

    copies = [module for module in language_model.modules() if isinstance(module, ModulesToSaveWrapper)]
    return [*_lora_layers(language_model), *copies]


def is_wrapped(language_model: nn.Module) -> bool:
    """Whether it is a PeftModel."""
    from peft import PeftModel

    return isinstance(language_model, PeftModel)


def active_lora(language_model: nn.Module) -> str:
    """Name of the active one of the LoRAs."""
    configs: Any = language_model.peft_config
    active = {name for switch in _switches(language_model) for name in switch.active_adapters if name in configs}
    if len(active) > 1:
        raise ValueError(
            f"several LoRAs are active here ({', '.join(sorted(active))}), but an adapter holds one: activate one with "
            "set_adapter, or make one of them with add_weighted_adapter."
        )
    return next(iter(active or configs))


def active_config(language_model: nn.Module) -> Any:
    """Its settings."""
    configs: Any = language_model.peft_config
    return configs[active_lora(language_model)]


def kind_of(config: Any) -> str:
    """LoraConfig -> Lora."""
    return type(config).__name__.removesuffix("Config")


def merge_lora(language_model: nn.Module) -> nn.Module:
    """Fold the LoRA into the weights, in place, with PEFT's layers; gives the model without PEFT's wrapper."""
    _check_mergeable(language_model)
    model: Any = language_model
    base = model.get_base_model() if is_wrapped(language_model) else model
    for path, layer in list(base.named_modules()):
        plain = _merged(layer)
        if plain is not None:
            parent, _, name = path.rpartition(".")
            setattr(base.get_submodule(parent), name, plain)
    del base.peft_config
    return base


def _merged(layer: Any) -> Any:
    """The plain module of a layer of PEFT's, with its LoRA in the weights; None for other modules."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    # Copies of whole modules (modules_to_save) are taken over, not added.
    if hasattr(layer, "unload_and_optionally_merge_module"):
        return layer.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None)
    if not isinstance(layer, BaseTunerLayer):
        return None
    layer.merge(safe_merge=True)
    return layer.get_base_layer()


def _check_mergeable(language_model: nn.Module) -> None:
    if not has_lora(language_model):
        raise ValueError("there is no LoRA to merge: put one on with add_lora, or load an adapter that has one.")
    if any(is_elsewhere(parameter) for parameter in language_model.parameters()):
        raise ValueError(
            "a LoRA cannot be merged under ZeRO-3 or on the meta device: load the saved adapter and merge."
        )
    owners = Counter(id(value) for _, value in language_model.named_parameters(remove_duplicate=False))
    if any(owners[id(layer.get_base_layer().weight)] > 1 for layer in _lora_layers(language_model)):
        raise ValueError(
            "this LoRA sits on an embedding that input and output share, so merging would change both: "
            "load the language model with tie_word_embeddings=False and clone the embedding first."
        )
