"""Adapters on the Hugging Face Hub: sent with a model card, fetched without anything but the adapter's own files."""

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memvp_core.files import read_json, write_bytes, write_json
from memvp_core.saving.adapter_files import CONFIG_FILE, LORA_FOLDER, WEIGHTS_FILE

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


@dataclass(frozen=True)
class ModelCard:
    """What README.md says of an adapter: the base model, the figures of the settings, and how to load it."""

    base_name: str | None
    """Where the language model was loaded from."""
    model_type: str
    """Of its config."""
    is_encoder_decoder: bool
    """Likewise."""
    num_parameters: int
    """Numbers that were trained."""
    settings: Mapping[str, Any]
    """Of the memory, and whether there is a LoRA."""

    @property
    def public_name(self) -> str | None:
        """The base model's name on the hub; a folder of this machine says nothing to others."""
        name = self.base_name
        return name if name and _REPOSITORY.fullmatch(name) and not Path(name).exists() else None

    def text(self, repo_id: str) -> str:
        """Markdown."""
        public = self.public_name
        return _CARD.format(
            base_line=f"base_model: {public}\n" if public else "",
            repo_id=repo_id,
            base=f"`{public}`" if public else f"a language model of type `{self.model_type}`",
            base_argument=public or "the language model it was trained on",
            num_parameters=self.num_parameters,
            rows="".join(f"| `{key}` | {json.dumps(value)} |\n" for key, value in self.settings.items()),
            auto_class="AutoModelForSeq2SeqLM" if self.is_encoder_decoder else "AutoModelForCausalLM",
            width=self.settings["vision_hidden_size"],
        )


def upload(
    folder: Path,
    card: ModelCard,
    repo_id: str,
    *,
    commit_message: str = "Push model using huggingface_hub.",
    private: bool | None = None,
    token: str | None = None,
    branch: str | None = None,
    create_pr: bool | None = None,
) -> str:
    """Make the repository where it is missing and send a saved adapter in one commit; gives the commit's address.

    `folder` is changed: its settings take the public name, the card comes in. The other arguments are as in
    huggingface_hub's own mixin: `private` None leaves it to the account, `branch` None is main.
    """
    from huggingface_hub import HfApi

    settings = read_json(folder / CONFIG_FILE) | {"base_model_name_or_path": card.public_name}
    write_json(folder / CONFIG_FILE, settings)
    api = HfApi(token=token)
    repo_id = api.create_repo(repo_id, private=private, exist_ok=True).repo_id
    write_bytes(folder / "README.md", card.text(repo_id).encode())
    sent: Any = api.upload_folder(
        repo_id=repo_id,
        repo_type="model",
        folder_path=str(folder),
        commit_message=commit_message,
        revision=branch,
        create_pr=create_pr,
        # A LoRA that an earlier version had would otherwise stay, and be loaded.
        delete_patterns=list(_FILES),
    )
    return str(sent)
