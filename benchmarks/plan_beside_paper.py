"""The paper's figures of time and memory on GPUs beside what the cost model says of the same shapes: arithmetic alone.

Table 3: LLaMA-7B on ScienceQA, eight A800, batch 4 each in training and 64 in inference, which is one prefill; CLIP
ViT-L/14 with adapters runs in every step. Table 9: stage 1 of LLaVA-1.5's recipe, Vicuna-7B, batch 32 on each of eight
A800. Fig. 4 left: memory of T5-base at batch 64 on a V100. Models are made from their sizes, without weights.
"""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from measuring import parser, set_up, write_result
from rich.console import Console
from rich.table import Table

from memvp_train.config import LanguageModelConfig, LaunchConfig, LoraSettings, StageConfig, VisionConfig
from memvp_train.cost_model.hardware import machine_named
from memvp_train.cost_model.micro_batch import StepShape
from memvp_train.cost_model.stage import Setup, Text, setup_of, stage_cost
from memvp_train.cost_model.trace import tracing
from memvp_train.cost_model.traced_step import build_on_meta
from memvp_train.methods.registry import Method
from memvp_train.training.loss import model_inputs

PAPER = {
    "Table 3, training": "0.28 s, LLaVA-LoRA 0.49 s: 1.75",
    "Table 3, inference": "1.88 s, LLaVA-LoRA 3.42 s: 1.82",
    "Table 9, stage 1": "0.60 s, LLaVA-1.5 5.43 s: 9.05",
    "Fig. 4 left, T5-base": "56 % of VL-PET's memory: 1.79",
}
"""Seconds per batch, and input space over memory."""
LAYERS = {"full": 32, "smoke": 2}
# Both Tables' texts: prompts of ScienceQA have some 100 to 200 tokens, captions some 20.
SCIENCE, CAPTIONS = Text(12_726, 160, 160, 8), Text(558_128, 32, 32, 24)
QUESTIONS = Text(605_102, 16 + 4, 16 + 4, 4)
SEVEN_B = {"vision_hidden_size": 1024, "num_slots": 320, "projector_hidden_sizes": (128,)}
VICUNA = {**SEVEN_B, "num_slots": 576, "projector_hidden_sizes": (4096,), "projector_activation": "gelu"}
T5 = {
    "vision_hidden_size": 2048,
    "num_slots": 240,
    "projector_hidden_sizes": (),
    "projector_bias": False,
    "share_position_embedding": False,
}
# LLaVA-LoRA's 4.4M parameters fit rank 6 on queries and values.
LLAVA_LORA = LoraSettings(rank=6, target_modules=("q_proj", "v_proj"))


