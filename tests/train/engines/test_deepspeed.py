"""DeepSpeed in two gloo processes gives the run of one plain process; its checkpoints fit any world size and stage."""

import itertools
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memvp_train.checkpoints.state import FolderCheckpoints, TrainingState, read_state
from memvp_train.config import GroupSettings, LaunchConfig, LoraSettings, ParameterGroups, ValidationConfig
from memvp_train.training.metrics_log import read_metrics
from memvp_train.training.plan import WorkerPlan
from memvp_train.training.worker import train_here
from tests.train.plans import plan_of

NUM_STEPS = 6
LORA_GROUP = ParameterGroups(lora=GroupSettings(learning_rate=0.01))


def _prepare(tiny: Any, out: Path, *, launch: LaunchConfig, **stage: Any) -> WorkerPlan:
    still = replace(tiny, memvp={**tiny.memvp, "memory_dropout": 0.0})  # ranks draw masks of their own
    values = {"lora": LoraSettings(rank=2), "groups": LORA_GROUP, "num_steps": NUM_STEPS, **stage}
    run = still.run(out, **values)
    if run.stage.validation is not None:
        run = replace(run, validation=str(tiny.samples))
    return plan_of(run, launch)


def _run_here(tiny: Any, out: Path, *, precision: Any = "fp32", **stage: Any) -> None:
    plan = _prepare(tiny, out, launch=LaunchConfig(num_workers=0, precision=precision), **stage)
    train_here(plan, checkpoints=FolderCheckpoints(out / "checkpoints", keep=10))


def _run(tiny: Any, out: Path, *, launch: LaunchConfig, **stage: Any) -> None:
    """Train into `out`: in `launch.num_workers` processes with DeepSpeed, or here if that is 0."""
    if launch.num_workers == 0:
        _run_here(tiny, out, **stage)
    else:
        tiny.train_ranks(_prepare(tiny, out, launch=launch, **stage), num_ranks=launch.num_workers)


def _last(out: Path) -> TrainingState:
    return read_state(FolderCheckpoints(out / "checkpoints").candidates()[0])


