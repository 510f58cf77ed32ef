"""A plan as tables that fit a terminal."""

from rich.console import Console
from rich.table import Table

from memvp_train.cost_model.stage import StageCost, Text
from pipelines.planning.plan import Plan

_MIB, _GIB = 2**20, 2**30
_USABLE = 0.92
"""Share of a GPU's memory that training gets; the rest is the driver's and lost between blocks."""


def print_plan(plan: Plan, *, console: Console) -> None:
    """Memory and time of every stage by every method, the feature store, and what was assumed."""
    room = _USABLE * plan.machine.memory_bytes
    for name, costs in plan.stages.items():
        console.print(_stage_table(name, costs, plan=plan, room=room))
        console.print(f"assumed: {_assumed(plan.texts[name])}\n", soft_wrap=True)
    console.print(_features_line(plan), soft_wrap=True)
    rough = ", fitted to one machine and rough" if plan.machine.is_rough else ""
    console.print(f"machine: {plan.machine.source}{rough}", soft_wrap=True)
    console.print(
        f"time: the roofline at {plan.machine.achieved_flops:.0%} of the peak in matrix products and "
        f"{plan.machine.achieved_bandwidth:.0%} of the bandwidths; nothing here is measured",
        soft_wrap=True,
    )


def _stage_table(name: str, costs: tuple[StageCost, ...], *, plan: Plan, room: float) -> Table:
    is_small = max(one.memory.total for one in costs) < _GIB
    unit, unit_name = (_MIB, "MiB") if is_small else (_GIB, "GiB")
    table = Table(
        title=f"{plan.name}, {name}: {plan.num_workers} x {plan.machine_name}, ZeRO-{plan.zero_stage}; "
        f"{unit_name} of each",
        title_justify="left",
    )
    titles = ("images", "trained", "weights", "optimiser", "gradients", "image memory", "activations", "buffers")
    for title in (*titles, "in all", "step", "TFLOP", f"{unit_name} sent", "sending", "hours"):
        table.add_column(title, justify="left" if title == "images" else "right")
    for one in costs:
        memory = one.memory
        parts = (memory.weights, memory.optimizer, memory.gradients, memory.images, memory.activations, memory.buffers)
        total = f"{memory.total / unit:.1f}" + ("" if memory.total <= room else " (too much)")
        table.add_row(
            one.method,
            f"{one.num_trained / 1e6:,.2f} M",
            *(f"{part / unit:.2f}" for part in parts),
            total,
            f"{one.step_seconds:.3f} s",
            f"{one.step_flops / 1e12:,.2f}",
            f"{one.sent_bytes / unit:.2f}",
            f"{one.send_seconds:.3f} s",
            f"{one.seconds / 3600:.2f}",
        )
    return table


def _assumed(text: Text) -> str:
    return (
        f"{text.num_samples:,} samples of {text.num_tokens} text tokens on average (the longest {text.longest}), "
        f"{text.num_labels} of them learnt, each with an image of its own"
    )


def _features_line(plan: Plan) -> str:
    features = plan.features
    if features is None:
        return "features: none are stored, the tower is live or they come as published"
    size = features.disk_bytes / plan.num_images if plan.num_images else 0
    return (
        f"features: {plan.num_images:,} images x {features.num_rows} rows x {features.width} numbers, "
        f"{size / 1024:,.0f} KiB each, {features.disk_bytes / 1e9:,.1f} GB in all; the tower takes "
        f"{features.seconds / 3600:.2f} hours, without reading and decoding images"
    )
