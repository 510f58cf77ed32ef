"""Adapters on the Hugging Face Hub: sent with a model card, fetched without anything but the adapter's own files."""

import json
import re
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

from memvp_core.base_model import base_name
from memvp_core.files import read_json, write_bytes, write_json
from memvp_core.lora import has_lora
from memvp_core.saving import CONFIG_FILE, LORA_FOLDER, WEIGHTS_FILE

if TYPE_CHECKING:
    from memvp_core.model import MemVPModel

_FILES = (CONFIG_FILE, WEIGHTS_FILE, f"{LORA_FOLDER}/{CONFIG_FILE}", f"{LORA_FOLDER}/{WEIGHTS_FILE}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")

_CARD = """---
library_name: memvp
pipeline_tag: image-text-to-text
tags:
- memvp
- adapter
{base_line}---

# {repo_id}

A visual memory (MemVP, [arXiv 2405.05615](https://arxiv.org/abs/2405.05615)) for {base}: image features become extra
key/value rows of its feed-forward networks, and the text stays as long as it was.

| | |
|---|---|
| trainable numbers | {num_parameters:,} |
{rows}
```python
from memvp_core import MemVPModel
from transformers import {auto_class}

language_model = {auto_class}.from_pretrained("{base_argument}")
model = MemVPModel.from_pretrained(language_model, "{repo_id}").eval()

memory = model.encode(features)  # (images, rows, {width}): once per image, for all questions
ids = model.generate(input_ids, memory=memory, image_index=index, max_new_tokens=20)  # index: -1 for no image
```
"""


def local_folder(path: str | Path, *, revision: str | None, token: str | None) -> Path:
    """A folder as it is; a string like `user/name` that is none is fetched from the hub, into its cache."""
    folder = Path(path)
    if not isinstance(path, str) or folder.is_dir() or not _REPOSITORY.fullmatch(path):
        return folder
    import huggingface_hub

    # Partly untyped.
    hub: Any = huggingface_hub
    try:
        return Path(hub.snapshot_download(path, revision=revision, token=token, allow_patterns=list(_FILES)))
    except OSError as error:
        raise ValueError(
            f"there is no folder {path}, and the Hugging Face Hub gave no such adapter: {error}"
        ) from error


def push(
    model: "MemVPModel",
    repo_id: str,
    *,
    commit_message: str = "Push model using huggingface_hub.",
    private: bool | None = None,
    token: str | None = None,
    branch: str | None = None,
    create_pr: bool | None = None,
) -> str:
    """Make the repository where it is missing and send the adapter in one commit; gives the commit's address.

    Arguments as in huggingface_hub's own mixin: `private` None leaves it to the account, `branch` None is main.
    """
    from huggingface_hub import HfApi

    with tempfile.TemporaryDirectory() as folder:
        model.save_pretrained(folder)
        settings = read_json(Path(folder) / CONFIG_FILE) | {"base_model_name_or_path": _public_name(model)}
        write_json(Path(folder) / CONFIG_FILE, settings)
        api = HfApi(token=token)
        repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
        write_bytes(Path(folder) / "README.md", model_card(model, repo_id).encode())
        sent: Any = api.upload_folder(
            repo_id=repo_id,
            repo_type="model",
            folder_path=folder,
            commit_message=commit_message,
            revision=branch,
            create_pr=create_pr,
            # A LoRA that an earlier version had would otherwise stay, and be loaded.
            delete_patterns=list(_FILES),
        )
        return str(sent)


def _public_name(model: "MemVPModel") -> str | None:
    """The base model's name on the hub; a folder of this machine says nothing to others."""
    name = base_name(model.language_model)
    return name if name and _REPOSITORY.fullmatch(name) and not Path(name).exists() else None


def model_card(model: "MemVPModel", repo_id: str) -> str:
    """README.md: the base model, the figures of the settings, and how to load it."""
    public = _public_name(model)
    language_config: Any = model.language_model.config
    config = model.memvp_config
    shown = config.to_dict() | {"lora": has_lora(model.language_model)}
    return _CARD.format(
        base_line=f"base_model: {public}\n" if public else "",
        repo_id=repo_id,
        base=f"`{public}`" if public else f"a language model of type `{language_config.model_type}`",
        base_argument=public or "the language model it was trained on",
        num_parameters=model.num_trainable_parameters(),
        rows="".join(f"| `{key}` | {json.dumps(value)} |\n" for key, value in shown.items()),
        auto_class="AutoModelForSeq2SeqLM" if language_config.is_encoder_decoder else "AutoModelForCausalLM",
        width=config.vision_hidden_size,
    )
