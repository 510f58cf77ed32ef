"""What does not go together is refused before any worker starts, in one sentence that says what would work."""

from dataclasses import replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from typing import Any

import pytest
import torch

from memvp_train.config import ConfigError, LanguageModelConfig, LaunchConfig, StageConfig, StageRun
from memvp_train.models.language import build_language_model
from memvp_train.training import checks
from memvp_train.training.checks import check_packing
from tests.core.tiny_models import make_tiny
from tests.train.plans import plan_of

HERE = LaunchConfig(num_workers=0)
ZERO_3 = LaunchConfig(num_workers=2, zero_stage=3)
GPU = LaunchConfig(num_workers=0, use_gpu=True)


def _with(run: StageRun, **stage: Any) -> StageRun:
    return replace(run, stage=replace(run.stage, **stage))


def _in_4bit(run: StageRun, **language: Any) -> StageRun:
    return replace(run, language=replace(run.language, load_in_4bit=True, **language))


# What is changed of a run that works, the launch, and the sentence.
CASES: dict[str, tuple[Any, LaunchConfig, str]] = {
    "batch that does not divide": (
        lambda run: run,
        LaunchConfig(num_workers=3),
        "global_batch_size 8 must be a multiple of the 3 workers; try 9",
    ),
    "fp16 under DeepSpeed on a CPU": (
        lambda run: run,
        LaunchConfig(num_workers=2, precision="fp16"),
        "fp16 with launch.zero_stage 2 needs launch.use_gpu.* take bf16, or zero_stage 0",
    ),
    "4 bits on a CPU": (_in_4bit, HERE, "load_in_4bit needs launch.use_gpu; on a CPU take bf16"),
    "compile under ZeRO-3": (lambda run: _with(run, compile=True), ZERO_3, "compile does not go with .* take 2"),
    "row shorter than a sample": (
        lambda run: _with(run, packed_tokens=3),
        HERE,
        "packed_tokens 3 is less than the longest sample, .* tokens; raise it",
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_refused_before_workers_start(tiny: Any, tmp_path: Path, name: str) -> None:
    change, launch, sentence = CASES[name]
    with pytest.raises(ValueError, match=sentence) as caught:
        plan_of(change(tiny.run(tmp_path)), launch)
    assert "\n" not in str(caught.value)


def test_4_bits_are_refused_where_they_cannot_be(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = _in_4bit(tiny.run(tmp_path))
    monkeypatch.setattr(checks, "find_spec", lambda name: None)
    with pytest.raises(ConfigError, match="needs the package bitsandbytes; pip install bitsandbytes"):
        plan_of(run, GPU)
    monkeypatch.setattr(checks, "find_spec", lambda name: ModuleSpec(name, None))
    with pytest.raises(ConfigError, match=r"does not go with launch\.zero_stage 3"):
        plan_of(run, replace(ZERO_3, use_gpu=True))
    with pytest.raises(ConfigError, match="needs weights to load"):
        plan_of(_in_4bit(run, random_init=True), GPU)


def test_4_bits_are_asked_of_transformers_on_the_workers_device(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: dict[str, Any] = {}

    def from_pretrained(*_: Any, **options: Any) -> torch.nn.Module:
        asked.update(options)
        return torch.nn.Module()

    monkeypatch.setattr("transformers.AutoModelForCausalLM.from_pretrained", from_pretrained)
    # transformers asks for the version of the package, which need not be here.
    monkeypatch.setattr("importlib.metadata.version", lambda name: "1.0.0")
    build_language_model(LanguageModelConfig(tiny.language.path), dtype=torch.bfloat16, device_in_4bit="cuda:3")
    settings = asked["quantization_config"]
    assert (settings.load_in_4bit, settings.bnb_4bit_quant_type) == (True, "nf4")
    assert settings.bnb_4bit_compute_dtype == torch.bfloat16
    assert asked["device_map"] == {"": "cuda:3"}


def test_compile_needs_a_compiler(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CXX", "/nonexistent/g++")
    with pytest.raises(ConfigError, match=r"compile needs the C\+\+ compiler /nonexistent/g\+\+, which is not here"):
        plan_of(_with(tiny.run(tmp_path), compile=True), HERE)


def test_packed_rows_are_refused_where_attention_cannot_have_them() -> None:
    stage = StageConfig(num_steps=1, packed_tokens=512, max_length=128)
    with pytest.raises(ConfigError, match="bart is an encoder-decoder; take token_budget"):
        check_packing(stage, config=make_tiny("bart").config)
    with pytest.raises(ConfigError, match=r"further than the 4 tokens .* sliding window; lower max_length to 4"):
        check_packing(stage, config=make_tiny("mistral", sliding_window=4).config)
    config = make_tiny("llama").config
    check_packing(stage, config=config)
    config._attn_implementation = "flash_attention_2"
    with pytest.raises(ConfigError, match=r"a bias .sdpa or eager., this model has flash_attention_2; take token"):
        check_packing(stage, config=config)


def test_base_rate_of_the_paper_is_warned_about(tiny: Any, tmp_path: Path) -> None:
    with pytest.warns(UserWarning, match="its peak for your batch of 8 would be 0.0002812"):
        plan_of(tiny.run(tmp_path, learning_rate=9e-3), HERE)
