"""The adapter on disk, in the shape PEFT gives its own: adapter_config.json and adapter_model.safetensors.

Tensors bear the names of `MemVPModel.trainable_state`. A LoRA lies beside them in lora/, a folder plain PEFT can load.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from torch import Tensor

from memvp_core import lora
from memvp_core.config import MemVPConfig
from memvp_core.files import read_json, read_tensors, write_json, write_tensors

if TYPE_CHECKING:
    from memvp_core.model import MemVPModel

_PEFT_TYPE = "MEMVP"
_FORMAT_VERSION = 1
_CONFIG_FILE = "adapter_config.json"
_WEIGHTS_FILE = "adapter_model.safetensors"
_LORA_FOLDER = "lora"
_PROMPT, _LANGUAGE_MODEL = "prompt.", "language_model."


def save_adapter(model: "MemVPModel", path: Path, *, state: Mapping[str, Tensor] | None) -> None:
    """Write the folder; the settings come last, so a folder that has them is whole."""
    own = {name: value for name, value in model.state_dict().items() if name.startswith(_PROMPT)}
    own |= {name: value for name, value in (state or {}).items() if name.startswith(_PROMPT)}
    if lora.has_lora(model.language_model):
        given = {name.removeprefix(_LANGUAGE_MODEL): value for name, value in (state or {}).items()}
        lora.save_lora(model.language_model, path / _LORA_FOLDER, tensors=given or None)
    write_tensors(path / _WEIGHTS_FILE, own, metadata={"format": "pt"})
    write_json(path / _CONFIG_FILE, _settings(model))


def _settings(model: "MemVPModel") -> dict[str, Any]:
    base_config: Any = model.language_model.config
    return {
        "peft_type": _PEFT_TYPE,
        "format_version": _FORMAT_VERSION,
        "base_model_name_or_path": getattr(base_config, "_name_or_path", "") or None,
        "base_model_type": base_config.model_type,
        "memvp": model.memvp_config.to_dict(),
    }


def read_adapter(path: Path) -> tuple[MemVPConfig, dict[str, Tensor]]:
    """Settings and tensors of a saved adapter."""
    settings = read_json(path / _CONFIG_FILE)
    if settings.get("peft_type") != _PEFT_TYPE or settings.get("format_version") != _FORMAT_VERSION:
        raise ValueError(
            f"{path} holds a {settings.get('peft_type')!r} adapter of format {settings.get('format_version')}, "
            f"expected {_PEFT_TYPE!r} of format {_FORMAT_VERSION}, as MemVPModel.save_pretrained writes it."
        )
    tensors, _ = read_tensors(path / _WEIGHTS_FILE)
    return MemVPConfig.from_dict(settings["memvp"]), tensors


def load_adapter(model: "MemVPModel", tensors: Mapping[str, Tensor], *, path: Path) -> None:
    """Put saved tensors into a model made for them, and the LoRA of the folder on its language model."""
    expected = {name: tuple(value.shape) for name, value in model.state_dict().items() if name.startswith(_PROMPT)}
    found = {name: tuple(value.shape) for name, value in tensors.items()}
    if found != expected:
        name = sorted(name for name in expected | found if expected.get(name) != found.get(name))[0]
        raise ValueError(
            f"the adapter in {path} does not fit this language model: {name} is {found.get(name, 'missing')}, "
            f"expected {expected.get(name, 'no such tensor')}."
        )
    model.load_state_dict(dict(tensors), strict=False)
    if lora.is_lora_folder(path / _LORA_FOLDER):
        lora.load_lora(model.language_model, path / _LORA_FOLDER)
