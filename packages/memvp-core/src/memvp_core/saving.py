"""The adapter on disk, in the shape PEFT gives its own: adapter_config.json and adapter_model.safetensors.

Tensors bear the names of `MemVPModel.trainable_state` on a language model without PEFT's wrapper, so a PeftModel's
adapter loads on a plain one. A LoRA lies beside them in lora/, a folder plain PEFT can load.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from memvp_core import lora
from memvp_core.backbones import FFNSite, choose_layers, find_sites
from memvp_core.base_model import base_name, check_base, describe_base
from memvp_core.config import MemVPConfig
from memvp_core.files import is_elsewhere, read_json, read_tensors, write_json, write_tensors
from memvp_core.tower import VisionTower

if TYPE_CHECKING:
    from memvp_core.model import MemVPModel

_PEFT_TYPE = "MEMVP"
_FORMAT_VERSION = 1
CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
LORA_FOLDER = "lora"
_OWN = ("prompt.", "vision_tower.adapters.")
_LANGUAGE_MODEL = "language_model."
_WRAPPER = "base_model.model."


@dataclass(frozen=True)
class SavedAdapter:
    """What a folder holds, but for the LoRA."""

    path: Path
    config: MemVPConfig
    tensors: dict[str, Tensor]
    base: dict[str, Any] | None
    """The language model it was trained on (base_model.py); None in files that do not say."""
    base_name: str | None
    """And where that was loaded from."""
    sites: list[FFNSite] | None
    """FFN sites that the table of backbones.py does not give."""
    tower: dict[str, Any] | None
    """Settings of the VisionTower, where there was one."""


def save_adapter(model: "MemVPModel", path: Path, *, state: Mapping[str, Tensor] | None) -> None:
    """Write the folder; the settings come last, so a folder that has them is whole."""
    if model.has_merged_lora:
        raise ValueError(
            "this model's LoRA was merged into the language model, so what would be saved does not fit the one it was "
            "loaded from: save the adapter before merge_lora(), which can be called again after from_pretrained."
        )
    given = {plain_name(name): value for name, value in (state or {}).items()}
    own = {name: given.get(name, value) for name, value in adapter_tensors(model).items()}
    missing = [name for name, value in own.items() if is_elsewhere(value)]
    if missing:
        raise ValueError(
            f"{missing[0]} has no values here (ZeRO-3, or the meta device): give the whole tensors of "
            "trainable_state() as save_pretrained(path, state=...)."
        )
    if lora.has_lora(model.language_model):
        names = {name.removeprefix(_LANGUAGE_MODEL): value for name, value in (state or {}).items()}
        lora.save_lora(model.language_model, path / LORA_FOLDER, tensors=names or None)
    write_tensors(path / WEIGHTS_FILE, own, metadata={"format": "pt"})
    write_json(path / CONFIG_FILE, _settings(model))


def adapter_tensors(model: "MemVPModel") -> dict[str, Tensor]:
    """The live tensors of the adapter file by their names there: memory, adapters of the tower, norms that train."""
    own = {name: value for name, value in model.state_dict(keep_vars=True).items() if name.startswith(_OWN)}
    if model.trained_norms is not None:
        own |= {plain_name(_LANGUAGE_MODEL + name): value for name, value in model.trained_norms.parameters.items()}
    return own


def plain_name(name: str) -> str:
    """The name that a parameter of MemVPModel has, or would have, without PEFT's wrapper."""
    wrapped = _LANGUAGE_MODEL + _WRAPPER
    return _LANGUAGE_MODEL + name.removeprefix(wrapped) if name.startswith(wrapped) else name


def plain_site(site: FFNSite) -> FFNSite:
    """The site as its paths are, or would be, without PEFT's wrapper."""
    paths = {name: value.removeprefix(_WRAPPER) for name, value in asdict(site).items() if isinstance(value, str)}
    return replace(site, **paths)


def _settings(model: "MemVPModel") -> dict[str, Any]:
    base_config: Any = model.language_model.config
    sites = _written_by_hand(model)
    settings = {
        "peft_type": _PEFT_TYPE,
        "format_version": _FORMAT_VERSION,
        "base_model_name_or_path": base_name(model.language_model),
        "base_model_type": base_config.model_type,
        "base_model": describe_base(model.language_model),
        "memvp": model.memvp_config.to_dict(),
    }
    if sites is not None:
        settings["sites"] = [asdict(plain_site(site)) for site in sites]
    if model.vision_tower is not None:
        settings["vision_tower"] = model.vision_tower.settings()
    return settings


def _written_by_hand(model: "MemVPModel") -> Sequence[FFNSite] | None:
    """The model's sites, unless they are those of the table."""
    config, sites = model.memvp_config, model.injection.sites
    try:
        table = find_sites(model.language_model, target=config.target_stack)
        return None if tuple(choose_layers(table, layers=config.layers_to_transform)) == sites else sites
    except ValueError:
        return sites


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
    if saved.base is not None:
        check_base(language_model, saved.base, name=saved.base_name, path=saved.path)


def load_adapter(model: "MemVPModel", saved: SavedAdapter) -> None:
    """Put saved tensors into a model made for them, and the LoRA of the folder on its language model or in its LoRA."""
    own = adapter_tensors(model)
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
    folder = saved.path / LORA_FOLDER
    if lora.is_lora_folder(folder):
        load = lora.fill_lora if lora.has_lora(model.language_model) else lora.load_lora
        load(model.language_model, folder)
