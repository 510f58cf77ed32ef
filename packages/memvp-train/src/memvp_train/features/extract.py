"""Image shards to feature shards: one to one, resumable, through any map over items (Ray tasks or a plain loop).

Features of a tower that trains would be stale after its first step, so such a tower is refused. The manifest says how
the features were made; whoever reads them can check that before a step is trained on them.
"""

import json
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memvp_core.vision import tower_features
from memvp_data.features import SUFFIX, feature_record, pooled
from memvp_data.files.hashing import hash_file
from memvp_data.images import load_image, preprocess
from memvp_data.shards import load_part, save_part, verify, write_manifest, write_shard
from memvp_data.shards.deduplication import with_same
from memvp_data.shards.layout import ShardEntry
from memvp_data.shards.manifest import Manifest
from memvp_data.shards.reader import ShardReader
from memvp_train.config import VisionConfig
from memvp_train.launch.cores import all_cores
from memvp_train.models.pretrained import resolve_path
from memvp_train.models.vision import build_tower, feature_spec

KIND = "features"
# What an adapter in a tower is called; its outputs would follow it, even while its weights do not train.
_ADAPTER_MARKS = ("lora_", "adapter", "ia3_")
MapShards = Callable[..., list[Any]]


class FeatureError(ValueError):
    """Features cannot be extracted."""


def map_here(
    fn: Callable[[Any], Any], items: Sequence[Any], *, on_done: Callable[[int], None] = lambda done: None
) -> list[Any]:
    """`fn` of every item, one after the other, in this process; same call as launch.map_shards."""
    results = []
    with all_cores():
        for done, item in enumerate(items, start=1):
            results.append(fn(item))
            on_done(done)
    return results


def extract_features(
    images: Path | str,
    out: Path | str,
    vision: VisionConfig,
    *,
    map_shards: MapShards = map_here,
    progress: Callable[[int], None] = lambda done: None,
) -> Manifest:
    """Features of every image in a folder of image shards, into a folder of as many feature shards.

    Called again it keeps shards that are whole and made the same way, and makes the others. `progress` gets the
    number of images done, counting kept ones.
    """
    if vision.adapter_dim:
        raise FeatureError(
            f"vision.adapter_dim {vision.adapter_dim} puts adapters that train into the tower, and stored features "
            "would be stale after the first step; set it to 0, or train from pixels"
        )
    images, out = Path(images).resolve(), Path(out).resolve()
    source = Manifest.load(images)
    meta = feature_meta(vision, images=source)
    finished = _finished(out, meta=meta)
    if finished is not None:
        progress(finished.num_samples)
        return finished
    out.mkdir(parents=True, exist_ok=True)
    jobs = [_job(entry, images=images, out=out, vision=vision, meta=meta) for entry in source.shards]
    open_jobs = [job for job in jobs if _kept(job) is None]
    sizes = sorted(job["num_samples"] for job in open_jobs)
    num_kept = source.num_samples - sum(sizes)
    progress(num_kept)
    # Tasks may end in any order: counting the smallest first never promises more than is done.
    map_shards(extract_shard, open_jobs, on_done=lambda done: progress(num_kept + sum(sizes[:done])))
    parts = [_kept(job) for job in jobs]
    missing = [job["name"] for job, part in zip(jobs, parts, strict=True) if part is None]
    if missing:
        raise FeatureError(f"feature shards {', '.join(missing[:3])} in {out} were not written whole; run it again")
    sound = [part for part in parts if part is not None]
    # Names that share an image share its features.
    rows = with_same([row for _, shard_rows in sound for row in shard_rows], same=ShardReader(images).same)
    manifest = write_manifest(out, kind=KIND, shards=[entry for entry, _ in sound], rows=rows, meta=meta)
    for job in jobs:
        _note_path(job).unlink(missing_ok=True)
    return manifest


def feature_meta(vision: VisionConfig, *, images: Manifest) -> dict[str, Any]:
    """How features are made: two folders with equal values here hold equal features."""
    return {
        "encoder": vision.path,
        "weights_sha256": _weights_hash(vision),
        "layer": vision.layer if isinstance(vision.layer, int) else list(vision.layer),
        "tokens": vision.tokens,
        "post_norm": vision.post_norm,
        "projection": vision.projection,
        "grid": vision.grid,
        "pool_side": vision.pool_side,
        "preprocessing": vision.preprocessing,
        "upright": vision.upright,
        "dtype": vision.feature_dtype,
        "images": images.digest,
    }


def extract_shard(job: dict[str, Any]) -> int:
    """One image shard to one feature shard; returns its number of images. Plain values in and out, for any worker."""
    vision = VisionConfig(**job["vision"])
    tower = _tower(json.dumps(job["vision"], sort_keys=True))
    reader = ShardReader(job["images"])
    path = Path(job["out"]) / job["name"]
    entry, rows = write_shard(
        path, _records(reader.stored_in(job["source"]), reader=reader, tower=tower, vision=vision)
    )
    if entry.num_samples != job["num_samples"]:
        raise FeatureError(f"{job['source']} gave {entry.num_samples} features for {job['num_samples']} images")
    save_part(path, entry=entry, rows=rows)
    _note_path(job).write_text(job["made_from"])
    return entry.num_samples


