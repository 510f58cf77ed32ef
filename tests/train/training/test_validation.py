"""Evaluation during training: scores against slow ones, the best step, the same end however often it is killed."""

import shutil
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memvp_core import MemVPModel
from memvp_data.dataloader.rows import ListedRows
from memvp_data.samples import Sample, Turn, write_samples
from memvp_data.text import Encoded
from memvp_train.checkpoints.state import DamageError, FolderCheckpoints, read_state
from memvp_train.config import ConfigError, LaunchConfig, LoraSettings, StageConfig, StageRun, ValidationConfig
from memvp_train.engines.local import LocalEngine
from memvp_train.models.language import build_language_model
from memvp_train.training.batches import validation_batches
from memvp_train.training.metrics_log import read_metrics
from memvp_train.training.stage import run_stage
from memvp_train.training.validation import evaluate
from memvp_train.training.validation_batches import ValidationBatches
from memvp_train.training.worker import train_here
from tests.train.conftest import COLOURS, image_names
from tests.train.plans import plan_of

HERE = LaunchConfig(num_workers=0)
NUM_STEPS = 12


def _samples(*, are_learnt: bool, count: int = 11) -> list[Sample]:
    """One question about each image, answered as in training or with words that are never an answer there."""
    answers = COLOURS if are_learnt else ("what it is",) * 8
    return [
        Sample(
            f"held-out-{number:02d}",
            () if number % 4 == 3 else (name,),
            (Turn("user", "what colour ?"), Turn("assistant", answers[number % 8])),
            task="colour",
            answers=(answers[number % 8],),
        )
        for number, name in enumerate(image_names()[:count])
    ]


def _validated(tiny: Any, out: Path, *, are_learnt: bool = False, **validation: Any) -> StageRun:
    """A run whose validation gets worse the more it learns, unless `are_learnt`."""
    table = out.with_name(f"{out.name}-held-out.parquet")
    write_samples(table, _samples(are_learnt=are_learnt))
    config = ValidationConfig(**{"every": 2, **validation})
    run = tiny.run(out, lora=LoraSettings(rank=2, dropout=0.1), num_steps=NUM_STEPS, validation=config)
    return replace(run, validation=str(table))


def _engine(run: StageRun, *, adapter: str) -> LocalEngine:
    model = MemVPModel.from_pretrained(build_language_model(run.language, dtype=torch.float32), adapter)
    return LocalEngine(model, trainable=model.trainable_state(), stage=run.stage)


def test_scores_equal_greedy_decoding_and_one_sample_at_a_time(tiny: Any, tmp_path: Path) -> None:
    run = _validated(tiny, tmp_path / "out", are_learnt=True)
    run = replace(run, stage=replace(run.stage, num_steps=30))
    engine = _engine(run, adapter=run_stage(run, HERE).adapter_path)
    prepared = plan_of(run, HERE)
    batches = validation_batches(prepared, rank=0, world_size=1)
    right, losses = [], []
    for batch, _ in batches:
        for row in range(len(batch.sample_ids)):
            ids, labels = batch.input_ids[row : row + 1], batch.labels[row]
            places = (labels != -100).nonzero()[:, 0]
            start, count = int(places[0]), len(places)
            images = {"visual_features": batch.visual_features, "image_index": batch.image_index[row : row + 1]}
            engine.model.eval()
            with torch.no_grad():
                logits = engine.model(input_ids=ids, **images).logits[0]
            losses += [-torch.log_softmax(logits[place - 1], dim=-1)[labels[place]] for place in places]
            said = engine.model.generate(input_ids=ids[:, :start], **images, max_new_tokens=count, do_sample=False)
            right.append(said[0, start:].tolist() == labels[places].tolist())
    # Some must be right and some wrong, or nothing of this was tested.
    assert 0 < sum(right) < len(right) == 11
    scores = evaluate(engine, batches)
    assert scores.accuracy == pytest.approx(sum(right) / len(right))
    assert scores.loss == pytest.approx(float(torch.stack(losses).mean()), rel=1e-5)
    assert engine.model.training


@settings(max_examples=30)
@given(st.integers(1, 23), st.integers(1, 5), st.integers(1, 4))
def test_every_sample_counts_once_and_ranks_make_equally_many_passes(
    count: int, batch_size: int, world_size: int
) -> None:
    rows = ListedRows([Encoded(str(place), [1] * (1 + place % 3), [1] * (1 + place % 3), ()) for place in range(count)])
    counted: list[str] = []
    shapes = set()
    for rank in range(world_size):
        shape = {"feature_shape": (1, 2), "batch_size": batch_size, "rank": rank, "world_size": world_size}
        share = ValidationBatches(rows, None, pad_token_id=0, **shape)
        batches = list(share)
        assert len(batches) == len(share)
        shapes.add(tuple(len(batch.sample_ids) for batch, _ in batches))
        for batch, counts in batches:
            counted += [name for name, is_counted in zip(batch.sample_ids, counts, strict=True) if is_counted]
    assert sorted(counted) == sorted(map(str, range(count)))
    assert len(shapes) == 1


