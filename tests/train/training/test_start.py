"""One batch with and without the memory before the first step: said, written down, and a scale found from it."""

import json
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from memvp_core import MemVPModel
from memvp_train.checkpoints.state import FolderCheckpoints, newest_first, read_state
from memvp_train.config import ConfigError, LaunchConfig, LoraSettings
from memvp_train.models.language import build_language_model
from memvp_train.training.batches import training_batches
from memvp_train.training.loop import TrainingError
from memvp_train.training.loss import micro_batch_loss
from memvp_train.training.metrics_log import read_metrics
from memvp_train.training.stage import run_stage
from memvp_train.training.start import HARMLESS, SCALE, WITH, WITHOUT, harm_sentence
from memvp_train.training.worker import train_here
from tests.train.plans import plan_of

HERE = LaunchConfig(num_workers=0)


def _loss_of_first_step(tiny: Any, run: Any, *, adapter: Path | None) -> float:
    """By hand: the language model alone, or a saved adapter on it, asked all questions of step 1."""
    plan = plan_of(run, HERE)
    model: Any = build_language_model(tiny.language)
    if adapter is not None:
        model = MemVPModel.from_pretrained(model, adapter)
    total = 0.0
    for batch in training_batches(plan, rank=0, world_size=1).at(0):
        if adapter is None:
            inputs = {"input_ids": batch.input_ids, "attention_mask": batch.attention_mask}
            logits = model.eval()(**inputs).logits[:, :-1]
            losses = torch.nn.functional.cross_entropy(logits.transpose(1, 2), batch.labels[:, 1:], reduction="sum")
            total += losses.item() / batch.num_global_labels
        else:
            total += micro_batch_loss(model.eval(), batch, device=torch.device("cpu"), dtype=torch.float32).item()
    return total


def test_first_row_says_the_loss_with_and_without_the_memory(tiny: Any, tmp_path: Path) -> None:
    run = tiny.run(tmp_path / "one")
    first = run_stage(run, HERE)
    rows = read_metrics(Path(first.metrics_path))
    assert rows[0][WITHOUT] == pytest.approx(_loss_of_first_step(tiny, run, adapter=None), rel=1e-5)
    assert all(WITH not in row and WITHOUT not in row for row in rows[1:])
    second = tiny.run(tmp_path / "two", lora=LoraSettings(rank=2))
    second = type(second)(**{**vars(second), "init_adapter": first.adapter_path})
    row = read_metrics(Path(run_stage(second, HERE).metrics_path))[0]
    assert HARMLESS not in row
    assert row[WITH] == pytest.approx(_loss_of_first_step(tiny, second, adapter=Path(first.adapter_path)), rel=1e-5)
    assert row[WITH] < row[WITHOUT]


