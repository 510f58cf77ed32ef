"""The authors' released ScienceQA checkpoints (LLaMA-7B and 13B), read into our settings and tensors.

They are pickles, so they are read with torch's `weights_only`: nothing in them is run. They hold `adapter_emb1`,
`adapter_emb2` (1, n, d), `adapter_proj.fc{1,2}`, and in each block of the vision tower `adapter_mlp.fc{1,2}.weight`,
all of them behind `module.` if they were saved under DDP.
"""

import argparse
import pickle
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Float
from torch import Tensor

from memvp_core.config import MemVPConfig

Embedding = Literal["adapter_emb1", "adapter_emb2"]

# What the released code fixes and the file does not say.
_VISUAL_SCALE, _RETRIEVAL_SCALE, _DROPOUT = 0.01, 0.1, 0.1
_EMBEDDINGS: tuple[Embedding, Embedding] = ("adapter_emb1", "adapter_emb2")
# Left over from the code it grew out of, and used nowhere.
_UNUSED = "adapter_modality_embedding.weight"
_PROJECTOR = {
    f"adapter_proj.fc{layer}.{part}": f"projector.{2 * (layer - 1)}.{part}"
    for layer in (1, 2)
    for part in ("weight", "bias")
}
_TOWER = re.compile(r"backbone\.visual\.transformer\.resblocks\.(\d+)\.adapter_mlp\.fc([12])\.weight")


@dataclass(frozen=True)
class ReleasedAdapter:
    """What `get_memvp_model(language_model, config)` and its tower need; load `prompt` into `model.prompt`.

    The tower is `VisionTower(clip, FEATURE_PRESETS["memvp_scienceqa"], adapter_size=A)` with the defaults of its other
    settings; `tower_keys` and `tower_values` go into its `adapters`.
    """

    config: MemVPConfig
    prompt: dict[str, Tensor]
    """By the names of `VisualPrompt.state_dict`."""
    tower_keys: Float[Tensor, "L A C"]
    """Down weights of the tower's adapters, one per block that runs (23 of CLIP ViT-L's 24)."""
    tower_values: Float[Tensor, "L A C"]
    """Up weights, transposed. The adapters' scale is 0.1 and their activation the exact GELU."""


def read_released(path: str | Path, *, key_positions: Embedding = "adapter_emb1") -> ReleasedAdapter:
    """Read a checkpoint file: a state dict, or a training checkpoint that holds one under "model".

    `key_positions` says which embedding is added to the keys; the other one is added to the values. The released block
    (memvp/adapter.py of JieShibo/MemVP) scores with image rows + adapter_emb1 and sums image rows + adapter_emb2.
    """
    tensors = {name.removeprefix("module."): value for name, value in _tensors(Path(path)).items()}
    if key_positions not in _EMBEDDINGS:
        raise ValueError(f"key_positions must be {' or '.join(_EMBEDDINGS)}, got {key_positions!r}.")
    _check_names(tensors, path=path)
    value_positions = next(name for name in _EMBEDDINGS if name != key_positions)
    prompt = {ours: tensors[theirs] for theirs, ours in _PROJECTOR.items()}
    prompt |= {"key_positions": tensors[key_positions][0], "value_positions": tensors[value_positions][0]}
    keys, values = _tower(tensors)
    return ReleasedAdapter(_config(prompt), prompt, keys, values)


def _tensors(path: Path) -> dict[str, Tensor]:
    if not path.is_file():
        raise ValueError(f"there is no file {path}.")
    try:
        # Training checkpoints carry their arguments, plain values in a Namespace.
        with torch.serialization.safe_globals([argparse.Namespace]):
            found: Any = torch.load(path, map_location="cpu", weights_only=True)
    except (pickle.UnpicklingError, RuntimeError, EOFError) as error:
        raise ValueError(f"{path} is not a file of weights that torch can read safely: {error}") from error
    if not isinstance(found, dict):
        raise ValueError(f"{path} holds {type(found).__name__}, expected a state dict, alone or under 'model'.")
    named = cast(dict[str, Any], found)
    named = cast(dict[str, Any], named.get("model", named))
    return {name: value for name, value in named.items() if isinstance(value, Tensor)}


def _check_names(tensors: Mapping[str, Tensor], *, path: str | Path) -> None:
    """Every expected tensor is there, and no adapter tensor that would be lost."""
    expected = {*_EMBEDDINGS, *_PROJECTOR}
    missing = sorted(expected - tensors.keys())
    if missing:
        raise ValueError(
            f"{path} is not a released ScienceQA checkpoint: it lacks {missing[0]}; it has {len(tensors)} tensors, "
            f"among them {sorted(tensors)[:3]}."
        )
    known = expected | {_UNUSED}
    strange = [name for name in tensors if "adapter" in name and name not in known and not _TOWER.fullmatch(name)]
    if strange:
        raise ValueError(f"{path} has an adapter tensor that the released checkpoints do not have: {strange[0]}.")


def _tower(tensors: Mapping[str, Tensor]) -> tuple[Tensor, Tensor]:
    """(L, A, C) each. The last block is skipped by the released code, so its adapter never trained."""
    found = {
        (int(match[1]), int(match[2])): value for name, value in tensors.items() if (match := _TOWER.fullmatch(name))
    }
    blocks = sorted({block for block, _ in found})[:-1]
    if not blocks or blocks != list(range(len(blocks))) or len(found) != 2 * len(blocks) + 2:
        raise ValueError(f"expected two adapter weights in each block of the tower, got those of {sorted(found)}.")
    return (
        torch.stack([found[block, 1] for block in blocks]),
        torch.stack([found[block, 2].T for block in blocks]),
    )


def _config(prompt: Mapping[str, Tensor]) -> MemVPConfig:
    hidden, width = prompt["projector.0.weight"].shape
    return MemVPConfig(
        vision_hidden_size=width,
        num_slots=prompt["key_positions"].shape[0],
        visual_scale=_VISUAL_SCALE,
        retrieval_scale=_RETRIEVAL_SCALE,
        projector_hidden_sizes=(hidden,),
        projector_activation="silu",
        projector_bias=True,
        share_position_embedding=True,
        memory_dropout=_DROPOUT,
    )