class _Stop(Exception):
    """Stands for a kill."""


def _train(run: StageRun, *, stop_at: int | None = None) -> None:
    def after_step(done: int) -> None:
        if done == stop_at:
            raise _Stop

    checkpoints = FolderCheckpoints(Path(run.out) / "checkpoints")
    train_here(plan_of(run, HERE), checkpoints=checkpoints, after_step=after_step)


def _curve(rows: Iterable[dict[str, float]]) -> list[tuple[float, ...]]:
    return [
        tuple(row.get(name, -1) for name in ("step", "loss", "validation_loss", "validation_accuracy")) for row in rows
    ]


@pytest.fixture(scope="module")
def whole(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "out"
    _train(_validated(tiny, out, patience=2))
    return out


def _best(out: Path) -> int:
    rows = [row for row in read_metrics(out / "metrics.jsonl") if "validation_loss" in row]
    return int(min(rows, key=lambda row: row["validation_loss"])["step"])


def test_training_ends_when_patience_does_with_a_row_for_every_evaluation(whole: Path) -> None:
    rows = read_metrics(whole / "metrics.jsonl")
    assert [row["step"] for row in rows if "validation_loss" in row] == list(range(2, len(rows) + 1, 2))
    assert len(rows) == _best(whole) + 4 < NUM_STEPS
    state = read_state(FolderCheckpoints(whole / "checkpoints").candidates()[0])
    assert state.step == len(rows)
    assert state.numbers["best_step"] == _best(whole)


@pytest.mark.parametrize("stops", [(1,), (2,), (3,), (4,), (5,), (1, 4, 5)], ids=str)
def test_killed_run_ends_at_the_same_step_with_the_same_best(
    tiny: Any, tmp_path: Path, whole: Path, stops: tuple[int, ...]
) -> None:
    run = _validated(tiny, tmp_path / "out", patience=2)
    for stop in stops:
        with pytest.raises(_Stop):
            _train(run, stop_at=stop)
    _train(run)
    out = tmp_path / "out"
    assert _curve(read_metrics(out / "metrics.jsonl")) == _curve(read_metrics(whole / "metrics.jsonl"))
    for kind in ("checkpoints", "best"):
        states = [read_state(FolderCheckpoints(folder / kind).candidates()[0]) for folder in (out, whole)]
        assert states[0].step == states[1].step
        assert states[0].numbers == states[1].numbers
        torch.testing.assert_close(states[0].weights, states[1].weights, rtol=0, atol=0)


def test_adapter_is_that_of_the_best_step(tiny: Any, tmp_path: Path) -> None:
    result = run_stage(_validated(tiny, tmp_path / "best", patience=2), HERE)
    last = run_stage(_validated(tiny, tmp_path / "last", patience=2, keep_best=False), HERE)
    assert (result.adapter_step, result.num_steps) == (_best(tmp_path / "best"), last.adapter_step)
    assert result.adapter_step < last.adapter_step
    kept = read_state(tmp_path / "best" / "best" / f"step-{result.adapter_step:09d}")
    model = MemVPModel.from_pretrained(build_language_model(tiny.language), result.adapter_path)
    found = {name: value for name, value in model.named_parameters() if name in kept.weights}
    torch.testing.assert_close(found, kept.weights, rtol=0, atol=0)
    # Called again it is handed back, and neither trained nor stopped a second time.
    assert run_stage(_validated(tiny, tmp_path / "best", patience=2), HERE) == result


def test_accuracy_can_decide_too(tiny: Any, tmp_path: Path) -> None:
    result = run_stage(_validated(tiny, tmp_path / "out", are_learnt=True, metric="accuracy", every=1), HERE)
    rows = read_metrics(tmp_path / "out" / "metrics.jsonl")
    assert len(rows) == NUM_STEPS
    first_best = max(rows, key=lambda row: row["validation_accuracy"])
    assert result.adapter_step == first_best["step"]


def test_damaged_best_state_is_refused_with_a_way_out(tiny: Any, tmp_path: Path) -> None:
    run = _validated(tiny, tmp_path / "out", patience=2)
    result = run_stage(run, HERE)
    shutil.rmtree(tmp_path / "out" / "adapter")
    next((tmp_path / "out" / "best").glob(f"*{result.adapter_step}/weights.safetensors")).unlink()
    with pytest.raises(
        DamageError, match=r"weights.safetensors is missing .*take the last state with .*keep_best false"
    ):
        run_stage(run, HERE)
    last = run_stage(replace(run, stage=replace(run.stage, validation=ValidationConfig(2, "loss", 2, False))), HERE)
    assert last.adapter_step == result.num_steps


def test_table_without_settings_and_settings_without_table_are_refused(tiny: Any, tmp_path: Path) -> None:
    run = _validated(tiny, tmp_path / "out")
    for wrong in (replace(run, validation=None), replace(run, stage=StageConfig(num_steps=1))):
        with pytest.raises(ConfigError, match="given together or not at all"):
            run_stage(wrong, HERE)
