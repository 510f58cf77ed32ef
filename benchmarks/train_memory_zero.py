"""Memory under DeepSpeed as planned, beside what one rank is given by torch's allocator, model and optimiser included.

One rank splits nothing, so this shows DeepSpeed's own copies and scratch. Its gradient buffer, 5 x 10^8 numbers set
aside whatever the model, is left out on both sides.
"""

from __future__ import annotations

import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch.distributed as dist
from measuring import machine_line, mebibytes, parser, peak_bytes, set_up, write_result
from rich.console import Console
from rich.table import Table
from train_memory import SHAPE, SIZES, SMOKE_SIZES, Case, write_config

from memvp_train.config import LanguageModelConfig, LaunchConfig
from memvp_train.cost_model.hardware import machine_named
from memvp_train.cost_model.stage import Setup, Text, stage_cost
from memvp_train.engines.deepspeed import DeepSpeedEngine
from memvp_train.engines.local import DTYPES
from memvp_train.methods.registry import build_method
from memvp_train.models.language import build_language_model
from memvp_train.training.loss import micro_batch_loss

_BUCKET = 5 * 10**8


@dataclass(frozen=True)
class Zero:
    """A case under DeepSpeed."""

    case: Case
    stage: int

    @property
    def launch(self) -> LaunchConfig:
        """One rank."""
        return LaunchConfig(num_workers=1, zero_stage=self.stage, precision=self.case.precision)  # type: ignore[arg-type]


def planned_bytes(zero: Zero, language: LanguageModelConfig) -> int:
    """What the cost model says, without its buffers."""
    case = zero.case
    setup = Setup(language, case.memvp, zero.launch, machine_named("cpu"), SHAPE.num_rows)
    text = Text(SHAPE.num_sequences, SHAPE.num_tokens, SHAPE.num_tokens, SHAPE.num_labels)
    memory = stage_cost(case.stage, setup=setup, text=text, method=case.method).memory
    return memory.total - memory.buffers


def held_bytes(zero: Zero, language: LanguageModelConfig) -> int:
    """The most that building a model, its engine and two steps hold, without the gradient buffer."""
    case, dtype = zero.case, DTYPES[zero.case.precision]
    engines: list[Any] = []

    def run() -> None:
        model: Any = build_method(
            case.method, build_language_model(language, dtype=dtype), memvp=case.memvp, lora=case.stage.lora
        )
        trainable = {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}
        engine = DeepSpeedEngine(model, trainable=trainable, stage=case.stage, launch=zero.launch)
        engines.append(engine)
        batch = SHAPE.batch(device="cpu")
        for _ in range(2):
            engine.backward(
                micro_batch_loss(engine.model, batch, device=engine.device, dtype=engine.dtype), is_last=True
            )
            engine.step()

    # DeepSpeed's optimiser for ZeRO-1 in bf16 has no such buffer.
    has_bucket = not (zero.stage == 1 and case.precision == "bf16")
    return peak_bytes(run) - has_bucket * _BUCKET * dtype.itemsize


def main() -> None:
    args = parser(__doc__).parse_args()
    args.threads = args.threads or 1
    facts, console = set_up(args), Console(width=130)
    os.environ.setdefault("LOCAL_RANK", "0")
    sizes = (SMOKE_SIZES if args.smoke else SIZES)["LLaMA-like"]
    table = Table(title="Memory under DeepSpeed, one rank: planned / measured", caption=machine_line(facts))
    for column in ("method", "ZeRO", "precision", "planned", "measured", "ratio"):
        table.add_column(column)
    found: list[dict[str, Any]] = []
    with tempfile.TemporaryDirectory() as folder:
        dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=0, world_size=1)
        language = write_config(Path(folder), "LLaMA-like", sizes=sizes)
        cases = [Case("LLaMA-like", "memory", precision, lora=True) for precision in ("fp32", "bf16")]
        cases += [Case("LLaMA-like", "full", precision) for precision in ("fp32", "bf16")]
        for zero in (Zero(case, stage) for case in (cases[:1] if args.smoke else cases) for stage in (1, 2, 3)):
            planned, held = planned_bytes(zero, language), held_bytes(zero, language)
            one = {"method": zero.case.method, "zero_stage": zero.stage, "precision": zero.case.precision}
            found.append(one | {"planned_bytes": planned, "measured_bytes": held, "ratio": planned / held})
            table.add_row(*map(str, one.values()), mebibytes(planned), mebibytes(held), f"{planned / held:.3f}")
    console.print(table)
    console.print(f"numbers: {write_result(args.out, 'train_memory_zero', {'cases': found}, facts=facts).name}")


if __name__ == "__main__":
    main()
