"""Whether `form="auto"` takes the fastest form: every form timed over many workloads: `make bench-forms`.

A call of a model prepares what its layers read, once, and then reads in every layer; both are timed, for one layer, and
added up for models of several depths. The choice is right when it is the fastest form or within 10 % of it.
"""

from __future__ import annotations

import itertools
import random
import time
from dataclasses import replace
from typing import Any

import torch
from measuring import interleaved, machine_line, parser, seconds, set_up, write_result
from rich.console import Console
from rich.progress import track
from rich.table import Table
from torch import Tensor
from torch.nn import functional

from memvp_core import MemVPConfig
from memvp_core import flops as cost_model
from memvp_core.config import Form
from memvp_core.flops import Workload
from memvp_core.memory import read_form
from memvp_core.memory.arrange import Arrangement, arrange
from memvp_core.memory.entries import Entries, entries_for
from memvp_core.memory.prompt import VisualPrompt

FORMS: tuple[Form, ...] = ("direct", "split", "factored")
QUERIES = (
    (1, 1),
    (1, 64),
    (1, 512),
    (1, 2048),
    (4, 1),
    (4, 16),
    (4, 64),
    (16, 1),
    (16, 16),
    (16, 64),
    (64, 1),
    (64, 16),
)
ROWS = ((36, 49), (49, 240), (256, 320), (576, 576))
WIDTHS = (128, 256, 512, 1024, 2048)
CODES = (32, 128, 512)
DEPTHS = (2, 8, 32)
MAX_BYTES = 2**28
NUM_READS = 4
TOLERANCE = 1.1


def workloads(*, num_cases: int, is_backward: bool) -> list[Workload]:
    """Some of the grid of sizes, the same ones each time. Nothing is trained on fewer than 16 tokens per image."""
    grid = [
        Workload(entries * queries, entries, rows, slots, width, codes, 1, shared)
        for (entries, queries), (rows, slots), width, codes, shared in itertools.product(
            QUERIES, ROWS, WIDTHS, CODES, (True, False)
        )
        if codes < width and entries * slots * width * 4 <= MAX_BYTES and (queries >= 16 or not is_backward)
    ]
    random.Random(0).shuffle(grid)
    return grid[:num_cases]


