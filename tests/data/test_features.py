"""Features come back as stored, in the order asked for; a wrong shape or a missing image is named."""

from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from memvp_data import features as features_module
from memvp_data.features import FeatureStore, feature_record, parse_features
from memvp_data.shards import ShardError, write_shards


def tensors(count: int, *, dtype: torch.dtype = torch.float16) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f"image{number:03d}": torch.randn(5, 3, generator=generator).to(dtype) for number in range(count)}


def store_of(folder: Path, content: dict[str, torch.Tensor]) -> FeatureStore:
    records = ((name, {"safetensors": feature_record(value)}) for name, value in sorted(content.items()))
    write_shards(folder, records, kind="features", max_shard_samples=4, meta={"encoder": "x"})
    return FeatureStore(folder)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_a_record_gives_back_its_bits(dtype: torch.dtype) -> None:
    value = torch.randn(4, 3).to(dtype)
    parsed = parse_features(feature_record(value.T.contiguous().T))
    assert parsed.dtype == dtype
    assert torch.equal(parsed, value)


@pytest.mark.parametrize("cached_bytes", [1 << 30, 0], ids=["in memory", "from disk"])
def test_load_gives_the_rows_asked_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cached_bytes: int) -> None:
    monkeypatch.setattr(features_module, "_CACHED_BYTES", cached_bytes)
    content = tensors(10)
    store = store_of(tmp_path, content)
    assert store.feature_shape == (5, 3)
    assert store.meta == {"encoder": "x"}
    assert len(store) == 10
    assert "image003" in store
    assert "image999" not in store
    names = ["image007", "image000", "image007"]
    loaded = store.load(names)
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded, torch.stack([content[name].float() for name in names]))
    assert torch.equal(store.load(names, dtype=torch.float16), torch.stack([content[name] for name in names]))
    assert store.load([]).shape == (0, 5, 3)
    with pytest.raises(ShardError, match=r"no features of image 'image999'"):
        store.load(["image001", "image999"])


def test_a_small_store_is_read_once(tmp_path: Path) -> None:
    store = store_of(tmp_path, tensors(6))
    before = store.load(["image002"])
    for path in tmp_path.glob("*.tar"):
        path.unlink()
    assert torch.equal(store.load(["image002"]), before)


def test_what_a_caller_changes_stays_with_the_caller(tmp_path: Path) -> None:
    store = store_of(tmp_path, tensors(2, dtype=torch.float32))
    store.load(["image001"]).zero_()
    assert torch.equal(store.load(["image001"])[0], tensors(2, dtype=torch.float32)["image001"])


@pytest.mark.parametrize("odd", [torch.zeros(4, 3).half(), torch.zeros(5, 4).half(), torch.zeros(5, 3)])
def test_a_record_of_another_shape_or_dtype_is_named(tmp_path: Path, odd: torch.Tensor) -> None:
    store = store_of(tmp_path, {**tensors(6), "image004": odd})
    with pytest.raises(ShardError, match=r"features-00001\.tar, key 'image004': features are .* all others .*\(5, 3\)"):
        store.load(["image004"])


def test_a_damaged_record_is_named(tmp_path: Path) -> None:
    store_of(tmp_path, tensors(6))
    shard = tmp_path / "features-00001.tar"
    data = bytearray(shard.read_bytes())
    data[600] ^= 1
    shard.write_bytes(data)
    with pytest.raises(ShardError, match=r"features-00001\.tar is damaged at key 'image004'"):
        FeatureStore(tmp_path).load(["image004"])


@pytest.mark.parametrize(
    "member", [b"text", save({"other": torch.zeros(2, 2)}), save({"features": torch.zeros(2)}), b""]
)
def test_a_record_that_holds_no_features_is_named(tmp_path: Path, member: bytes) -> None:
    write_shards(tmp_path, [("a", {"safetensors": member})], kind="features")
    with pytest.raises(ShardError, match=r"features-00000\.tar, key 'a': "):
        FeatureStore(tmp_path)


def test_an_empty_or_unfinished_store_is_refused(tmp_path: Path) -> None:
    write_shards(tmp_path / "empty", [], kind="features")
    with pytest.raises(ShardError, match="holds no features"):
        FeatureStore(tmp_path / "empty")
    with pytest.raises(ShardError, match="was not finished"):
        FeatureStore(tmp_path)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        (torch.tensor([[1.0, float("nan")]]), "NaN or infinity"),
        (torch.tensor([[70_000.0]]).half(), "NaN or infinity"),
        (torch.zeros(3), r"\(g, c\)"),
        (torch.zeros(3, 3, dtype=torch.int64), "floating point"),
    ],
)
def test_features_that_would_poison_training_are_not_written(value: torch.Tensor, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        feature_record(value)
