"""A checkpoint is read as it was written or not at all; the one before it takes its place."""

from pathlib import Path

import pytest
import torch

from memvp_train.checkpoint import (
    STATE_FILE,
    CheckpointError,
    FolderCheckpoints,
    TrainingState,
    load_newest,
    read_state,
    write_state,
)

SETTINGS = {"stage": {"seed": 0, "betas": [0.9, 0.99]}, "samples": "abc"}
FILES = ("weights.safetensors", "exp_avg.safetensors", "exp_avg_sq.safetensors", STATE_FILE)


def _state(step: int) -> TrainingState:
    generator = torch.Generator().manual_seed(step)
    tensors = [
        {"a": torch.randn(3, 2, generator=generator), "b.c": torch.randn(4, generator=generator)} for _ in range(3)
    ]
    return TrainingState(step, *tensors, settings=SETTINGS)


def _assert_same(one: TrainingState, two: TrainingState) -> None:
    assert (one.step, one.settings) == (two.step, two.settings)
    for kind in ("weights", "exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(getattr(one, kind), getattr(two, kind), rtol=0, atol=0)


def test_state_comes_back_bit_for_bit(tmp_path: Path) -> None:
    write_state(_state(7), tmp_path / "step-7")
    _assert_same(read_state(tmp_path / "step-7"), _state(7))


def _cut(path: Path) -> None:
    path.write_bytes(path.read_bytes()[:-5])


def _flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


@pytest.mark.faults
@pytest.mark.parametrize("name", FILES)
@pytest.mark.parametrize("damage", [_cut, _flip, Path.unlink], ids=["cut", "flipped bit", "missing"])
def test_damaged_checkpoint_gives_way_to_the_one_before(tmp_path: Path, name: str, damage: object) -> None:
    store = FolderCheckpoints(tmp_path)
    store.commit(_state(1))
    store.commit(_state(2))
    damage(tmp_path / "step-000000002" / name)  # type: ignore[operator]
    reasons: list[str] = []
    found = load_newest(store.candidates(), settings=SETTINGS, on_damage=reasons.append)
    assert found is not None
    _assert_same(found, _state(1))
    assert len(reasons) == 1
    assert "step-000000002" in reasons[0]


def test_nothing_sound_is_none(tmp_path: Path) -> None:
    assert load_newest(FolderCheckpoints(tmp_path).candidates(), settings=SETTINGS) is None


def test_newest_two_are_kept(tmp_path: Path) -> None:
    store = FolderCheckpoints(tmp_path)
    for step in (8, 9, 10, 11):
        store.commit(_state(step))
    assert [path.name for path in store.candidates()] == ["step-000000011", "step-000000010"]


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    store = FolderCheckpoints(tmp_path)
    store.commit(_state(1))
    with pytest.raises(CheckpointError, match=r"stage\.seed 0 -> 1"):
        load_newest(store.candidates(), settings={**SETTINGS, "stage": {"seed": 1, "betas": (0.9, 0.99)}})


def test_state_of_another_model_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"missing \['d'\], unknown \['b.c'\]"):
        _state(1).check_names(["a", "d"])
