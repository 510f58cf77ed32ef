"""What the smoke recipe's second stage left when the form of the retrieval was still called `method`, read today."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from memvp_core import MemVPConfig, MemVPModel
from memvp_data.samples import Sample, Turn
from memvp_train.checkpoints.state import STATE_FILE, CheckpointError, load_newest, newest_first
from memvp_train.config import LanguageModelConfig
from memvp_train.inference.generate import AnswerSettings, answer_samples
from memvp_train.models.language import build_language_model, build_tokenizer

BEFORE = Path(__file__).parents[1] / "fixtures/before_rooms"
MEMVP = MemVPConfig(vision_hidden_size=128, num_slots=40, projector_hidden_sizes=(16,), form="auto")
LANGUAGE = LanguageModelConfig("toyworld/language")


QUESTION = "what is in the image ?"
# What the code before the new name says to the same, with and without the image.
ANSWERS = ["small green square", "small cyan square"]


class _Features:
    """One image of nine rows, the same on every machine, and large enough to change an answer after eight steps."""

    def load(self, image_ids: Any) -> torch.Tensor:
        rows = torch.arange(9 * 128, dtype=torch.float32).reshape(1, 9, 128)
        return 100 * torch.cos(rows).repeat(len(image_ids), 1, 1)


@pytest.fixture(scope="module")
def model() -> MemVPModel:
    return MemVPModel.from_pretrained(build_language_model(LANGUAGE), BEFORE / "adapter").eval()


def test_adapter_gives_today_s_settings_and_its_own_tensors(model: MemVPModel) -> None:
    assert json.loads((BEFORE / "adapter/adapter_config.json").read_text())["memvp"]["method"] == "auto"
    assert model.memvp_config == MEMVP
    saved = load_file(BEFORE / "adapter/adapter_model.safetensors")
    lora = load_file(BEFORE / "adapter/lora/adapter_model.safetensors")
    state = model.trainable_state()
    assert {name for name in state if "lora_" not in name} == set(saved)
    assert len(state) == len(saved) + len(lora)
    for name, tensor in saved.items():
        torch.testing.assert_close(state[name].detach(), tensor, rtol=0, atol=0)
    in_order = sorted((name.replace(".default", ""), value) for name, value in state.items() if "lora_" in name)
    for (_, found), (_, expected) in zip(in_order, sorted(lora.items()), strict=True):
        torch.testing.assert_close(found.detach(), expected, rtol=0, atol=0)


def test_adapter_holds_the_weights_of_the_checkpoint(model: MemVPModel) -> None:
    weights = load_file(BEFORE / "step-000000008/weights.safetensors")
    assert set(weights) == set(model.trainable_state())
    for name, tensor in model.trainable_state().items():
        torch.testing.assert_close(tensor.detach(), weights[name], rtol=0, atol=0)


def test_adapter_answers(model: MemVPModel) -> None:
    asked = [Sample("with", ("image",), (Turn("user", QUESTION),)), Sample("without", (), (Turn("user", QUESTION),))]
    texts = answer_samples(
        model,
        build_tokenizer(LANGUAGE),
        asked,
        [("image",), ()],
        source=_Features(),  # type: ignore[arg-type]
        settings=AnswerSettings(template="toyworld", max_new_tokens=4),
    )
    assert texts == ANSWERS


def test_checkpoint_goes_on_under_settings_that_say_form() -> None:
    settings = json.loads((BEFORE / "step-000000008" / STATE_FILE).read_text())["settings"]
    assert settings["memvp"]["method"] == "auto"
    state = load_newest(newest_first(BEFORE), settings={**settings, "memvp": MEMVP.to_dict()})
    assert state is not None
    assert state.step == 8
    assert sum(tensor.numel() for tensor in state.weights.values()) == 34960
    assert state.weights.keys() == state.exp_avg.keys() == state.exp_avg_sq.keys()
    with pytest.raises(CheckpointError, match=r"memvp\.form 'auto' -> 'split'"):
        load_newest(newest_first(BEFORE), settings={**settings, "memvp": {**MEMVP.to_dict(), "form": "split"}})
