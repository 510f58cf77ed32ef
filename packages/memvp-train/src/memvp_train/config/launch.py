"""Settings of a launch: how many workers, on what, and how DeepSpeed divides the memory among them."""

from dataclasses import dataclass
from typing import Literal

from memvp_train.config.errors import require


@dataclass(frozen=True)
class LaunchConfig:
    """Where and how the workers of a stage run."""

    num_workers: int = 2
    """Training processes; 0 trains on this machine without Ray and DeepSpeed, in this process."""
    local_processes: int = 1
    """Or, where `num_workers` is 0, in so many processes of one core, each with the whole model; 0 takes one for every
    core, as far as the batch can be cut into equal shares."""
    use_gpu: bool = False
    """One GPU per worker."""
    zero_stage: Literal[0, 1, 2, 3] = 2
    """DeepSpeed ZeRO: 0 splits nothing, 1 the optimiser over workers, 2 gradients too, 3 the frozen weights too."""
    precision: Literal["fp32", "bf16", "fp16"] = "fp32"
    """Type of the weights in training; the 16-bit ones keep fp32 master copies of what is trained."""
    offload_optimizer: bool = False
    """Keep the optimiser's state in the memory of the CPU (ZeRO 1 to 3)."""
    offload_parameters: bool = False
    """Keep the weights in the memory of the CPU until they are used (ZeRO 3)."""
    max_failures: int = 3
    """Times in a row that a broken group of workers is started again without a new checkpoint between."""
    hang_seconds: float = 600
    """Seconds without a new step after which workers count as hanging and are started again; longer than any step,
    checkpoint or validation takes."""
    cpus_per_worker: int = 1
    """CPU cores and torch threads of a worker."""
    loader_processes: int = 0
    """Processes beside each worker that make its batches ahead; 0 makes them between two steps."""
    dashboard_port: int | None = None
    """Port of the dashboard of a Ray started here; none takes a free one."""
    timeout_seconds: int = 1800
    """Longest wait of one worker for another."""

    def __post_init__(self) -> None:
        for name in ("num_workers", "local_processes", "max_failures", "loader_processes"):
            value = getattr(self, name)
            require(value >= 0, message=f"launch.{name} must be 0 or more, got {value}")
        for name in ("cpus_per_worker", "timeout_seconds"):
            value = getattr(self, name)
            require(value >= 1, message=f"launch.{name} must be at least 1, got {value}")
        require(self.hang_seconds > 0, message=f"launch.hang_seconds must be above 0, got {self.hang_seconds}")
        port = self.dashboard_port
        require(
            port is None or 1024 <= port <= 65535,
            message=f"launch.dashboard_port must be between 1024 and 65535, got {port}; leave it out for a free one",
        )
        require(
            self.num_workers > 0 or self.local_processes < 2 or not self.use_gpu,
            message=f"launch.local_processes are for CPUs, got {self.local_processes} with launch.use_gpu; "
            f"set launch.num_workers={self.local_processes} instead",
        )
        self._check_offload()

    @property
    def num_ranks(self) -> int:
        """Processes that share a batch; 1 where that is left to the machine, which cuts it as it can."""
        return self.num_workers or self.local_processes or 1

    @property
    def splits(self) -> bool:
        """Whether DeepSpeed divides what is kept among workers."""
        return self.num_workers > 0 and self.zero_stage > 0

    def _check_offload(self) -> None:
        require(
            self.splits or not self.offload_optimizer,
            message="launch.offload_optimizer needs launch.zero_stage 1, 2 or 3 and at least one worker, "
            f"got stage {self.zero_stage} and {self.num_workers} workers",
        )
        require(
            (self.splits and self.zero_stage == 3) or not self.offload_parameters,
            message="launch.offload_parameters needs launch.zero_stage 3 and at least one worker, "
            f"got stage {self.zero_stage} and {self.num_workers} workers",
        )
