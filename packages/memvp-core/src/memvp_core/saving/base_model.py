"""Which language model an adapter was trained on: noted when it is saved, compared when it is loaded."""

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from memvp_core.backbones import text_config
from memvp_core.files import is_elsewhere
from memvp_core.visual_memory import fingerprint

_SHAPE = ("model_type", "hidden_size", "num_layers")
_HALF = "float16"


def describe_base(language_model: nn.Module) -> dict[str, Any]:
    """Plain values. `weights` is a hash of samples of the input embedding, None where that is in pieces or on meta."""
    config = text_config(language_model)
    model: Any = language_model
    embedding: Tensor = model.get_input_embeddings().weight
    return {
        "model_type": config.model_type,
        "hidden_size": config.hidden_size,
        "num_layers": getattr(config, "num_hidden_layers", None),
        "vocab_size": getattr(config, "vocab_size", None),
        "dtype": str(embedding.dtype).removeprefix("torch."),
        "weights": None if is_elsewhere(embedding) else fingerprint({"embedding": embedding}),
    }


def base_name(language_model: nn.Module) -> str | None:
    """Where transformers loaded the language model from: a name on the hub or a folder."""
    config: Any = language_model.config
    return getattr(config, "_name_or_path", "") or None


def check_base(language_model: nn.Module, saved: Mapping[str, Any], *, name: str | None, path: Path) -> None:
    """Compare a language model with what `describe_base` once noted, and the name it had then.

    Raises:
        ValueError: another architecture, width or depth. Other weights of the same shape give a warning.
    """
    present = describe_base(language_model)
    if any(present[key] != saved[key] for key in _SHAPE):
        raise ValueError(
            f"the adapter in {path} was trained on {_named(saved)}, this language model is {_named(present)}: "
            f"load the one it was trained on{f' ({name})' if name else ''}."
        )
    if present["vocab_size"] != saved["vocab_size"] or _other_weights(present, saved):
        warnings.warn(
            f"the adapter in {path} was trained on other weights than this language model's "
            f"(vocabulary and embedding: {_weights(saved)} then, {_weights(present)} now), so its answers may be "
            f"wrong: load the language model it was trained on{f' ({name})' if name else ''}.",
            UserWarning,
            stacklevel=3,
        )


def _other_weights(present: Mapping[str, Any], saved: Mapping[str, Any]) -> bool:
    if None in (present["weights"], saved["weights"]):
        return False
    # The hash outlives a cast to bfloat16, but float16 rounds where bfloat16 and float32 do not.
    if (present["dtype"] == _HALF) != (saved["dtype"] == _HALF):
        return False
    return present["weights"] != saved["weights"]


def _named(base: Mapping[str, Any]) -> str:
    return f"a {base['model_type']} of width {base['hidden_size']} with {base['num_layers']} layers"


def _weights(base: Mapping[str, Any]) -> str:
    return f"{base['vocab_size']} tokens, {base['weights'] or 'not hashed'}"