def measure(load: Workload, *, is_backward: bool, num_rounds: int) -> dict[str, dict[str, float]]:
    """Seconds by form: to prepare a call, and to read in one layer."""
    torch.manual_seed(0)
    prompt = prompt_for(load)
    codes = torch.randn(load.num_entries, load.num_rows, load.num_codes or 0, requires_grad=is_backward)
    x = torch.randn(load.num_entries, load.num_queries // load.num_entries, load.hidden_size)
    arrangement = arrange(torch.arange(load.num_entries), device=x.device)
    prepared = {form: prepare(prompt, codes, arrangement, form=form) for form in FORMS}
    reader, preparer, num_reads = (read_back, prepare_back, NUM_READS) if is_backward else (read, prepare, 1)
    reads = {form: lambda form=form: reader(x, prepared[form], arrangement, form=form) for form in FORMS}
    prepares = {form: lambda form=form: preparer(prompt, codes, arrangement, form=form) for form in FORMS}
    with torch.set_grad_enabled(is_backward):
        read_times = interleaved(reads, num_rounds=num_rounds, min_seconds=0.004)
        prepare_times = interleaved(prepares, num_rounds=max(1, num_rounds // 2), min_seconds=0.001)
    return {
        form: {"prepare": seconds(prepare_times, form), "read": seconds(read_times, form) / num_reads} for form in FORMS
    }


def prompt_for(load: Workload) -> VisualPrompt:
    """A visual prompt of the workload's sizes; features are as wide as codes, since the benchmark starts from codes."""
    config = MemVPConfig(
        vision_hidden_size=load.num_codes or 0,
        num_slots=load.num_slots,
        projector_hidden_sizes=(load.num_codes or 0,),
        share_position_embedding=load.positions_are_shared,
    )
    return VisualPrompt(config, hidden_size=load.hidden_size, num_layers=2, dtype=torch.float32)


def prepare(prompt: VisualPrompt, codes: Tensor, arrangement: Arrangement, *, form: Form) -> Entries:
    """As `make_reading` does once per call."""
    parts = prompt(features=None, codes=codes, form=form, dtype=torch.float32)
    entries = entries_for(parts, arrangement=arrangement)
    return entries.folded() if form == "direct" and prompt.config.share_position_embedding else entries


def read(x: Tensor, entries: Entries, arrangement: Arrangement, *, form: Form) -> Tensor:
    """As a layer does."""
    entries = entries.of_layer(1)
    return read_form(x, entries=entries, arrangement=arrangement, activation=functional.silu, dropout=0.0, form=form)


def read_back(x: Tensor, entries: Entries, arrangement: Arrangement, *, form: Form) -> None:
    """Forward and backward of some layers down to the prepared tensors, whose gradients add up over the layers."""
    x = x.detach().requires_grad_()
    wanted = [x, *tensors_of(entries)]
    found = sum(read(x, entries, arrangement, form=form).sum() for _ in range(NUM_READS))
    torch.autograd.grad(found, wanted)


def prepare_back(prompt: VisualPrompt, codes: Tensor, arrangement: Arrangement, *, form: Form) -> None:
    """Forward and backward of what is done once per call."""
    found = sum(part.sum() for part in tensors_of(prepare(prompt, codes, arrangement, form=form)))
    wanted = [codes, *(weight for weight in prompt.parameters() if weight.requires_grad)]
    torch.autograd.grad(found, wanted, allow_unused=True)


def tensors_of(entries: Entries) -> list[Tensor]:
    """The tensors with gradients, each once."""
    return list({id(part): part for part in entries.tensors if isinstance(part, Tensor)}.values())


def judge(load: Workload, times: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """For each depth: the choice, the fastest form, and how much slower the choice is."""
    found = []
    for depth in DEPTHS:
        whole = {form: one["prepare"] + depth * one["read"] for form, one in times.items()}
        deep = replace(load, num_layers=depth)
        choice = cost_model.choose_form("auto", deep, dtype=torch.float32)
        best = min(whole, key=lambda form: whole[form])
        found.append({"depth": depth, "choice": choice, "best": best, "slower": whole[choice] / whole[best]})
    return found


def summary(cases: list[dict[str, Any]]) -> Table:
    """Shares of right choices, by the form that is fastest."""
    judged = [one for case in cases for one in case["choices"]]
    table = Table(title=f"Choices of auto: the fastest form or within {TOLERANCE - 1:.0%}")
    for column in ("fastest form", "cases", "right", "mean loss", "worst loss", "chosen instead"):
        table.add_column(column, justify="left" if column == "fastest form" else "right")
    for form in (*FORMS, "all"):
        those = [one for one in judged if form in (one["best"], "all")]
        if not those:
            continue
        losses = [one["slower"] - 1 for one in those]
        wrong = sorted({one["choice"] for one in those if one["slower"] > TOLERANCE})
        share = sum(one["slower"] <= TOLERANCE for one in those) / len(those)
        row = (form, str(len(those)), f"{share:.1%}", f"{sum(losses) / len(losses):.1%}", f"{max(losses):.0%}")
        table.add_row(*row, ", ".join(wrong))
    return table


def main() -> None:
    options = parser(__doc__)
    options.add_argument("--cases", type=int, default=160, help="workloads taken from the grid")
    options.add_argument("--backward", action="store_true", help="forward and backward, as in a training step")
    args = options.parse_args()
    facts, console, start, cases = set_up(args), Console(width=120), time.perf_counter(), []
    loads = workloads(num_cases=2 if args.smoke else args.cases, is_backward=args.backward)
    for load in track(loads, "workloads", console=console):
        times = measure(load, is_backward=args.backward, num_rounds=1 if args.smoke else args.rounds or 5)
        cases.append({"load": vars(load), "seconds": times, "choices": judge(load, times)})
    console.print(summary(cases), machine_line(facts))
    name = "core_forms_backward" if args.backward else "core_forms"
    judged = [one["slower"] <= TOLERANCE for case in cases for one in case["choices"]]
    head = {"took": time.perf_counter() - start, "share_right": sum(judged) / len(judged)}
    console.print(f"numbers: {write_result(args.out, name, head | {'cases': cases}, facts=facts).name}")


if __name__ == "__main__":
    main()
