# PEFT is only partly typed.
# pyright: reportUnknownVariableType=false, reportUnknownMemberType=false, reportUnknownArgumentType=false
"""The LoRA of a language model on disk: a folder that plain PEFT reads and writes."""

import json
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from memvp_core.files import read_tensors, write_json, write_tensors
from memvp_core.lora import active_config, active_lora, inject_lora, is_wrapped, kind_of

_PREFIX = "base_model.model."
_CONFIG_FILE = "adapter_config.json"
_WEIGHTS_FILE = "adapter_model.safetensors"


def save_lora(
    language_model: nn.Module, folder: Path, *, tensors: Mapping[str, Tensor] | None, base_name: str | None
) -> None:
    """Write a folder that plain PEFT loads; `tensors` by parameter name replace the model's own."""
    from peft import get_peft_model_state_dict

    name = active_lora(language_model)
    config = json.loads(json.dumps(active_config(language_model).to_dict(), default=_plain))
    # PEFT notes it where it wraps a model, and here it only puts layers into one.
    config["base_model_name_or_path"] = config["base_model_name_or_path"] or base_name
    state = get_peft_model_state_dict(
        language_model,
        state_dict=None if tensors is None else dict(tensors),
        adapter_name=name,
        save_embedding_layers=False,
    )
    named = state if is_wrapped(language_model) else {_PREFIX + key: value for key, value in state.items()}
    write_tensors(folder / _WEIGHTS_FILE, _apart(named), metadata={"format": "pt"})
    write_json(folder / _CONFIG_FILE, config)


def _apart(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """What several layers share (RandLoRA's matrices) is written for each, as PEFT does."""
    owners = Counter(value.data_ptr() for value in tensors.values())
    return {name: value.clone() if owners[value.data_ptr()] > 1 else value for name, value in tensors.items()}


def _plain(value: Any) -> Any:
    return sorted(value) if isinstance(value, set) else str(value)


def load_lora(language_model: nn.Module, folder: Path) -> None:
    """Put the LoRA of a folder on the language model."""
    from peft import LoraConfig

    tensors, _ = read_tensors(folder / _WEIGHTS_FILE)  # before the model is changed: the file may be damaged
    config = LoraConfig.from_pretrained(str(folder))
    if _needs_wrapper(config, tensors):
        raise ValueError(
            f"the {kind_of(config)} in {folder} lies partly in PEFT's wrapper, outside the language model's layers: "
            "give the language model as get_peft_model(language_model, "
            f"PeftConfig.from_pretrained({str(folder)!r}))."
        )
    inject_lora(language_model, config)
    _fill(language_model, tensors, folder=folder)


def _needs_wrapper(config: Any, tensors: Mapping[str, Tensor]) -> bool:
    """VeRA and its kind share tensors between layers."""
    from peft.mapping import PEFT_TYPE_TO_TUNER_MAPPING

    # Older PEFT does not say.
    is_shared = getattr(PEFT_TYPE_TO_TUNER_MAPPING.get(config.peft_type), "uses_shared_state", False)
    return is_shared or any(not name.startswith(_PREFIX) for name in tensors)


def fill_lora(language_model: nn.Module, folder: Path) -> None:
    """Give the LoRA that is there the weights of a folder."""
    tensors, _ = read_tensors(folder / _WEIGHTS_FILE)
    _fill(language_model, tensors, folder=folder)


def _fill(language_model: nn.Module, tensors: Mapping[str, Tensor], *, folder: Path) -> None:
    from peft import set_peft_model_state_dict

    if not is_wrapped(language_model):
        # Newer PEFT would do this itself.
        tensors = {name.removeprefix(_PREFIX): value for name, value in tensors.items()}
    result = set_peft_model_state_dict(language_model, dict(tensors), adapter_name=active_lora(language_model))
    if result.unexpected_keys:
        raise ValueError(f"the LoRA in {folder} does not fit this language model: {result.unexpected_keys[0]}.")


def is_lora_folder(folder: Path) -> bool:
    """Whether a LoRA was saved there."""
    return (folder / _CONFIG_FILE).is_file() and (folder / _WEIGHTS_FILE).is_file()
