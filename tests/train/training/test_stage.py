"""A stage from settings to an adapter that loads; what cannot work is refused before it starts."""

import json
import os
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memvp_core import MemVPConfig, MemVPModel
from memvp_data.samples import Sample, SampleError, Turn, read_samples, write_samples
from memvp_train.checkpoints.lease import LeaseError
from memvp_train.checkpoints.quarantine import quarantined
from memvp_train.checkpoints.state import CheckpointError, newest_first, read_state
from memvp_train.config import (
    ConfigError,
    GroupSettings,
    LanguageModelConfig,
    LaunchConfig,
    LoraSettings,
    ParameterGroups,
)
from memvp_train.models.language import ModelError, build_language_model
from memvp_train.training.metrics_log import read_metrics
from memvp_train.training.plan import WorkerPlan
from memvp_train.training.result import RESULT_FILE, StageResult
from memvp_train.training.stage import run_stage
from tests.train.plans import plan_of

HERE = LaunchConfig(num_workers=0)


def plan_config(plan: WorkerPlan) -> MemVPConfig:
    return MemVPConfig.from_dict(plan.run.memvp)


def _adapter(tiny: Any, path: str) -> MemVPModel:
    return MemVPModel.from_pretrained(build_language_model(tiny.language), path)


@pytest.fixture(scope="module")
def stage1(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> StageResult:
    return run_stage(tiny.run(tmp_path_factory.mktemp("stage1") / "out"), HERE)


def test_adapter_holds_the_weights_of_the_last_checkpoint(tiny: Any, tmp_path: Path) -> None:
    run = tiny.run(tmp_path, lora=LoraSettings(rank=2))
    result = run_stage(run, HERE)
    state = read_state(tmp_path / "checkpoints" / "step-000000006")
    model = _adapter(tiny, result.adapter_path)
    found = {name: value for name, value in model.named_parameters() if name in state.weights}
    torch.testing.assert_close(found, state.weights, rtol=0, atol=0)
    assert result.trainable_parameters == sum(value.numel() for value in found.values())
    assert result.num_samples == 24


def test_adapter_knows_its_language_model_by_weights_and_by_the_name_given(
    tiny: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tiny.folder)
    run = tiny.run(tmp_path, lora=LoraSettings(rank=2))
    run = replace(run, language=replace(run.language, path="language"))
    path = Path(run_stage(run, HERE).adapter_path)
    saved, lora = (
        json.loads((path / name).read_text()) for name in ("adapter_config.json", "lora/adapter_config.json")
    )
    assert saved["base_model_name_or_path"] == lora["base_model_name_or_path"] == "language"
    assert saved["base_model"] == _adapter(tiny, str(path)).base_description()
    stranger = build_language_model(replace(tiny.language, random_init=True, seed=5))
    with pytest.warns(
        UserWarning, match=r"trained on other weights than this language model's .*it was trained on \(lan"
    ):
        MemVPModel.from_pretrained(stranger, path)


@pytest.mark.parametrize("zero_stage", [0, 3])
def test_ranks_note_the_language_model_once_whole(tiny: Any, tmp_path: Path, zero_stage: int) -> None:
    plan = plan_of(tiny.run(tmp_path, num_steps=1), LaunchConfig(num_workers=2, zero_stage=zero_stage))
    tiny.train_ranks(plan, num_ranks=2)
    noted = json.loads((tmp_path / "base_model.json").read_text())
    assert noted["weights"] is not None
    assert noted == MemVPModel(build_language_model(tiny.language), plan_config(plan)).base_description()


def test_steps_are_handed_on_once_and_in_order(tiny: Any, tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    result = run_stage(tiny.run(tmp_path), HERE, on_step=rows.append)
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5, 6]
    assert rows[-1]["loss"] == result.final_loss
    assert set(rows[0]) - set(rows[1]) == {"loss_with_memory", "loss_without_memory"}
    assert set(rows[1]) == {
        "step",
        "loss",
        "learning_rate",
        "grad_norm",
        "tokens_per_second",
        "seconds",
        "memory_bytes",
    }
    assert all(row["memory_bytes"] > 1 << 20 for row in rows)


def test_a_lost_curve_costs_neither_the_adapter_nor_the_stage(tiny: Any, tmp_path: Path) -> None:
    first = run_stage(tiny.run(tmp_path), HERE)
    (tmp_path / "metrics.jsonl").unlink()
    assert run_stage(tiny.run(tmp_path), HERE) == first
    (tmp_path / "result.json").unlink()
    assert run_stage(tiny.run(tmp_path), HERE) == replace(first, final_loss=None)


def test_training_lowers_the_loss(tiny: Any, tmp_path: Path) -> None:
    rows: list[dict[str, float]] = []
    run_stage(
        tiny.run(tmp_path, num_steps=60, lora=LoraSettings(rank=4), learning_rate=0.01), HERE, on_step=rows.append
    )
    assert rows[-1]["loss"] < 0.5 * rows[0]["loss"]


def test_stage_2_starts_from_the_weights_of_stage_1(tiny: Any, tmp_path: Path, stage1: StageResult) -> None:
    lora = ParameterGroups(lora=GroupSettings(learning_rate=0.02))
    frozen = {"lora": LoraSettings(rank=2), "learning_rate": 1e-30, "groups": lora}
    run = replace(tiny.run(tmp_path, **frozen), init_adapter=stage1.adapter_path)
    result = run_stage(run, HERE)
    before, after = (_adapter(tiny, path).state_dict() for path in (stage1.adapter_path, result.adapter_path))
    for name, value in before.items():
        if name.startswith("prompt."):
            torch.testing.assert_close(after[name], value, rtol=0, atol=0)
    assert any("lora_B" in name and value.any() for name, value in after.items())


def test_finished_stage_is_handed_back(tiny: Any, tmp_path: Path) -> None:
    run = tiny.run(tmp_path)
    first = run_stage(run, HERE)
    before = (tmp_path / RESULT_FILE).stat().st_mtime_ns
    assert run_stage(run, HERE) == first
    assert (tmp_path / RESULT_FILE).stat().st_mtime_ns == before


@pytest.mark.faults
def test_damaged_adapter_is_written_again_without_training(tiny: Any, tmp_path: Path) -> None:
    run = tiny.run(tmp_path)
    first = run_stage(run, HERE)
    weights = Path(first.adapter_path) / "adapter_model.safetensors"
    whole = weights.read_bytes()
    weights.write_bytes(whole[:-3])
    metrics = (tmp_path / "metrics.jsonl").stat().st_mtime_ns
    assert run_stage(run, HERE) == first
    assert weights.read_bytes() == whole
    assert (tmp_path / "metrics.jsonl").stat().st_mtime_ns == metrics


def test_blind_control_trains_on_the_same_text_without_images(tiny: Any, tmp_path: Path) -> None:
    seen = run_stage(tiny.run(tmp_path / "seen"), HERE)
    blind = run_stage(replace(tiny.run(tmp_path / "blind"), features=None), HERE)
    assert blind.num_samples == seen.num_samples
    assert blind.final_loss != seen.final_loss


@pytest.mark.faults
@pytest.mark.parametrize(
    ("change", "difference"),
    [
        ({"learning_rate": 0.01}, r"stage\.learning_rate 0\.02 -> 0\.01"),
        ({"seed": 1}, r"stage\.seed 0 -> 1"),
        ({"global_batch_size": 4}, r"stage\.global_batch_size 8 -> 4"),
        ({"lora": LoraSettings(rank=2)}, r"stage\.lora"),
        ({"samples": "other"}, r"samples '\w+' -> '\w+'"),
        ({"features": None}, r"features '\w+' -> None"),
        ({"memvp": {"num_slots": 6}}, r"memvp\.num_slots 4 -> 6"),
        ({"init_adapter": "adapter"}, r"init_adapter None -> '\w+'"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_other_settings_in_the_same_folder_are_refused(
    tiny: Any, tmp_path: Path, change: dict[str, Any], difference: str
) -> None:
    first = run_stage(tiny.run(tmp_path / "out"), HERE)
    run = _changed(tiny, tmp_path, change, adapter=first.adapter_path)
    with pytest.raises(CheckpointError, match=f"other settings .*{difference}"):
        run_stage(run, HERE)


def _changed(tiny: Any, folder: Path, change: dict[str, Any], *, adapter: str) -> Any:
    """The same stage with one thing changed."""
    ((name, value),) = change.items()
    run = tiny.run(folder / "out")
    if name == "samples":
        return _with_samples(tiny, run, folder, *list(read_samples(tiny.samples))[1:])
    if name == "memvp":
        return replace(run, memvp={**run.memvp, **value})
    if name == "init_adapter":
        copy = shutil.copytree(adapter, folder / "adapter")
        return replace(run, init_adapter=str(copy))
    return replace(run, features=None) if name == "features" else tiny.run(folder / "out", **change)


def test_second_driver_in_the_same_folder_is_refused(tiny: Any, tmp_path: Path) -> None:
    refusals: list[str] = []

    def start_another(row: dict[str, float]) -> None:
        with pytest.raises(LeaseError) as caught:
            run_stage(tiny.run(tmp_path), HERE)
        refusals.append(str(caught.value))

    run_stage(tiny.run(tmp_path), HERE, on_step=start_another)
    assert len(refusals) == 6
    assert f"another job is training in {tmp_path} (pid {os.getpid()} on " in refusals[0]


@pytest.mark.faults
def test_damaged_checkpoint_is_reported_in_the_result(tiny: Any, tmp_path: Path) -> None:
    first = run_stage(tiny.run(tmp_path), HERE)
    (tmp_path / RESULT_FILE).unlink()
    newest = newest_first(tmp_path / "checkpoints")[0]
    (newest / "exp_avg.safetensors").write_bytes(b"")
    again = run_stage(tiny.run(tmp_path), HERE)
    assert again == replace(first, num_quarantined=1)
    (entry,) = quarantined(tmp_path / "checkpoints")
    assert entry["checkpoint"] == newest.name == "step-000000006"
    assert "exp_avg.safetensors is missing or damaged" in entry["reason"]
    assert [row["step"] for row in read_metrics(tmp_path / "metrics.jsonl")] == [1, 2, 3, 4, 5, 6]


def _with_samples(tiny: Any, run: Any, folder: Path, *samples: Sample) -> Any:
    write_samples(folder / "own.parquet", samples)
    return replace(run, samples=str(folder / "own.parquet"))


def _refusals() -> dict[str, tuple[Any, type[Exception], str]]:
    question = (Turn("user", "what colour ?"), Turn("assistant", "red"))
    silent = (Turn("user", "what colour ?"),)
    return {
        "no samples table": (
            lambda t, r, f: replace(r, samples="/nowhere.parquet"),
            SampleError,
            "/nowhere.parquet does not",
        ),
        "no features": (lambda t, r, f: replace(r, features=str(f)), ValueError, "manifest.json"),
        "features too wide": (
            lambda t, r, f: replace(r, memvp={**r.memvp, "vision_hidden_size": 9}),
            ModelError,
            "are 8 wide, memvp.vision_hidden_size is 9; set it to 8",
        ),
        "too few slots": (
            lambda t, r, f: replace(r, memvp={**r.memvp, "num_slots": 2}),
            ModelError,
            "3 rows per image, memvp.num_slots is 2; set it to 3",
        ),
        "unknown memory setting": (
            lambda t, r, f: replace(r, memvp={**r.memvp, "num_slot": 2}),
            ValueError,
            "has no setting num_slot",
        ),
        "image without features": (
            lambda t, r, f: _with_samples(t, r, f, Sample("a", ("elsewhere",), question)),
            ModelError,
            r"1 images of .* have no features in .* \('elsewhere'\)",
        ),
        "sample without an answer": (
            lambda t, r, f: _with_samples(t, r, f, Sample("silent", (), silent)),
            ValueError,
            "'silent' has no answer",
        ),
        "no adapter": (lambda t, r, f: replace(r, init_adapter=str(f)), ModelError, "has no adapter_config.json"),
        "no language model": (
            lambda t, r, f: replace(r, language=LanguageModelConfig(str(f))),
            ModelError,
            "cannot be loaded",
        ),
        "no such template": (
            lambda t, r, f: replace(r, stage=replace(r.stage, template="chat")),
            ValueError,
            "unknown template 'chat'",
        ),
        "group that has nothing to train": (
            lambda t, r, f: replace(r, stage=replace(r.stage, groups=ParameterGroups(norms=GroupSettings(1e-3)))),
            ConfigError,
            "groups.norms is set but nothing of that kind trains",
        ),
        "no such LoRA layer": (
            lambda t, r, f: replace(r, stage=replace(r.stage, lora=LoraSettings(target_modules=("nothing",)))),
            ValueError,
            "nothing",
        ),
    }


@pytest.mark.parametrize("name", _refusals())
def test_what_cannot_work_is_refused_in_a_sentence(tiny: Any, tmp_path: Path, name: str) -> None:
    change, error, sentence = _refusals()[name]
    run = change(tiny, tiny.run(tmp_path / "out"), tmp_path)
    with pytest.raises(error, match=sentence) as caught:
        run_stage(run, HERE)
    assert isinstance(caught.value, ValueError)
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_batch_that_does_not_divide_is_refused(tiny: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="global_batch_size 8 must be a multiple of the 3 workers"):
        run_stage(tiny.run(tmp_path), LaunchConfig(num_workers=3))


def test_model_of_other_weights_is_not_the_same_stage(tiny: Any, tmp_path: Path) -> None:
    shutil.copytree(tiny.language.path, tmp_path / "language")
    run = replace(tiny.run(tmp_path / "out"), language=LanguageModelConfig(str(tmp_path / "language")))
    run_stage(run, HERE)
    path = tmp_path / "language" / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "rms_norm_eps": 1e-5}))
    with pytest.raises(CheckpointError, match=r"language\.path"):
        run_stage(run, HERE)