def _assert_close(one: TrainingState, two: TrainingState) -> None:
    """Sums over ranks add in another order, and Adam's division magnifies the last bits: seen 1e-6 after 6 steps."""
    assert one.step == two.step
    for kind in ("weights", "exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(getattr(one, kind), getattr(two, kind), rtol=0, atol=1e-5)


def _assert_same_curve(one: Path, two: Path) -> None:
    rows = [read_metrics(out / "metrics.jsonl") for out in (one, two)]
    assert [row["step"] for row in rows[1]] == list(range(1, NUM_STEPS + 1))
    for name in ("loss", "grad_norm", "learning_rate"):
        expected = [row[name] for row in rows[0]]
        assert [row[name] for row in rows[1]] == pytest.approx(expected, rel=1e-4)


@pytest.fixture(scope="module")
def local(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("local")
    _run(tiny, out, launch=LaunchConfig(num_workers=0))
    return out


@pytest.fixture(scope="module")
def zero2(cases: Path) -> Path:
    return cases / "zero 2"


def test_two_ranks_of_zero_2_equal_one_plain_process(local: Path, zero2: Path) -> None:
    _assert_close(_last(zero2), _last(local))
    _assert_same_curve(local, zero2)


def test_saved_by_two_ranks_of_zero_2_continued_by_one_of_zero_3(
    tiny: Any, tmp_path: Path, local: Path, zero2: Path
) -> None:
    shutil.copytree(zero2 / "checkpoints" / "step-000000002", tmp_path / "checkpoints" / "step-000000002")
    shutil.copy(zero2 / "metrics.jsonl", tmp_path)
    _run(tiny, tmp_path, launch=LaunchConfig(num_workers=1, zero_stage=3))
    _assert_close(_last(tmp_path), _last(local))
    _assert_same_curve(local, tmp_path)


def test_saved_by_two_ranks_continued_by_plain_torch(tiny: Any, tmp_path: Path, local: Path, zero2: Path) -> None:
    shutil.copytree(zero2 / "checkpoints" / "step-000000004", tmp_path / "checkpoints" / "step-000000004")
    shutil.copy(zero2 / "metrics.jsonl", tmp_path)
    _run(tiny, tmp_path, launch=LaunchConfig(num_workers=0))
    _assert_close(_last(tmp_path), _last(local))


def test_zero_3_with_ranks_that_have_no_image(tiny: Any, tmp_path: Path, cases: Path) -> None:
    _run_here(tiny, tmp_path, **ONE_SAMPLE_PER_RANK)
    _assert_close(_last(cases / "zero 3, ranks without an image"), _last(tmp_path))


# Each case: settings of the launch, settings of the stage.
Case = tuple[dict[str, Any], dict[str, Any]]
BUDGET = {"token_budget": 20, "micro_batch_size": 8}
# Every fourth sample has no image, so in most steps at least one rank differs from the other.
ONE_SAMPLE_PER_RANK = {"global_batch_size": 2, "micro_batch_size": 1}
CASES: dict[str, Case] = {
    "zero 0, by image, mean over samples": ({"zero_stage": 0}, {"questions_per_image": 2, "mean_over": "samples"}),
    "zero 1, token budget": ({"zero_stage": 1}, BUDGET),
    "zero 2, packed, offloaded": ({"zero_stage": 2, "offload_optimizer": True}, {"packed_tokens": 24}),
    "zero 3, offloaded": ({"zero_stage": 3, "offload_optimizer": True, "offload_parameters": True}, {}),
    # 24 samples in passes of 2 x 5: the last pass is not full, and in most passes a rank has samples without an image.
    "zero 3, validated": ({"zero_stage": 3}, {"validation": ValidationConfig(every=2), "micro_batch_size": 5}),
}
# These have tests of their own.
TOLD_APART: dict[str, Case] = {
    "zero 2": ({"zero_stage": 2}, {}),
    "zero 3, ranks without an image": ({"zero_stage": 3}, ONE_SAMPLE_PER_RANK),
}
SLOW_CASES: dict[str, Case] = {
    "zero 0": ({"zero_stage": 0}, {}),
    "zero 0, token budget": ({"zero_stage": 0}, BUDGET),
    "zero 1, offloaded": ({"zero_stage": 1, "offload_optimizer": True}, {}),
    "zero 2, offloaded": ({"zero_stage": 2, "offload_optimizer": True}, {}),
    "zero 2, token budget": ({"zero_stage": 2}, BUDGET),
    "zero 3, packed": ({"zero_stage": 3}, {"packed_tokens": 24}),
}
FP16, SLOW_FP16 = (2,), (0, 1, 3)
"""ZeRO stages."""


def _train_together(tiny: Any, folder: Path, *, cases: dict[str, Case], fp16: Sequence[int]) -> Path:
    """All in one process group, since starting one takes most of the time."""
    plans = [
        _prepare(tiny, folder / name, launch=LaunchConfig(num_workers=2, **launch), **stage)
        for name, (launch, stage) in cases.items()
    ]
    for stage in fp16:
        # On a CPU the driver refuses what these ranks are made to do.
        plan = _prepare(tiny, folder / f"fp16, {stage}", launch=LaunchConfig(num_workers=0, precision="fp16"))
        launch = LaunchConfig(num_workers=2, zero_stage=stage, precision="fp16")  # type: ignore[arg-type]
        plans.append(replace(plan, launch=launch))
    tiny.train_ranks(*plans, num_ranks=2)
    return folder


@pytest.fixture(scope="module")
def cases(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _train_together(tiny, tmp_path_factory.mktemp("cases"), cases=CASES | TOLD_APART, fp16=FP16)


@pytest.fixture(scope="module")
def slow_cases(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return _train_together(tiny, tmp_path_factory.mktemp("slow-cases"), cases=SLOW_CASES, fp16=SLOW_FP16)


@pytest.mark.parametrize("name", CASES)
def test_two_ranks_equal_one_plain_process(tiny: Any, tmp_path: Path, cases: Path, name: str) -> None:
    _run_here(tiny, tmp_path, **CASES[name][1])
    _assert_close(_last(cases / name), _last(tmp_path))
    _assert_same_curve(tmp_path, cases / name)


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW_CASES)
def test_two_ranks_equal_one_plain_process_in_every_case(
    tiny: Any, tmp_path: Path, slow_cases: Path, name: str
) -> None:
    _run_here(tiny, tmp_path, **SLOW_CASES[name][1])
    _assert_close(_last(slow_cases / name), _last(tmp_path))
    _assert_same_curve(tmp_path, slow_cases / name)


def test_validation_under_zero_3_equals_one_plain_process(tiny: Any, tmp_path: Path, cases: Path) -> None:
    name = "zero 3, validated"
    _run_here(tiny, tmp_path, **CASES[name][1])
    here, ranks = (read_metrics(out / "metrics.jsonl")[1::2] for out in (tmp_path, cases / name))
    assert len(ranks) == 3
    assert [row["validation_accuracy"] for row in ranks] == [row["validation_accuracy"] for row in here]
    assert [row["validation_loss"] for row in ranks] == pytest.approx([row["validation_loss"] for row in here])
    assert _last(cases / name).numbers["best_step"] == _last(tmp_path).numbers["best_step"]


@pytest.mark.parametrize("stage", FP16)
def test_fp16_leaves_out_steps_that_overflow_and_makes_the_others(
    tiny: Any, tmp_path: Path, cases: Path, stage: int
) -> None:
    _check_fp16(tiny, tmp_path, ranks=cases / f"fp16, {stage}", sums_in_fp32=False)


@pytest.mark.slow
@pytest.mark.parametrize("stage", SLOW_FP16)
def test_fp16_of_every_stage(tiny: Any, tmp_path: Path, slow_cases: Path, stage: int) -> None:
    _check_fp16(tiny, tmp_path, ranks=slow_cases / f"fp16, {stage}", sums_in_fp32=stage == 0)


def _check_fp16(tiny: Any, out: Path, *, ranks: Path, sums_in_fp32: bool) -> None:
    _run_here(tiny, out, precision="fp16")
    here, rows = (read_metrics(folder / "metrics.jsonl") for folder in (out, ranks))
    state = _last(ranks)
    skipped = int(state.numbers["skipped_steps"])
    # Both must happen, or nothing of this was tested.
    assert 0 < skipped < NUM_STEPS
    assert [row["grad_norm"] == 0 for row in rows] == [True] * skipped + [False] * (NUM_STEPS - skipped)
    assert state.numbers["loss_scale"] == 2.0 ** (16 - skipped)
    if not sums_in_fp32:
        # Else fewer steps overflow; so it is the same run but for rounding.
        # The losses before the first step are rounded by each engine in its own order.
        assert state.numbers == pytest.approx(_last(out).numbers, rel=1e-3)
        assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in here], rel=1e-3)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 1, 2, 3])
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_16_bits_keep_fp32_masters_over_a_restart(tiny: Any, tmp_path: Path, precision: str, zero_stage: int) -> None:
    launch = asdict(LaunchConfig(num_workers=1, zero_stage=zero_stage, precision=precision))  # type: ignore[arg-type]
    here = LaunchConfig(num_workers=0, precision=precision)  # type: ignore[arg-type]
    whole = {**_prepare(tiny, tmp_path / "whole", launch=here), "launch": launch}
    tiny.train_ranks(whole, num_ranks=1)
    shutil.copytree(tmp_path / "whole", tmp_path / "parts")
    for step in ("4", "6"):
        shutil.rmtree(tmp_path / "parts" / "checkpoints" / f"step-00000000{step}")
    tiny.train_ranks({**_prepare(tiny, tmp_path / "parts", launch=here), "launch": launch}, num_ranks=1)
    states = [_last(tmp_path / name) for name in ("whole", "parts")]
    assert states[0].step == states[1].step == NUM_STEPS
    assert states[0].numbers == states[1].numbers
    torch.testing.assert_close(states[1].weights, states[0].weights, rtol=0, atol=0)
    assert any((value != value.to(torch.bfloat16)).any() for value in states[0].weights.values())


