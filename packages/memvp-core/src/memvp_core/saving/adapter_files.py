"""The adapter on disk, in the shape PEFT gives its own: adapter_config.json and adapter_model.safetensors.

Tensors bear the names of `MemVPModel.trainable_state` on a language model without PEFT's wrapper, so a PeftModel's
adapter loads on a plain one. A LoRA lies beside them in lora/, a folder plain PEFT can load.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memvp_core.backbones import FFNSite
from memvp_core.config import MemVPConfig
from memvp_core.files import read_json, read_tensors, write_json, write_tensors
from memvp_core.saving.base_model import check_base
from memvp_core.saving.lora_files import is_lora_folder
from memvp_core.vision.tower import VisionTower

_PEFT_TYPE = "MEMVP"
_FORMAT_VERSION = 1
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
LORA_FOLDER = "lora"
_LANGUAGE_MODEL = "language_model."
_WRAPPER = "base_model.model."


@dataclass(frozen=True)
class SavedAdapter:
    """What a folder holds, but for the LoRA."""

    config: MemVPConfig
    """Settings of the memory."""
    tensors: dict[str, Tensor]
    """By their names in the file."""
    base: dict[str, Any] | None
    """The language model it was trained on (base_model.py); None in files that do not say."""
    base_type: str | None
    """Type of its whole config, which for a model that holds a language model among others is not the latter's."""
    base_name: str | None
    """And where that was loaded from."""
    sites: list[FFNSite] | None
    """FFN sites that the table of backbones.py does not give."""
    tower: dict[str, Any] | None
    """Settings of the VisionTower, where there was one."""
    path: Path | None = None
    """The folder it was read from."""

    @property
    def lora_folder(self) -> Path | None:
        """Where the LoRA beside it lies, if there is one."""
        folder = None if self.path is None else self.path / LORA_FOLDER
        return folder if folder is not None and is_lora_folder(folder) else None


def write_adapter(adapter: SavedAdapter, path: Path) -> None:
    """Write the folder; the settings come last, so a folder that has them is whole."""
    write_tensors(path / WEIGHTS_FILE, adapter.tensors, metadata={"format": "pt"})
    write_json(path / CONFIG_FILE, _settings(adapter))


def plain_name(name: str) -> str:
    """The name that a parameter of MemVPModel has, or would have, without PEFT's wrapper."""
    wrapped = _LANGUAGE_MODEL + _WRAPPER
    return _LANGUAGE_MODEL + name.removeprefix(wrapped) if name.startswith(wrapped) else name


def plain_site(site: FFNSite) -> FFNSite:
    """The site as its paths are, or would be, without PEFT's wrapper."""
    paths = {name: value.removeprefix(_WRAPPER) for name, value in asdict(site).items() if isinstance(value, str)}
    return replace(site, **paths)


def _settings(adapter: SavedAdapter) -> dict[str, Any]:
    settings: dict[str, Any] = {
        "peft_type": _PEFT_TYPE,
        "format_version": _FORMAT_VERSION,
        "base_model_name_or_path": adapter.base_name,
        "base_model_type": adapter.base_type,
        "base_model": adapter.base,
        "memvp": adapter.config.to_dict(),
    }
    if adapter.sites is not None:
        settings["sites"] = [asdict(site) for site in adapter.sites]
    if adapter.tower is not None:
        settings["vision_tower"] = adapter.tower
    return settings


def read_adapter(path: Path) -> SavedAdapter:
    """Settings and tensors of a saved adapter."""
    settings = read_json(path / CONFIG_FILE)
    if settings.get("peft_type") != _PEFT_TYPE or settings.get("format_version") != _FORMAT_VERSION:
        raise ValueError(
            f"{path} holds a {settings.get('peft_type')!r} adapter of format {settings.get('format_version')}, "
            f"expected {_PEFT_TYPE!r} of format {_FORMAT_VERSION}, as MemVPModel.save_pretrained writes it."
        )
    tensors, _ = read_tensors(path / WEIGHTS_FILE)
    sites = settings.get("sites")
    return SavedAdapter(
        path=path,
        config=MemVPConfig.from_dict(settings["memvp"]),
        tensors=tensors,
        base=settings.get("base_model"),
        base_type=settings.get("base_model_type"),
        base_name=settings.get("base_model_name_or_path"),
        sites=None if sites is None else [FFNSite(**site) for site in sites],
        tower=settings.get("vision_tower"),
    )


def tower_for(saved: SavedAdapter, tower: nn.Module | None) -> nn.Module | None:
    """The tower with the features and adapters it had; a VisionTower stays as the caller made it."""
    if tower is None and saved.tower is not None and saved.tower["adapter_size"]:
        raise ValueError(
            f"the adapter in {saved.path} has adapters in its vision tower: give the tower as "
            "from_pretrained(language_model, path, vision_tower)."
        )
    if tower is None or saved.tower is None or isinstance(tower, VisionTower):
        return tower
    return VisionTower.from_settings(tower, saved.tower)


def check_language_model(language_model: nn.Module, saved: SavedAdapter) -> None:
    """Refuse a language model that the adapter was not trained on, or warn; see base_model.py."""
    if saved.base is not None and saved.path is not None:
        check_base(language_model, saved.base, name=saved.base_name, path=saved.path)


def fill_tensors(own: Mapping[str, Tensor], saved: SavedAdapter) -> None:
    """Put saved tensors into those of a model made for them, by the names of the file."""
    expected = {name: tuple(value.shape) for name, value in own.items()}
    found = {name: tuple(value.shape) for name, value in saved.tensors.items()}
    if found != expected:
        name = sorted(name for name in expected | found if expected.get(name) != found.get(name))[0]
        raise ValueError(
            f"the adapter in {saved.path} does not fit this language model: {name} is {found.get(name, 'missing')}, "
            f"expected {expected.get(name, 'no such tensor')}."
        )
    with torch.no_grad():
        for name, tensor in saved.tensors.items():
            own[name].copy_(tensor)