def write_models(folder: Path, *, num_layers: int) -> dict[str, str]:
    """Configs by name; LLaMA-7B and Vicuna-7B have the same sizes."""
    from transformers import CLIPVisionConfig, LlamaConfig, T5Config

    clip: dict[str, Any] = {"hidden_size": 1024, "intermediate_size": 4096, "num_attention_heads": 16, "patch_size": 14}
    t5: dict[str, Any] = {"d_model": 768, "d_ff": 3072, "num_heads": 12, "decoder_start_token_id": 0}
    configs: dict[str, Any] = {
        "llama": LlamaConfig(num_hidden_layers=num_layers),
        "clip": CLIPVisionConfig(**clip, num_hidden_layers=max(2, num_layers * 3 // 4), image_size=224),
        "t5": T5Config(**t5, num_layers=min(12, num_layers)),
    }
    for name, config in configs.items():
        config.save_pretrained(folder / name)
    return {name: str(folder / name) for name in configs}


def table_3(models: dict[str, str]) -> dict[str, Any]:
    """Training and one prefill with a live tower in memory, and with 256 tokens and LLaVA-LoRA's adapters."""
    vision = VisionConfig(path=models["clip"], preprocessing="clip_224", post_norm=True, adapter_dim=12)
    setup = setup_of(
        language=LanguageModelConfig(models["llama"]),
        vision=vision,
        memvp=SEVEN_B,
        launch=LaunchConfig(num_workers=8, zero_stage=0, precision="bf16", use_gpu=True),
        machine=machine_named("a800-80gb"),
    )
    found: dict[Method, float] = {}
    adapters: dict[Method, LoraSettings | None] = {"memory": None, "input space": LLAVA_LORA}
    for method, lora in adapters.items():
        stage = StageConfig(num_steps=1, global_batch_size=32, micro_batch_size=4, lora=lora)
        found[method] = stage_cost(stage, setup=setup, text=SCIENCE, method=method).step_seconds
    shape = StepShape(64, SCIENCE.num_tokens, 1, num_rows=256, width=1024, image_side=224)
    prefill = {method: _prefill_seconds(method, shape=shape, setup=setup) for method in found}
    return {"Table 3, training": found, "Table 3, inference": prefill}


def _prefill_seconds(method: Method, *, shape: StepShape, setup: Setup) -> float:
    model = build_on_meta(
        method, language=setup.language, memvp=setup.memvp, lora=None, vision=setup.tower, dtype=torch.bfloat16
    ).eval()
    batch = shape.batch(device="meta")
    with torch.no_grad(), tracing(num_selected=0, fuses_all_attention=True) as trace:
        model(**model_inputs(batch, device=torch.device("meta"), dtype=torch.bfloat16))
    return trace.seconds(setup.machine)


def table_9(models: dict[str, str]) -> dict[Method, float]:
    """A step of stage 1; the tower's forward, the same in both, is left out."""
    launch = LaunchConfig(num_workers=8, zero_stage=2, precision="bf16", use_gpu=True)
    setup = Setup(LanguageModelConfig(models["llama"]), VICUNA, launch, machine_named("a800-80gb"), num_rows=576)
    stage = StageConfig(num_steps=1, global_batch_size=256, micro_batch_size=32, gradient_checkpointing=True)
    methods: tuple[Method, ...] = ("memory", "input space")
    return {method: stage_cost(stage, setup=setup, text=CAPTIONS, method=method).step_seconds for method in methods}


def figure_4(models: dict[str, str]) -> dict[Method, float]:
    """GiB of T5-base in fp32 at batch 64: 7 x 7 rows in memory, 6 x 6 in input space."""
    stage = StageConfig(num_steps=1, global_batch_size=64, micro_batch_size=64)
    launch, found = LaunchConfig(num_workers=0, use_gpu=True), dict[Method, float]()
    rows: dict[Method, int] = {"memory": 49, "input space": 36}
    for method, num_rows in rows.items():
        setup = Setup(LanguageModelConfig(models["t5"]), T5, launch, machine_named("v100-32gb"), num_rows=num_rows)
        found[method] = stage_cost(stage, setup=setup, text=QUESTIONS, method=method).memory.total / 2**30
    return found


def main() -> None:
    args = parser(__doc__).parse_args()
    facts, console = set_up(args), Console(width=130)
    with tempfile.TemporaryDirectory() as folder:
        models = write_models(Path(folder), num_layers=LAYERS["smoke" if args.smoke else "full"])
        found: dict[str, Any] = table_3(models) | {
            "Table 9, stage 1": table_9(models),
            "Fig. 4 left, T5-base": figure_4(models),
        }
    table = Table(title="The cost model beside the paper")
    for column in ("comparison", "memory", "input space", "ratio", "the paper's own"):
        table.add_column(column)
    for name, one in found.items():
        one["ratio"] = one["input space"] / one["memory"]
        table.add_row(
            name, *(f"{one[method]:.3f}" for method in ("memory", "input space")), f"{one['ratio']:.2f}", PAPER[name]
        )
    console.print(table)
    console.print(f"numbers: {write_result(args.out, 'plan_beside_paper', found, facts=facts).name}")


if __name__ == "__main__":
    main()
