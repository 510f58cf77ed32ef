# PEFT is only partly typed.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
"""LoRA on the language model, through PEFT: put it on, switch it off for a while, save and load it."""

import json
from collections.abc import Generator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from memvp_core.files import read_tensors, write_json, write_tensors

_PREFIX = "base_model.model."
_CONFIG_FILE = "adapter_config.json"
_WEIGHTS_FILE = "adapter_model.safetensors"
_ADAPTER = "default"


def has_lora(language_model: nn.Module) -> bool:
    """Whether PEFT has been here, as a wrapper or by injection."""
    return bool(getattr(language_model, "peft_config", None))


def inject_lora(language_model: nn.Module, config: Any) -> None:
    """Put a `peft.LoraConfig` on the language model in place; only the LoRA is trainable in it afterwards."""
    if has_lora(language_model):
        raise ValueError("this language model has a LoRA already: load a fresh one, or leave add_lora out.")
    from peft import inject_adapter_in_model

    on_meta = next(language_model.parameters()).device.type == "meta"
    inject_adapter_in_model(config, language_model, adapter_name=_ADAPTER, low_cpu_mem_usage=on_meta)


@contextmanager
def lora_disabled(language_model: nn.Module) -> Generator[None]:
    """The language model without its LoRA, for a block; what was trainable stays so afterwards."""
    layers = _lora_layers(language_model)
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


def save_lora(language_model: nn.Module, folder: Path, *, tensors: Mapping[str, Tensor] | None) -> None:
    """Write a folder that plain PEFT loads; `tensors` by parameter name replace the model's own."""
    from peft import get_peft_model_state_dict

    configs: dict[str, Any] = language_model.peft_config  # pyright: ignore[reportAssignmentType]
    name = next(iter(configs))
    state = get_peft_model_state_dict(
        language_model,
        state_dict=None if tensors is None else dict(tensors),
        adapter_name=name,
        save_embedding_layers=False,
    )
    named = {key if key.startswith(_PREFIX) else _PREFIX + key: value for key, value in state.items()}
    write_tensors(folder / _WEIGHTS_FILE, named, metadata={"format": "pt"})
    write_json(folder / _CONFIG_FILE, json.loads(json.dumps(configs[name].to_dict(), default=_plain)))


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


def load_lora(language_model: nn.Module, folder: Path) -> None:
    """Put the LoRA of a folder on the language model."""
    from peft import LoraConfig, set_peft_model_state_dict

    inject_lora(language_model, LoraConfig.from_pretrained(str(folder)))
    tensors, _ = read_tensors(folder / _WEIGHTS_FILE)
    result = set_peft_model_state_dict(language_model, tensors, adapter_name=_ADAPTER)
    if result.unexpected_keys:
        raise ValueError(f"the LoRA in {folder} does not fit this language model: {result.unexpected_keys[0]}.")


def is_lora_folder(folder: Path) -> bool:
    """Whether a LoRA was saved there."""
    return (folder / _CONFIG_FILE).is_file() and (folder / _WEIGHTS_FILE).is_file()
