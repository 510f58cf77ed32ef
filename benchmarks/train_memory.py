"""Memory of a training step as pipelines/plan.py foretells it, beside what torch's allocator gave out.

Every case builds the model twice: on the meta device for the plan, and with weights for a step of the plain-torch
engine. Counting allocations is exact, so the numbers do not depend on the machine or on what else it does.
"""

from __future__ import annotations

import tempfile
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from measuring import mebibytes, parser, peak_bytes, set_up, write_result
from rich.console import Console
from rich.table import Table

from memvp_train.config import LanguageModelConfig, LaunchConfig, LoraSettings, StageConfig, VisionConfig
from memvp_train.cost_model.hardware import machine_named
from memvp_train.cost_model.micro_batch import StepShape
from memvp_train.cost_model.stage import Text, setup_of, stage_cost
from memvp_train.engines.local import DTYPES, LocalEngine
from memvp_train.methods.registry import METHODS, Method, build_method
from memvp_train.models.language import build_language_model
from memvp_train.training.loss import micro_batch_loss

SIZES = {
    "LLaMA-like": {"hidden_size": 512, "intermediate_size": 1376, "num_hidden_layers": 6, "num_attention_heads": 8},
    "T5-like": {"d_model": 384, "d_ff": 1024, "num_layers": 6, "num_heads": 6, "d_kv": 64, "decoder_start_token_id": 0},
    "BART-like": {"d_model": 384, "encoder_ffn_dim": 1536, "decoder_ffn_dim": 1536, "encoder_layers": 4,
                  "decoder_layers": 4, "encoder_attention_heads": 6, "decoder_attention_heads": 6},
}  # fmt: skip
SMOKE_SIZES = {
    "LLaMA-like": {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2}
}
TARGETS = {
    "LLaMA-like": LoraSettings().target_modules,
    "T5-like": ("q", "k", "v", "o", "wi", "wo"),
    "BART-like": ("q_proj", "k_proj", "v_proj", "out_proj", "fc1", "fc2"),
}
VOCABULARY = 4000
SHAPE = StepShape(num_sequences=8, num_tokens=64, num_labels=16, num_rows=64, width=256)
# A live tower is the toy world's: 36 patches of width 128.
TOWER = VisionConfig(path="toyworld/vision", preprocessing="toyworld_96", adapter_dim=16)
LIVE_SHAPE = replace(SHAPE, num_rows=36, width=128, image_side=96)


@dataclass(frozen=True)
class Case:
    """One way to train one model."""

    model: str
    method: Method
    precision: str = "fp32"
    lora: bool = False
    dropout: float = 0.0
    """Of the LoRA."""
    recomputes: bool = False
    live_tower: bool = False

    @property
    def stage(self) -> StageConfig:
        """Its settings."""
        lora = LoraSettings(rank=16, dropout=self.dropout, target_modules=TARGETS[self.model]) if self.lora else None
        size = SHAPE.num_sequences
        return StageConfig(
            num_steps=1,
            global_batch_size=size,
            micro_batch_size=size,
            lora=lora,
            gradient_checkpointing=self.recomputes,
        )

    @property
    def shape(self) -> StepShape:
        """Its micro-batch."""
        return LIVE_SHAPE if self.live_tower else SHAPE

    @property
    def memvp(self) -> dict[str, Any]:
        """Its memory."""
        return {
            "vision_hidden_size": self.shape.width,
            "num_slots": 96,
            "projector_hidden_sizes": (128,) if self.model == "LLaMA-like" else (),
            "share_position_embedding": self.model == "LLaMA-like",
        }


def cases() -> list[Case]:
    """Every setting that changes what a step keeps, for every method in which it may stand."""
    found = [
        Case("LLaMA-like", method, precision, lora, dropout, recomputes)
        for method in METHODS
        for precision in ("fp32", "bf16")
        for recomputes in (False, True)
        for lora, dropout in ((False, 0.0), (True, 0.0), (True, 0.05))
        if method != "full" or not lora
    ]
    found += [
        Case(model, method, precision, recomputes=recomputes)
        for model in ("T5-like", "BART-like")
        for method in METHODS
        for precision in ("fp32", "bf16")
        for recomputes in (False, True)
    ]
    found += [Case("T5-like", method, "bf16", lora=True) for method in ("memory", "input space")]
    return found + [Case("LLaMA-like", "memory", precision, live_tower=True) for precision in ("fp32", "bf16")]


