"""Feature shards: what the tower gives for the image, kept when they are whole, made again when not."""

import json
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from transformers import CLIPVisionConfig, CLIPVisionModel

from memvp_core.vision import FeatureSpec, tower_features
from memvp_data.features import FeatureStore
from memvp_data.images import preprocess
from memvp_data.shards import verify, write_shards
from memvp_data.shards.reader import ShardReader
from memvp_train.config import VisionConfig
from memvp_train.features.extract import FeatureError, check_tower, extract_features, map_here
from memvp_train.models.language import ModelError, build_tower

NUM_IMAGES, PER_SHARD = 7, 3


@pytest.fixture(scope="module")
def vision(tmp_path_factory: pytest.TempPathFactory) -> VisionConfig:
    folder = tmp_path_factory.mktemp("tower")
    torch.manual_seed(0)
    settings = CLIPVisionConfig(
        hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=96, patch_size=32
    )
    CLIPVisionModel(settings).save_pretrained(folder)
    return VisionConfig(str(folder), preprocessing="toyworld_96", batch_size=2, feature_dtype="float16")


@pytest.fixture(scope="module")
def images(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("images")
    rng = np.random.default_rng(0)
    records = []
    for number in range(NUM_IMAGES):
        file = BytesIO()
        Image.fromarray(rng.integers(0, 255, (96, 96, 3), dtype=np.uint8)).save(file, "PNG")
        records.append((f"image-{number}", {"png": file.getvalue()}))
    write_shards(folder, records, kind="images", max_shard_samples=PER_SHARD)
    return folder


class _Counting:
    """map_here that remembers which shards it was given, and can die after some."""

    def __init__(self, *, die_after: int | None = None) -> None:
        self.names: list[str] = []
        self.die_after = die_after

    def __call__(self, fn: Any, items: list[Any], **settings: Any) -> list[Any]:
        def counted(job: dict[str, Any]) -> Any:
            if len(self.names) == self.die_after:
                raise KeyboardInterrupt
            self.names.append(job["name"])
            return fn(job)

        return map_here(counted, items, **settings)


def test_features_are_those_of_the_tower(images: Path, vision: VisionConfig, tmp_path: Path) -> None:
    manifest = extract_features(images, tmp_path / "out", vision)
    assert verify(tmp_path / "out") == []
    assert (manifest.num_samples, len(manifest.shards)) == (NUM_IMAGES, 3)
    store = FeatureStore(tmp_path / "out")
    tower = build_tower(vision)
    rng = np.random.default_rng(0)
    for number in range(NUM_IMAGES):
        image = Image.fromarray(rng.integers(0, 255, (96, 96, 3), dtype=np.uint8))
        pixels = torch.from_numpy(preprocess(image, preprocessing="toyworld_96"))[None]
        with torch.no_grad():
            expected = tower_features(tower, pixels, FeatureSpec(layer=-2)).half().float()
        # float16 is stored; a batch of two may differ from a batch of one in the last bit before rounding.
        torch.testing.assert_close(store.load([f"image-{number}"]), expected, rtol=1e-3, atol=1e-3)


def test_manifest_says_how_they_were_made(images: Path, vision: VisionConfig, tmp_path: Path) -> None:
    meta = extract_features(images, tmp_path / "out", vision).meta
    assert {name: meta[name] for name in ("layer", "tokens", "post_norm", "preprocessing", "dtype")} == {
        "layer": -2,
        "tokens": "patches",
        "post_norm": False,
        "preprocessing": "toyworld_96",
        "dtype": "float16",
    }
    assert len(meta["weights_sha256"]) == 64


def test_killed_run_goes_on_where_it_was(images: Path, vision: VisionConfig, tmp_path: Path) -> None:
    whole = extract_features(images, tmp_path / "whole", vision)
    first, second, third = _Counting(die_after=1), _Counting(), _Counting()
    with pytest.raises(KeyboardInterrupt):
        extract_features(images, tmp_path / "parts", vision, map_shards=first)
    progress: list[int] = []
    parts = extract_features(images, tmp_path / "parts", vision, map_shards=second, progress=progress.append)
    assert first.names + second.names == [f"features-{number:05d}.tar" for number in range(3)]
    assert progress[0] == PER_SHARD
    assert progress[-1] == NUM_IMAGES
    assert parts == whole  # the same bytes, as the manifests hold the hashes
    assert extract_features(images, tmp_path / "parts", vision, map_shards=third) == whole
    assert third.names == []
    leftovers = {path.name for path in (tmp_path / "parts").iterdir()} - {
        path.name for path in (tmp_path / "whole").iterdir()
    }
    assert not leftovers


@pytest.mark.faults
def test_damaged_shard_alone_is_made_again(images: Path, vision: VisionConfig, tmp_path: Path) -> None:
    whole = extract_features(images, tmp_path / "whole", vision)
    with pytest.raises(KeyboardInterrupt):
        extract_features(images, tmp_path / "parts", vision, map_shards=_Counting(die_after=2))
    damaged = tmp_path / "parts" / "features-00000.tar"
    data = bytearray(damaged.read_bytes())
    data[700] ^= 1
    damaged.write_bytes(data)
    again = _Counting()
    assert extract_features(images, tmp_path / "parts", vision, map_shards=again) == whole
    assert again.names == ["features-00000.tar", "features-00002.tar"]


@pytest.mark.parametrize(
    "change", [{"layer": -1}, {"tokens": "all"}, {"post_norm": True}, {"feature_dtype": "float32"}, {"pool_side": 1}]
)
def test_features_made_otherwise_are_not_kept(
    images: Path, vision: VisionConfig, tmp_path: Path, change: dict[str, Any]
) -> None:
    extract_features(images, tmp_path / "out", vision)
    other = VisionConfig(**{**vision.__dict__, **change})
    counting = _Counting()
    manifest = extract_features(images, tmp_path / "out", other, map_shards=counting)
    assert len(counting.names) == 3
    assert manifest.meta != extract_features(images, tmp_path / "plain", vision).meta
    assert verify(tmp_path / "out") == []


def test_pooled_features_are_means_of_blocks_of_patches(images: Path, vision: VisionConfig, tmp_path: Path) -> None:
    exact = VisionConfig(**{**vision.__dict__, "feature_dtype": "float32"})
    extract_features(images, tmp_path / "whole", exact)
    extract_features(images, tmp_path / "one", VisionConfig(**{**exact.__dict__, "pool_side": 1}))
    whole, one = FeatureStore(tmp_path / "whole"), FeatureStore(tmp_path / "one")
    assert (whole.feature_shape, one.feature_shape) == ((9, 16), (1, 16))
    names = [f"image-{number}" for number in range(NUM_IMAGES)]
    # Float32 sums of nine values in another order.
    torch.testing.assert_close(one.load(names), whole.load(names).mean(dim=1, keepdim=True), rtol=1e-5, atol=1e-6)


def test_names_that_share_an_image_share_its_features(images: Path, vision: VisionConfig, tmp_path: Path) -> None:
    with_twin = sorted([*ShardReader(images).stream(), ("another-name", ShardReader(images).read("image-4"))])
    source = write_shards(tmp_path / "images", with_twin, kind="images", max_shard_samples=PER_SHARD, dedupe=True)
    manifest = extract_features(tmp_path / "images", tmp_path / "out", vision)
    assert source.num_samples == manifest.num_samples == NUM_IMAGES
    assert verify(tmp_path / "out") == []
    store = FeatureStore(tmp_path / "out")
    assert len(store) == NUM_IMAGES + 1
    assert torch.equal(store.load(["another-name"]), store.load(["image-4"]))


def test_tower_that_trains_is_refused(vision: VisionConfig) -> None:
    tower = build_tower(vision)
    check_tower(tower)
    tower.encoder.layers[0].mlp.fc1.bias.requires_grad_(True)
    with pytest.raises(FeatureError, match=r"trains 1 tensors, first 'encoder.layers.0.mlp.fc1.bias'"):
        check_tower(tower)


def test_tower_with_an_adapter_is_refused_even_when_frozen(vision: VisionConfig) -> None:
    from peft import LoraConfig, inject_adapter_in_model

    tower = inject_adapter_in_model(LoraConfig(target_modules=["q_proj"]), build_tower(vision)).requires_grad_(False)
    with pytest.raises(FeatureError, match="has an adapter at"):
        check_tower(tower)


@pytest.mark.faults
def test_broken_image_is_named(vision: VisionConfig, tmp_path: Path) -> None:
    write_shards(tmp_path / "images", [("broken", {"png": b"not a picture"})], kind="images")
    with pytest.raises(ValueError, match="'broken'"):
        extract_features(tmp_path / "images", tmp_path / "out", vision)
    assert not (tmp_path / "out" / "manifest.json").exists()


def test_missing_tower_is_a_sentence(images: Path, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"vision tower .* cannot be loaded"):
        extract_features(images, tmp_path / "out", VisionConfig(str(tmp_path / "nothing")))


def test_random_tower_is_drawn_from_its_seed(vision: VisionConfig) -> None:
    towers = [
        build_tower(VisionConfig(vision.path, random_init=True, seed=seed, overrides={"num_hidden_layers": 1}))
        for seed in (0, 0, 1)
    ]
    first, same, other = (json.dumps(tower.post_layernorm.weight.shape[0]) for tower in towers)
    assert first == same == other
    weights = [tower.encoder.layers[0].mlp.fc1.weight for tower in towers]
    assert len(towers[0].encoder.layers) == 1
    assert torch.equal(weights[0], weights[1])
    assert not torch.equal(weights[0], weights[2])


def test_a_tower_with_adapters_that_train_is_refused_before_it_is_built(
    images: Path, vision: VisionConfig, tmp_path: Path
) -> None:
    with pytest.raises(FeatureError, match=r"vision.adapter_dim 3 .* set it to 0, or train from pixels"):
        extract_features(images, tmp_path / "out", replace(vision, adapter_dim=3))


def test_rows_of_several_layers_pooled_are_stored_and_kept(images: Path, vision: VisionConfig, tmp_path: Path) -> None:
    several = replace(vision, layer=(0, -1), grid=2)
    whole = extract_features(images, tmp_path / "out", several)
    assert FeatureStore(tmp_path / "out").feature_shape == (8, 16)
    assert (whole.meta["layer"], whole.meta["grid"], whole.meta["projection"]) == ([0, -1], 2, False)
    again = _Counting()
    assert extract_features(images, tmp_path / "out", several, map_shards=again) == whole
    assert again.names == []
