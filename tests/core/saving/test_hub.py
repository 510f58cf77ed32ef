"""Sending and fetching adapters, with huggingface_hub replaced where it would touch the network."""

import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import huggingface_hub
import pytest
import torch

from memvp_core import MemVPModel
from memvp_core.files import read_json

REPOSITORY = "someone/pictures"


class FakeHub:
    """One repository in a folder, and the calls that were made."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.calls: list[tuple[str, dict[str, Any]]] = []

    def api(self, *, token: str | None) -> Any:
        self.calls.append(("HfApi", {"token": token}))
        return SimpleNamespace(create_repo=self.create_repo, upload_folder=self.upload_folder)

    def create_repo(self, repo_id: str, **settings: Any) -> Any:
        self.calls.append(("create_repo", {"repo_id": repo_id, **settings}))
        # The hub gives the account's name to a bare one.
        return SimpleNamespace(repo_id=repo_id if "/" in repo_id else f"someone/{repo_id}")

    def upload_folder(self, *, folder_path: str, **settings: Any) -> str:
        self.calls.append(("upload_folder", settings))
        shutil.copytree(folder_path, self.folder)
        return "https://hub.example/commit/1"

    def snapshot_download(self, repo_id: str, **settings: Any) -> str:
        self.calls.append(("snapshot_download", {"repo_id": repo_id, **settings}))
        return str(self.folder)


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeHub:
    fake = FakeHub(tmp_path / "remote")
    monkeypatch.setattr(huggingface_hub, "HfApi", fake.api)
    monkeypatch.setattr(huggingface_hub, "snapshot_download", fake.snapshot_download)
    return fake


def with_lora(model: Any) -> Any:
    from peft import LoraConfig

    torch.manual_seed(3)
    model.add_lora(LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False))
    return model


def test_pushed_adapter_comes_back(memvp, llama, batch, hub: FakeHub) -> None:
    ids, features = batch(images=4)
    model = with_lora(memvp())
    assert model.push_to_hub(REPOSITORY, private=True, token="secret") == "https://hub.example/commit/1"
    sent = {path.relative_to(hub.folder).as_posix() for path in hub.folder.rglob("*") if path.is_file()}
    own = {"adapter_config.json", "adapter_model.safetensors"}
    assert sent == own | {f"lora/{name}" for name in own} | {"README.md"}
    again = MemVPModel.from_pretrained(llama(), REPOSITORY, revision="v1", token="secret").eval()
    wanted = model(ids, visual_features=features).logits
    assert torch.equal(again(ids, visual_features=features).logits, wanted)


def test_what_is_asked_of_the_hub(memvp, llama, hub: FakeHub) -> None:
    memvp().push_to_hub("pictures", branch="next", create_pr=True, commit_message="first")
    MemVPModel.from_pretrained(llama(), REPOSITORY, revision="next")
    files = ["adapter_config.json", "adapter_model.safetensors"]
    files += [f"lora/{name}" for name in files]
    assert hub.calls == [
        ("HfApi", {"token": None}),
        ("create_repo", {"repo_id": "pictures", "private": None, "exist_ok": True}),
        (
            "upload_folder",
            {
                "repo_id": REPOSITORY,
                "repo_type": "model",
                "commit_message": "first",
                "revision": "next",
                "create_pr": True,
                "delete_patterns": files,
            },
        ),
        ("snapshot_download", {"repo_id": REPOSITORY, "revision": "next", "token": None, "allow_patterns": files}),
    ]


def test_a_folder_is_never_looked_up(
    memvp, llama, hub: FakeHub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    memvp().save_pretrained(REPOSITORY)
    MemVPModel.from_pretrained(llama(), REPOSITORY)
    for missing in (Path("no/adapter"), "./no/adapter", str(tmp_path / "no"), "a/b/c", "adapter"):
        with pytest.raises(ValueError, match=r"there is no file .*adapter_config\.json"):
            MemVPModel.from_pretrained(llama(), missing)
    assert hub.calls == []


def test_unknown_repository_is_named(llama, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: Any, **__: Any) -> str:
        raise OSError("404 not found")

    monkeypatch.setattr(huggingface_hub, "snapshot_download", fail)
    with pytest.raises(ValueError, match=r"no folder someone/pictures, and the Hugging Face Hub gave .*404 not found"):
        MemVPModel.from_pretrained(llama(), REPOSITORY)


def test_errors_of_the_hub_are_of_the_kind_that_is_caught() -> None:
    from huggingface_hub.errors import HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError

    for kind in (HfHubHTTPError, LocalEntryNotFoundError, RepositoryNotFoundError):
        assert issubclass(kind, OSError)


def test_model_card(memvp, llama, hub: FakeHub) -> None:
    base = llama()
    base.config._name_or_path = "their/llama"
    model = with_lora(memvp(base))
    model.push_to_hub(REPOSITORY)
    card = (hub.folder / "README.md").read_text()
    assert card.startswith("---\nlibrary_name: memvp\n")
    assert "\nbase_model: their/llama\n---\n" in card
    assert f"| trainable numbers | {model.num_trainable_parameters():,} |" in card
    assert "| `num_slots` | 5 |\n" in card
    assert "| `projector_hidden_sizes` | [7] |\n" in card
    assert "| `lora` | true |\n" in card
    assert read_json(hub.folder / "adapter_config.json")["base_model_name_or_path"] == "their/llama"


def test_usage_in_the_card_runs(memvp, llama, batch, hub: FakeHub, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snippet as a reader would paste it, with the language model's loader replaced."""
    import transformers

    base = llama()
    base.config._name_or_path = "their/llama"
    memvp(base).push_to_hub(REPOSITORY)
    loader = SimpleNamespace(from_pretrained={"their/llama": llama()}.__getitem__)
    monkeypatch.setattr(transformers, "AutoModelForCausalLM", loader)
    snippet = (hub.folder / "README.md").read_text().split("```python\n")[1].split("```")[0]
    ids, features = batch(images=4)
    names: dict[str, Any] = {"features": features, "input_ids": ids, "index": torch.tensor([0, -1, 2, 1])}
    exec(snippet, names)
    assert names["ids"].shape[0] == 4


def test_card_of_a_base_from_a_folder_names_no_machine(memvp, llama, hub: FakeHub, tmp_path: Path) -> None:
    base = llama()
    base.config._name_or_path = str(tmp_path)
    memvp(base).push_to_hub(REPOSITORY)
    card = (hub.folder / "README.md").read_text()
    assert "base_model" not in card
    assert "a language model of type `llama`" in card
    for path in hub.folder.rglob("*.*"):
        assert str(tmp_path).encode() not in path.read_bytes(), path.name
