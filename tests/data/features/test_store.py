"""Features come back as stored, in the order asked for; a wrong shape or a missing image is named."""

import pickle
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import save

from memvp_data.features import SUFFIX, FeatureStore, feature_record, parse_features, pooled
from memvp_data.features import store as features_module
from memvp_data.shards import ShardError, write_shards
from memvp_data.shards.reader import ShardReader
from tests.data.shards.test_first_reading import flip


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


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
@pytest.mark.parametrize("poison", [float("nan"), -float("nan"), float("inf"), -float("inf")])
def test_stored_poison_is_refused_when_it_is_read(tmp_path: Path, dtype: torch.dtype, poison: float) -> None:
    value = torch.full((3, 4), torch.finfo(dtype).max, dtype=dtype)
    value[1] = torch.finfo(dtype).min
    assert torch.equal(parse_features(feature_record(value)), value)
    value[2, 1] = torch.tensor(poison, dtype=dtype)
    record = save({"features": value})  # not feature_record, which would not write it
    with pytest.raises(ValueError, match="hold NaN or infinity"):
        parse_features(record)
    good = feature_record(torch.zeros(3, 4, dtype=dtype))
    write_shards(tmp_path, [("a", {"safetensors": good}), ("b", {"safetensors": record})], kind="features")
    with pytest.raises(ShardError, match=r"features-00000\.tar, key 'b': features hold NaN"):
        FeatureStore(tmp_path).load(["b"])


def test_streamed_features_are_those_that_are_loaded(tmp_path: Path) -> None:
    content = tensors(10)
    store = store_of(tmp_path, content)
    streamed = dict(store.stream())
    assert list(streamed) == list(content)
    assert all(torch.equal(streamed[name], content[name]) for name in content)


def test_damaged_features_can_be_left_out(tmp_path: Path) -> None:
    store_of(tmp_path, tensors(10))
    (tmp_path / "features-00001.tar").unlink()
    store = FeatureStore(tmp_path, on_damage="quarantine")
    assert len(store) == 6
    assert store.quarantine is not None
    assert (store.quarantine.num_kept, store.quarantine.num_left_out) == (6, 4)
    assert store.load(["image000", "image009"]).shape == (2, 5, 3)
    with pytest.raises(ShardError, match="no features of image 'image004'"):
        store.load(["image004"])


def test_pooling_averages_blocks_of_the_grid() -> None:
    grid = torch.arange(16.0).reshape(4, 4, 1).expand(4, 4, 2)
    result = pooled(grid.reshape(16, 2).half(), side=2)
    assert result.dtype == torch.float16
    expected = [[grid[2 * i : 2 * i + 2, 2 * j : 2 * j + 2, 0].mean().item()] * 2 for i in range(2) for j in range(2)]
    assert result.tolist() == expected
    assert torch.equal(pooled(torch.eye(9), side=3), torch.eye(9))
    for rows, side in ((17, 2), (16, 3), (16, 0), (16, 5)):
        with pytest.raises(ValueError, match="choose another side"):
            pooled(torch.zeros(rows, 2), side=side)


def from_disk(folder: Path, **modes: str) -> FeatureStore:
    store = FeatureStore(folder, **modes)  # type: ignore[arg-type]
    store._is_small = False
    return store


def slowly(store: FeatureStore, names: list[str]) -> torch.Tensor:
    """Each member read, hashed and parsed on its own."""
    return torch.stack([parse_features(ShardReader(store._reader.folder.shown).read(name)[SUFFIX]) for name in names])


@pytest.mark.parametrize("mode", ["size", "full", "background"])
@pytest.mark.parametrize("shape", [(5, 3), (256, 512)], ids=["small", "on two threads"])
def test_loading_equals_the_careful_way_in_every_epoch(tmp_path: Path, mode: str, shape: tuple[int, int]) -> None:
    content = {f"image{n:03}": torch.randn(shape, generator=torch.Generator().manual_seed(n)).half() for n in range(40)}
    records = ((name, {"safetensors": feature_record(value)}) for name, value in sorted(content.items()))
    write_shards(tmp_path, records, kind="features", max_shard_samples=36)
    store, names = from_disk(tmp_path, verify=mode), [f"image{n:03}" for n in (7, 0, 38, 3, 3, *range(8, 37))]
    expected = slowly(store, names)
    for _ in range(3):
        assert torch.equal(store.load(names, dtype=torch.float16), expected)
    again = pickle.loads(pickle.dumps(store))  # noqa: S301 our own bytes
    assert torch.equal(again.load(names, dtype=torch.float16), expected)
    assert len(again._maps._maps) == len(store._maps._maps) == 2