def test_looking_changes_no_step(tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    looked = read_metrics(Path(run_stage(tiny.run(tmp_path / "looked"), HERE).metrics_path))
    monkeypatch.setattr("memvp_train.training.worker.look_before_training", lambda *args, **more: {})
    blind = read_metrics(Path(run_stage(tiny.run(tmp_path / "blind"), HERE).metrics_path))
    assert [(row["loss"], row["grad_norm"]) for row in looked] == [(row["loss"], row["grad_norm"]) for row in blind]


def test_a_harmful_memory_is_said_with_the_scale_that_is_not(tiny: Any, tmp_path: Path) -> None:
    run = tiny.run(tmp_path / "wild")
    wild = type(run)(**{**vars(run), "memvp": {**run.memvp, "visual_scale": 3.0, "retrieval_scale": 100.0}})
    with pytest.warns(UserWarning, match=r"before training the memory makes the loss of the first batch") as found:
        run_stage(wild, HERE)
    (said,) = [str(one.message) for one in found if "before training" in str(one.message)]
    scale = float(said.partition("retrieval_scale ")[2].rpartition("retrieval_scale ")[2].split()[0])
    assert "times as much; retrieval_scale 100, visual_scale 3): retrieval_scale" in said
    tame = type(run)(**{**vars(run), "out": str(tmp_path / "tame"), "memvp": {**wild.memvp, "retrieval_scale": scale}})
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        run_stage(tame, HERE)


def test_a_model_that_is_always_right_has_a_sentence_too() -> None:
    numbers = {WITH: 2.0, WITHOUT: 0.0, HARMLESS: 0.1}
    sentence = harm_sentence(numbers, {"retrieval_scale": 1.0, "visual_scale": 0.1})
    assert sentence is not None
    assert "first batch 2.000, and without it that is 0.000 (retrieval_scale 1, visual_scale 0.1): " in sentence


def test_a_memory_that_ruins_the_first_step_is_named_as_the_cause(tiny: Any, tmp_path: Path) -> None:
    run = tiny.run(tmp_path)
    run = type(run)(**{**vars(run), "memvp": {**run.memvp, "visual_scale": 1e30}})
    with pytest.raises(
        TrainingError, match=r"is (nan|inf) at step 1.*; the untrained memory made .*, or lower memvp.vis"
    ):
        run_stage(run, HERE)


def _finds(run: Any, out: Path, **memvp: Any) -> Any:
    return type(run)(**{**vars(run), "out": str(out), "memvp": {**run.memvp, "retrieval_scale": "auto", **memvp}})


def test_scale_is_found_and_stands_in_the_adapter(tiny: Any, tmp_path: Path) -> None:
    result = run_stage(_finds(tiny.run(tmp_path), tmp_path / "auto", visual_scale=3.0), HERE)
    row = read_metrics(Path(result.metrics_path))[0]
    assert row[WITH] <= 1.05 * row[WITHOUT]
    config = json.loads((Path(result.adapter_path) / "adapter_config.json").read_text())["memvp"]
    assert 0 < config["retrieval_scale"] == row[SCALE] < 1
    fixed = _finds(tiny.run(tmp_path), tmp_path / "fixed", visual_scale=3.0, retrieval_scale=row[SCALE])
    again = read_metrics(Path(run_stage(fixed, HERE).metrics_path))
    assert [row["loss"] for row in again] == [row["loss"] for row in read_metrics(Path(result.metrics_path))]
    second = _finds(tiny.run(tmp_path, lora=LoraSettings(rank=2)), tmp_path / "second", visual_scale=3.0)
    result = run_stage(type(second)(**{**vars(second), "init_adapter": result.adapter_path}), HERE)
    assert SCALE not in read_metrics(Path(result.metrics_path))[0]
    model = MemVPModel.from_pretrained(build_language_model(tiny.language), result.adapter_path)
    assert model.memvp_config.retrieval_scale == row[SCALE]


def test_a_memory_that_was_trained_is_not_blamed_for_its_scale(tiny: Any, tmp_path: Path) -> None:
    """It may answer other questions than it has learnt worse than the model alone; another scale is no remedy."""
    first = run_stage(tiny.run(tmp_path / "one", num_steps=1), HERE)
    weights = Path(first.adapter_path) / "adapter_model.safetensors"
    tensors = load_file(weights)
    save_file({**tensors, "prompt.value_positions": 9 * torch.randn_like(tensors["prompt.value_positions"])}, weights)
    second = tiny.run(tmp_path / "two", lora=LoraSettings(rank=2))
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        result = run_stage(type(second)(**{**vars(second), "init_adapter": first.adapter_path}), HERE)
    row = read_metrics(Path(result.metrics_path))[0]
    assert row[WITH] > 1.05 * row[WITHOUT]
    assert HARMLESS not in row


class _StopError(Exception):
    pass


def test_scale_that_was_found_survives_a_stop(tiny: Any, tmp_path: Path) -> None:
    whole = run_stage(_finds(tiny.run(tmp_path), tmp_path / "whole", visual_scale=3.0), HERE)
    run = _finds(tiny.run(tmp_path), tmp_path / "stopped", visual_scale=3.0)
    checkpoints = FolderCheckpoints(tmp_path / "stopped" / "checkpoints")

    def stop(done: int) -> None:
        if done == 4:
            raise _StopError

    with pytest.raises(_StopError):
        train_here(plan_of(run, HERE), checkpoints=checkpoints, after_step=stop)
    assert SCALE in read_state(newest_first(tmp_path / "stopped" / "checkpoints")[0]).numbers
    found = run_stage(run, HERE)
    losses = [[row["loss"] for row in read_metrics(Path(one.metrics_path))] for one in (whole, found)]
    assert losses[0] == losses[1]
    configs = [(Path(one.adapter_path) / "adapter_config.json").read_text() for one in (whole, found)]
    assert configs[0] == configs[1]


def test_features_that_no_scale_makes_harmless_are_refused(tiny: Any, tmp_path: Path) -> None:
    run = _finds(tiny.run(tmp_path), tmp_path / "out", visual_scale=1e30)
    with pytest.raises(ConfigError, match=r'memvp.retrieval_scale "auto" found none: a memory at retrieval_scale'):
        run_stage(run, HERE)


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_ranks_find_the_scale_of_one_process(tiny: Any, tmp_path: Path, zero_stage: int) -> None:
    settings = {"visual_scale": 3.0, "memory_dropout": 0.0}
    one = run_stage(_finds(tiny.run(tmp_path, micro_batch_size=4), tmp_path / "one", **settings), HERE)
    run = _finds(tiny.run(tmp_path, micro_batch_size=4), tmp_path / "two", **settings)
    tiny.train_ranks(plan_of(run, LaunchConfig(num_workers=2, zero_stage=zero_stage)), num_ranks=2)
    rows = [read_metrics(path / "metrics.jsonl")[0] for path in (tmp_path / "one", tmp_path / "two")]
    assert Path(one.metrics_path) == tmp_path / "one" / "metrics.jsonl"
    assert rows[1][SCALE] == rows[0][SCALE]
    for name in (WITH, WITHOUT, "loss"):
        assert rows[1][name] == pytest.approx(rows[0][name], rel=1e-5)