def write_config(folder: Path, model: str, *, sizes: dict[str, Any]) -> LanguageModelConfig:
    """A folder with the config of a model alone."""
    from transformers import BartConfig, LlamaConfig, T5Config

    kinds: dict[str, Any] = {"LLaMA-like": LlamaConfig, "T5-like": T5Config, "BART-like": BartConfig}
    kinds[model](**sizes, vocab_size=VOCABULARY).save_pretrained(folder / model)
    return LanguageModelConfig(path=str(folder / model), random_init=True)


def planned_bytes(case: Case, language: LanguageModelConfig) -> int:
    """What the cost model says."""
    launch = LaunchConfig(num_workers=0, precision=case.precision)  # type: ignore[arg-type]
    vision = TOWER if case.live_tower else None
    setup = setup_of(language=language, vision=vision, memvp=case.memvp, launch=launch, machine=machine_named("cpu"))
    setup = replace(setup, num_rows=case.shape.num_rows)
    text = Text(case.shape.num_sequences, case.shape.num_tokens, case.shape.num_tokens, case.shape.num_labels)
    return stage_cost(case.stage, setup=setup, text=text, method=case.method).memory.total


def held_bytes(case: Case, language: LanguageModelConfig) -> int:
    """The most that a real step holds, in its second round: weights, optimiser, and what the allocator gives out."""
    dtype, stage = DTYPES[case.precision], case.stage
    model: Any = build_method(
        case.method,
        build_language_model(language, dtype=dtype),
        memvp=case.memvp,
        lora=stage.lora,
        vision=TOWER if case.live_tower else None,
    )
    if stage.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
    engine = LocalEngine(model, trainable=trainable, stage=stage, precision=case.precision)
    batch = case.shape.batch(device="cpu", is_encoder_decoder=case.model != "LLaMA-like")

    def step() -> None:
        micro_batch_loss(engine.model, batch, device=engine.device, dtype=engine.dtype).backward()
        engine.step()

    step()
    weights = sum(parameter.nbytes for parameter in model.parameters())
    numbers = sum(parameter.numel() for parameter in trainable.values())
    return weights + numbers * (8 if case.precision == "fp32" else 12) + peak_bytes(step)


def table_of(found: list[dict[str, Any]]) -> Table:
    """The cases, worst ones marked by their ratio."""
    table = Table(title="Memory of a training step: planned / measured")
    for column in ("model", "method", "precision", "LoRA", "recomputes", "tower", "planned", "measured", "ratio"):
        table.add_column(column)
    for one in found:
        lora = "dropout" if one["dropout"] else "yes" if one["lora"] else ""
        marks = (lora, "yes" if one["recomputes"] else "", "live" if one["live_tower"] else "")
        sizes = (mebibytes(one["planned_bytes"]), mebibytes(one["measured_bytes"]))
        table.add_row(one["model"], one["method"], one["precision"], *marks, *sizes, f"{one['ratio']:.3f}")
    return table


def main() -> None:
    args = parser(__doc__).parse_args()
    args.threads = args.threads or 1
    facts, console = set_up(args), Console(width=130)
    sizes = SMOKE_SIZES if args.smoke else SIZES
    chosen = [Case("LLaMA-like", method) for method in METHODS] if args.smoke else cases()
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        models = {name: write_config(Path(folder), name, sizes=size) for name, size in sizes.items()}
        for case in chosen:
            planned, held = (count(case, models[case.model]) for count in (planned_bytes, held_bytes))
            found.append(vars(case) | {"planned_bytes": planned, "measured_bytes": held, "ratio": planned / held})
    errors = [abs(one["ratio"] - 1) for one in found]
    console.print(table_of(found))
    console.print(f"largest error {max(errors):.1%}")
    result = {"largest_error": max(errors), "cases": found}
    console.print(f"numbers: {write_result(args.out, 'train_memory', result, facts=facts).name}")


if __name__ == "__main__":
    main()