def test_hashes_and_numbers_are_looked_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    content = tensors(10)
    store = store_of(tmp_path, content)
    store._is_small = False
    first = store.load(list(content))
    monkeypatch.setattr("memvp_data.features.rows._hash", None)
    store._maps.reader.hash_of = None  # type: ignore[method-assign, assignment]
    assert torch.equal(store.load(list(content)), first)
    assert store._finite.sum() == 10


@pytest.mark.parametrize("epoch", [1, 2])
def test_a_changed_byte_is_never_handed_out(tmp_path: Path, epoch: int) -> None:
    content = tensors(8)
    reader = store_of(tmp_path, content)._reader
    for number, name in enumerate(content):
        (row,) = reader.rows(name)
        for place in (row.offset, row.offset + 9, row.offset + row.size - 1):
            store = from_disk(tmp_path)
            if epoch == 2:
                store.load(list(content))
            flip(tmp_path / row.shard, place)
            with pytest.raises(ShardError, match=f"is damaged at key '{name}'"):
                store.load(list(content)) if number else FeatureStore(tmp_path).load([name])
            others = [one for one in content if one != name]
            if number:
                assert torch.equal(store.load(others), torch.stack([content[one] for one in others]).float())
            flip(tmp_path / row.shard, place)
            assert torch.equal(store.load(list(content)), torch.stack([*content.values()]).float())


@pytest.mark.parametrize("mode", ["size", "full", "background"])
def test_stored_poison_is_refused_in_every_epoch_whoever_hashed_it(tmp_path: Path, mode: str) -> None:
    record = save({"features": torch.tensor([[1.0, float("nan")]])})
    good = feature_record(torch.zeros(1, 2))
    write_shards(tmp_path, [("a", {"safetensors": good}), ("b", {"safetensors": record})], kind="features")
    store = from_disk(tmp_path, verify=mode)
    store._reader.wait_until_verified()
    for _ in range(2):
        with pytest.raises(ShardError, match=r"key 'b': features hold NaN"):
            store.load(["a", "b"])


def test_a_shard_that_was_replaced_cut_or_taken_away_is_mapped_anew(tmp_path: Path) -> None:
    content = tensors(8)
    store, shard = store_of(tmp_path, content), tmp_path / "features-00000.tar"
    store._is_small = False
    expected, data = store.load(list(content)), shard.read_bytes()
    for broken in (data[:700], b"", data[:600] + b"x" + data[601:]):
        time.sleep(0.01)
        put(shard, broken)
        with pytest.raises(ShardError, match=r"features-00000\.tar .*(is damaged|cannot be read)"):
            store.load(list(content))
    shard.unlink()
    with pytest.raises(ShardError, match=r"features-00000\.tar cannot be read"):
        store.load(list(content))
    put(shard, data)
    assert torch.equal(store.load(list(content)), expected)


def test_where_nothing_can_be_mapped_shards_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object, **__: object) -> torch.Tensor:
        raise RuntimeError("unable to mmap 64 bytes: Cannot allocate memory (12)")

    content = tensors(8)
    store = store_of(tmp_path, content)
    store._is_small = False
    monkeypatch.setattr("memvp_data.features.mapped.torch.from_file", refuse)
    for _ in range(2):
        assert torch.equal(store.load(list(content), dtype=torch.float16), torch.stack([*content.values()]))


def put(path: Path, data: bytes) -> None:
    """A new file in the place of the old one, as writers of shards put it."""
    path.with_suffix(".new").write_bytes(data)
    path.with_suffix(".new").replace(path)
