"""The recipe for a real 7B model: what it trains, counted without weights, and three steps of it at full width."""

import json
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from transformers import CLIPVisionConfig, LlamaConfig

from memvp_data.toyworld import model_path
from memvp_train.config import GroupSettings
from memvp_train.models import build_language_model, build_memvp_model
from pipelines.config import JobConfig
from tests.e2e.e2e_jobs import ENTRY, run_command
from tests.pipelines.official_files import data_overrides, write_official_files

RECIPE = "pipelines/recipes/llava15_vicuna7b.yaml"


def write_vicuna(folder: Path, **changes: int) -> Path:
    """The shape of Vicuna-7B-v1.5 (LLaMA-2 7B), as its config.json gives it, without weights."""
    LlamaConfig(**{"num_hidden_layers": 32, "vocab_size": 32000} | changes).save_pretrained(folder)
    return folder


def test_settings_are_the_papers(recipe: Callable[..., JobConfig]) -> None:
    job = recipe("llava15_vicuna7b")
    assert (job.language.path, job.vision.path) == ("lmsys/vicuna-7b-v1.5", "openai/clip-vit-large-patch14-336")
    assert (job.vision.layer, job.vision.tokens, job.vision.post_norm) == (-2, "patches", False)
    assert (job.memvp.num_slots, job.memvp.projector_hidden_sizes) == (576, (4096,))
    assert job.memvp.projector_activation == "gelu"
    assert (job.stage1.global_batch_size, job.stage1.learning_rate) == (256, 1e-3)
    assert (job.stage2.global_batch_size, job.stage2.learning_rate) == (128, 2e-5)
    assert job.stage2.groups.named() == {"lora": GroupSettings(learning_rate=2e-4)}
    assert job.stage2.lora is not None
    assert (job.stage2.lora.rank, job.stage2.lora.alpha, len(job.stage2.lora.target_modules)) == (128, 256, 7)
    for stage in (job.stage1, job.stage2):
        assert (stage.warmup_fraction, stage.weight_decay, stage.max_length) == (0.03, 0.0, 2048)
    assert (job.launch.zero_stage, job.launch.precision) == (3, "bf16")


def test_it_trains_345_513_984_parameters(recipe: Callable[..., JobConfig], tmp_path: Path) -> None:
    config = recipe("llava15_vicuna7b", f"--language.path={write_vicuna(tmp_path)}")
    language_model = build_language_model(config.language, meta=True)
    model = build_memvp_model(language_model, memvp=config.memvp.to_dict(), lora=config.stage2.lora, init_adapter=None)
    assert {parameter.device.type for parameter in model.parameters()} == {"meta"}
    assert model.num_trainable_parameters() == 345_513_984
    assert config.launch.zero_stage == 3
    assert config.stage2.lora is not None
    assert config.stage2.lora.rank == 128


def write_tower(folder: Path) -> Path:
    """The shape of CLIP ViT-L/14@336 with three of its layers."""
    CLIPVisionConfig(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=3, num_attention_heads=16, image_size=336,
        patch_size=14, projection_dim=768,
    ).save_pretrained(folder)  # fmt: skip
    return folder


@pytest.mark.slow
@pytest.mark.timeout(1000)
def test_three_steps_at_full_width_with_two_layers(tmp_path: Path) -> None:
    """d 4096, 576 patches, bf16, ZeRO-3 on two gloo workers; only depth, vocabulary and weights are not Vicuna's."""
    language = write_vicuna(tmp_path / "language", num_hidden_layers=2, vocab_size=76)
    for file in model_path("language").glob("tokenizer*"):
        (language / file.name).write_bytes(file.read_bytes())
    root = write_official_files(tmp_path / "data", size=(336, 336))
    overrides = [
        f"--language.path={language}",
        "--language.random_init=true",
        f"--vision.path={write_tower(tmp_path / 'tower')}",
        "--vision.random_init=true",
        "--vision.batch_size=4",
        *(f"--{stage}.num_epochs=null" for stage in ("stage1", "stage2")),
        *(f"--{stage}.num_steps=3" for stage in ("stage1", "stage2")),
        *(f"--{stage}.global_batch_size=4" for stage in ("stage1", "stage2")),
        *(f"--{stage}.micro_batch_size=2" for stage in ("stage1", "stage2")),
        *(f"--launch.{name}={value}" for name, value in
          {"num_workers": 2, "use_gpu": "false", "cpus_per_worker": 1}.items()),
        "--evaluate.num_pictures=1",
        *data_overrides(root),
    ]  # fmt: skip
    command = [sys.executable, ENTRY, "--config", RECIPE, f"--storage={tmp_path / 'runs'}", *overrides]
    job = run_command(command, storage=tmp_path / "runs", seconds=900)
    assert job.code == 0, job.err
    report = json.loads((tmp_path / "runs/llava15_vicuna7b/report.json").read_text())
    # Projector and positions are the 7B model's own: 1024 -> 4096 -> 4096 and twice 576 x 4096.
    assert report["trainable_parameters"]["stage1"] == 25_698_304
    (curve,) = (tmp_path / "runs/llava15_vicuna7b").glob("stage2/*/metrics.jsonl")
    losses = [json.loads(line)["loss"] for line in curve.read_text().splitlines()]
    assert len(losses) == 3
    assert torch.tensor(losses).isfinite().all()