@pytest.mark.slow
@pytest.mark.timeout(3000)
@pytest.mark.parametrize("num_ranks", [1, 2, 4])
def test_any_stage_continues_any_other_at_1_2_and_4_workers(
    tiny: Any, tmp_path: Path, local: Path, num_ranks: int
) -> None:
    savers = {stage: tmp_path / f"saved by {stage}" for stage in range(4)}
    launches = {stage: LaunchConfig(num_workers=2, zero_stage=stage) for stage in range(4)}  # type: ignore[arg-type]
    plans = [_prepare(tiny, out, launch=launches[stage]) for stage, out in savers.items()]
    tiny.train_ranks(*plans, num_ranks=2)
    plans = []
    for saver, reader in itertools.product(range(4), range(4)):
        out = tmp_path / f"{saver} to {reader}"
        shutil.copytree(savers[saver] / "checkpoints" / "step-000000002", out / "checkpoints" / "step-000000002")
        shutil.copy(savers[saver] / "metrics.jsonl", out)
        plans.append(_prepare(tiny, out, launch=replace(launches[reader], num_workers=num_ranks)))
    tiny.train_ranks(*plans, num_ranks=num_ranks)
    for plan in plans:
        out = Path(plan.run.out)
        losses = [[row["loss"] for row in read_metrics(folder / "metrics.jsonl")] for folder in (out, local)]
        assert losses[0] == pytest.approx(losses[1], rel=0, abs=1e-5)
        _assert_close(_last(out), _last(local))
