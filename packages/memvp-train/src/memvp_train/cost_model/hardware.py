"""Machines as a table of published figures: what one accelerator computes, holds and sends per second.

All are peaks of data sheets, dense (without sparsity); `achieved_*` is the share of a peak that training is taken to
reach.
"""

import os
from dataclasses import dataclass

from memvp_train.config import ConfigError


@dataclass(frozen=True, kw_only=True)
class Machine:
    """One accelerator, and how it is joined to its neighbours."""

    flops_16_bit: float
    """Operations per second in matrix products of bf16 or fp16."""
    flops_32_bit: float
    """The same in fp32 proper, without TF32."""
    memory_bytes: int
    """Memory of one."""
    memory_bandwidth: float
    """Bytes per second between its memory and its cores."""
    link_bandwidth: float
    """Bytes per second to others in the node, one direction."""
    network_bandwidth: float
    """Bytes per second to another node, one direction, per accelerator."""
    per_node: int
    """Accelerators in a node."""
    launch_seconds: float = 6e-6
    """Least time from one operation to the next."""
    achieved_flops: float = 0.65
    """Assumed share of the peak that large matrix products reach."""
    achieved_bandwidth: float = 0.8
    """Assumed share of the memory's and the links' peaks."""
    overlaps: bool = True
    """Sends while it computes."""
    fuses_all_attention: bool = True
    """Attention never writes out its scores; a CPU does where dropout or a trained bias is on them."""
    is_rough: bool = False
    """The figures are of one machine, fitted, not published."""
    source: str
    """Where the figures are from."""


_GB, _GIB = 1e9, 2**30
_A100 = {
    "flops_16_bit": 312e12,
    "flops_32_bit": 19.5e12,
    "memory_bytes": 80 * _GIB,
    "memory_bandwidth": 2039 * _GB,
    "network_bandwidth": 25 * _GB,
    "per_node": 8,
}
_H100 = {
    "flops_16_bit": 989.4e12,
    "flops_32_bit": 66.9e12,
    "link_bandwidth": 450 * _GB,
    "network_bandwidth": 50 * _GB,
    "per_node": 8,
}

MACHINES: dict[str, Machine] = {
    "h100-80gb": Machine(
        **_H100,
        memory_bytes=80 * _GIB,
        memory_bandwidth=3350 * _GB,
        source="NVIDIA H100 Tensor Core GPU data sheet (SXM5); DGX H100: NDR InfiniBand, 400 Gb/s per GPU",
    ),
    "h200-141gb": Machine(
        **_H100,
        memory_bytes=141 * 10**9,
        memory_bandwidth=4800 * _GB,
        source="NVIDIA H200 Tensor Core GPU data sheet (SXM); DGX H200: NDR InfiniBand, 400 Gb/s per GPU",
    ),
    "a100-80gb": Machine(
        **_A100,
        link_bandwidth=300 * _GB,
        source="NVIDIA A100 80GB data sheet (SXM4); DGX A100: HDR InfiniBand, 200 Gb/s per GPU",
    ),
    "a800-80gb": Machine(
        **_A100,
        link_bandwidth=200 * _GB,
        source="NVIDIA A800 80GB: an A100 whose NVLink has 400 GB/s in both directions",
    ),
    "v100-32gb": Machine(
        flops_16_bit=125e12,
        flops_32_bit=15.7e12,
        memory_bytes=32 * _GIB,
        memory_bandwidth=900 * _GB,
        link_bandwidth=150 * _GB,
        network_bandwidth=12.5 * _GB,
        per_node=8,
        source="NVIDIA V100 data sheet (SXM2; fp16, it has no bf16); DGX-1: EDR InfiniBand, 100 Gb/s",
    ),
    "l40s-48gb": Machine(
        flops_16_bit=362e12,
        flops_32_bit=91.6e12,
        memory_bytes=48 * 10**9,
        memory_bandwidth=864 * _GB,
        link_bandwidth=32 * _GB,
        network_bandwidth=25 * _GB,
        per_node=8,
        source="NVIDIA L40S data sheet: PCIe 4.0 x16, no NVLink; a network of 200 Gb/s per GPU is assumed",
    ),
}
CPU = "cpu"


def machine_named(name: str) -> Machine:
    """A row of the table, or "cpu": a worker on this computer, as memvp_core's cost model was fitted, and rough.

    Raises:
        ConfigError: there is no such machine.
    """
    if name == CPU:
        return _this_cpu()
    if name not in MACHINES:
        raise ConfigError(f"machine {name!r} is not in the table; take one of {', '.join(MACHINES)}, {CPU}")
    return MACHINES[name]


def _this_cpu() -> Machine:
    from memvp_core.flops import DEVICE_SPEEDS

    fitted, cores = DEVICE_SPEEDS["cpu"], os.cpu_count() or 1
    # The fit is of two cores, a worker has one. bf16 products of such a core are some twice as fast as fp32 ones.
    return Machine(
        flops_16_bit=fitted.flops,
        flops_32_bit=fitted.flops / 2,
        memory_bytes=os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // cores,
        memory_bandwidth=fitted.bandwidth / 2,
        link_bandwidth=1 * _GB,
        network_bandwidth=1 * _GB,
        per_node=cores,
        launch_seconds=fitted.launch,
        achieved_flops=1.0,
        achieved_bandwidth=1.0,
        overlaps=False,
        fuses_all_attention=False,
        is_rough=True,
        source="fitted to benchmarks/results/core_forms.json on two cores of a server; one core per worker",
    )