def check_tower(tower: nn.Module) -> None:
    """Refuse a tower whose features would change: one with trainable parameters, or with adapters in it."""
    trainable = [name for name, parameter in tower.named_parameters() if parameter.requires_grad]
    if trainable:
        raise FeatureError(
            f"the vision tower trains {len(trainable)} tensors, first {trainable[0]!r}; features may only be stored "
            "of a wholly frozen tower: freeze it with tower.requires_grad_(False), or train from pixels"
        )
    adapters = [name for name, _ in tower.named_modules() if any(mark in name for mark in _ADAPTER_MARKS)]
    if adapters:
        raise FeatureError(
            f"the vision tower has an adapter at {adapters[0]!r}; store those of the plain tower, or train from pixels"
        )


@torch.inference_mode()
def image_features(tower: nn.Module, pixel_values: Tensor, *, vision: VisionConfig) -> Tensor:
    """(B, 3, S, S) to (B, g, c) in the dtype that is stored."""
    features = tower_features(tower, pixel_values, feature_spec(vision))
    if vision.pool_side is not None:
        features = torch.stack([pooled(rows, side=vision.pool_side) for rows in features])
    return features.to(getattr(torch, vision.feature_dtype))


def _records(
    keys: list[str], *, reader: ShardReader, tower: nn.Module, vision: VisionConfig
) -> Iterator[tuple[str, dict[str, bytes]]]:
    check_tower(tower)
    device = next(tower.parameters()).device
    for batch, pixels in _decoded_ahead(keys, reader=reader, vision=vision):
        for key, features in zip(batch, image_features(tower, pixels.to(device), vision=vision), strict=True):
            yield key, {SUFFIX: feature_record(features)}


def _decoded_ahead(keys: list[str], *, reader: ShardReader, vision: VisionConfig) -> Iterator[tuple[list[str], Tensor]]:
    """Batches of names and pixels (B, 3, S, S); threads decode the next one while the tower looks at this one."""
    batches = [keys[start : start + vision.batch_size] for start in range(0, len(keys), vision.batch_size)]
    with ThreadPoolExecutor() as pool:

        def begin(batch: list[str]) -> list[Future[Tensor]]:
            return [pool.submit(_pixels, reader.read(key), name=key, vision=vision) for key in batch]

        begun = begin(batches[0]) if batches else []
        for place, batch in enumerate(batches):
            pixels = torch.stack([image.result() for image in begun])
            begun = begin(batches[place + 1]) if place + 1 < len(batches) else []
            yield batch, pixels


def _pixels(members: dict[str, bytes], *, name: str, vision: VisionConfig) -> Tensor:
    if len(members) != 1:
        raise FeatureError(f"image {name!r} has members {sorted(members)}; an image shard has one file per image")
    image = load_image(next(iter(members.values())), name=name, upright=vision.upright)
    return torch.from_numpy(preprocess(image, preprocessing=vision.preprocessing))


@lru_cache(maxsize=1)
def _tower(vision: str) -> nn.Module:
    """Loaded once per process, however many shards it is given."""
    tower = build_tower(VisionConfig(**json.loads(vision)))
    return tower.to("cuda") if torch.cuda.is_available() else tower


def _weights_hash(vision: VisionConfig) -> str:
    """Hash of the tower's weight files; of the settings alone where there are none yet (drawn, or on the hub)."""
    path = Path(resolve_path(vision.path))
    files = [path] if path.is_file() else sorted(path.glob("*.safetensors"))
    if vision.random_init or not files:
        return f"{'random seed ' + str(vision.seed) if vision.random_init else 'hub'} {json.dumps(vision.overrides)}"
    return "-".join(hash_file(path) for path in files)


def _job(entry: ShardEntry, *, images: Path, out: Path, vision: VisionConfig, meta: dict[str, Any]) -> dict[str, Any]:
    own_path = {**asdict(vision), "path": resolve_path(vision.path)}
    made_from = json.dumps({**meta, "images": entry.sha256}, sort_keys=True)
    return {
        "images": str(images),
        "source": entry.name,
        "num_samples": entry.num_samples,
        "out": str(out),
        "name": f"{KIND}-{entry.name.removesuffix('.tar').rsplit('-', 1)[-1]}.tar",
        "vision": own_path,
        "made_from": made_from,
    }


def _note_path(job: dict[str, Any]) -> Path:
    return Path(job["out"]) / f"{job['name']}.made-from.json"


def _kept(job: dict[str, Any]) -> Any:
    """Entry and index rows of a shard that is whole and was made the same way from the same images, else None."""
    try:
        same = _note_path(job).read_text() == job["made_from"]
    except OSError:
        return None
    return load_part(Path(job["out"]) / job["name"]) if same else None


def _finished(out: Path, *, meta: dict[str, Any]) -> Manifest | None:
    if verify(out, full=True):
        return None
    manifest = Manifest.load(out)
    return manifest if manifest.meta == meta and manifest.kind == KIND else None
