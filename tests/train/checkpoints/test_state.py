"""A checkpoint is read as it was written or not at all; the one before it takes its place."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from memvp_train.checkpoints.lease import LeaseError, hold_lease
from memvp_train.checkpoints.quarantine import put_damaged_aside, quarantined
from memvp_train.checkpoints.state import (
    SCHEMA_VERSION,
    STATE_FILE,
    CheckpointError,
    FolderCheckpoints,
    TrainingState,
    load_newest,
    newest_first,
    read_state,
    verify,
    write_state,
)

FIXTURES = Path(__file__).parents[1] / "fixtures"
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
def test_damaged_checkpoint_is_put_aside_for_the_one_before(tmp_path: Path, name: str, damage: object) -> None:
    store = FolderCheckpoints(tmp_path)
    for step in (0, 1, 2):
        store.commit(_state(step))
    damage(tmp_path / "step-000000002" / name)  # type: ignore[operator]
    reasons: list[str] = []
    found = load_newest(store.candidates(), settings=SETTINGS, on_damage=reasons.append)
    assert found is not None
    _assert_same(found, _state(1))
    assert len(reasons) == 1
    assert "step-000000002" in reasons[0]
    assert put_damaged_aside(tmp_path) == reasons
    assert [path.name for path in store.candidates()] == ["step-000000001", "step-000000000"]
    assert (tmp_path / "damaged-0001-step-000000002").is_dir()
    (entry,) = quarantined(tmp_path)
    assert (entry["checkpoint"], entry["reason"]) == ("step-000000002", reasons[0])
    for step in (2, 3, 4):
        store.commit(_state(step))
    assert len(store.candidates()) == 3
    assert put_damaged_aside(tmp_path) == []


def test_nothing_sound_is_none(tmp_path: Path) -> None:
    assert load_newest(FolderCheckpoints(tmp_path).candidates(), settings=SETTINGS) is None


def test_newest_three_are_kept(tmp_path: Path) -> None:
    store = FolderCheckpoints(tmp_path)
    (tmp_path / ".tmp-step-000000009").mkdir()  # of a writer that was killed
    for step in (8, 9, 10, 11):
        store.commit(_state(step))
    assert [path.name for path in store.candidates()] == ["step-000000011", "step-000000010", "step-000000009"]
    assert len(list(tmp_path.iterdir())) == 3


def test_checkpoint_of_every_schema_so_far_is_read() -> None:
    """Written once by the version that had that schema, and never again."""
    for version in range(1, SCHEMA_VERSION + 1):
        state = read_state(FIXTURES / f"checkpoint-schema-{version}")
        assert state.step == 40
        assert state.settings["stage"]["seed"] == 3
        torch.testing.assert_close(state.weights["prompt.keys"], torch.arange(6.0).reshape(2, 3) / 8, rtol=0, atol=0)
        torch.testing.assert_close(state.exp_avg_sq["lora_A"], torch.arange(20.0, 24.0) / 16, rtol=0, atol=0)


def test_later_schema_is_refused_and_not_taken_for_damage(tmp_path: Path) -> None:
    shutil.copytree(FIXTURES / "checkpoint-schema-1", tmp_path / "step-000000040")
    path = tmp_path / "step-000000040" / STATE_FILE
    body = {**json.loads(path.read_text()), "schema_version": SCHEMA_VERSION + 1}
    del body["digest"]
    digest = hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()
    path.write_text(json.dumps({**body, "digest": digest}))
    with pytest.raises(CheckpointError, match=f"has schema {SCHEMA_VERSION + 1}, this version reads {SCHEMA_VERSION}"):
        load_newest(newest_first(tmp_path), settings=SETTINGS)
    with pytest.raises(CheckpointError, match="continue it with the version of memvp-train that wrote it"):
        put_damaged_aside(tmp_path)
    assert path.is_file()


def test_checkpoint_names_the_launch_that_wrote_it_and_a_replaced_one_writes_none(tmp_path: Path) -> None:
    with hold_lease(tmp_path, doing="training in", expires_seconds=600) as old:
        store = FolderCheckpoints(tmp_path, lease=old)
        store.commit(_state(1))
        successor = tmp_path / f".lease-{old.number + 1:06d}.json"
        successor.write_text('{"pid": 7, "host": "elsewhere", "since": "today"}')
        with pytest.raises(LeaseError, match=r"taken over by another job \(pid 7 on elsewhere since today\)"):
            store.commit(_state(2))
    assert [path.name for path in newest_first(tmp_path)] == ["step-000000001"]
    assert verify(tmp_path / "step-000000001")["fence"] == old.number


def test_other_settings_are_refused_by_name(tmp_path: Path) -> None:
    store = FolderCheckpoints(tmp_path)
    store.commit(_state(1))
    with pytest.raises(CheckpointError, match=r"stage\.seed 0 -> 1"):
        load_newest(store.candidates(), settings={**SETTINGS, "stage": {"seed": 1, "betas": (0.9, 0.99)}})


def test_state_of_another_model_is_refused() -> None:
    with pytest.raises(CheckpointError, match=r"missing \['d'\], unknown \['b.c'\]"):
        _state(1).check_names(["a", "d"])
