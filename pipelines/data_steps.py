"""The first two steps: official files -> samples tables and image shards; image shards -> feature shards."""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from memvp_data.datasets.llava import read_conversations, read_questions
from memvp_data.images import image_records
from memvp_data.samples import Sample, write_samples
from memvp_data.shards import Manifest, write_shards
from pipelines.config import QuestionFile, TrainingFile
from pipelines.paths import samples_path
from pipelines.progress import StepProgress
from pipelines.step_settings import test_files
from pipelines.steps import StepContext, StepOutcome

_IMAGES_AT_ONCE = 256


def build_shards(context: StepContext) -> StepOutcome:
    """Draw the toy world if configured, then turn official files into samples tables and one folder of image shards."""
    data = context.config.data
    root = Path(data.root) if data.root is not None else _draw(context)
    roots: dict[str, Path] = {}
    counts = {
        "stage1": _training_table(context, "stage1", files=data.stage1, root=root, roots=roots),
        "stage2": _training_table(context, "stage2", files=data.stage2, root=root, roots=roots),
    }
    for name, files in test_files(data).items():
        counts[name] = _test_table(context, name, files=files, root=root, roots=roots)
    manifest = write_shards(
        context.folder / "images",
        _image_records(roots, progress=context.progress),
        kind="images",
        max_shard_samples=data.max_shard_samples,
        dedupe=True,  # benchmarks share images under different names
    )
    tables = tuple(samples_path(context.folder, name) for name in counts)
    summary = {"samples": counts, "images": manifest.num_samples, "images_digest": manifest.digest}
    return StepOutcome(outputs=(*tables, context.folder / "images"), summary=summary)


def _draw(context: StepContext) -> Path:
    from memvp_data.toyworld import images_in, write_toyworld

    folder = context.folder / "official_files"
    world = context.config.data.toyworld
    assert world is not None
    drawn = itertools.count(1)
    context.progress.describe("drawing")
    write_toyworld(folder, world, progress=lambda _: context.progress(next(drawn), images_in(world)))
    context.progress.describe("")
    return folder


def _training_table(context: StepContext, name: str, *, files: TrainingFile, root: Path, roots: dict[str, Path]) -> int:
    images = root / files.images
    samples = read_conversations(root / files.conversations, image_root=images)
    return _write_table(context, name, samples=samples, images=images, roots=roots)


def _test_table(context: StepContext, name: str, *, files: QuestionFile, root: Path, roots: dict[str, Path]) -> int:
    images = root / files.images if files.images is not None else None
    samples = read_questions(root / files.questions, answers=root / files.answers, image_root=images)
    return _write_table(context, name, samples=samples, images=images, roots=roots)


def _write_table(
    context: StepContext, name: str, *, samples: Iterable[Sample], images: Path | None, roots: dict[str, Path]
) -> int:
    path = samples_path(context.folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    count = write_samples(path, _noting_images(samples, images=images, roots=roots, name=name))
    if count == 0:
        raise ValueError(f"the official file of data.{name} holds no records; a step over nothing would learn nothing")
    return count


def _noting_images(
    samples: Iterable[Sample], *, images: Path | None, roots: dict[str, Path], name: str
) -> Iterator[Sample]:
    for sample in samples:
        if sample.image_ids and images is None:
            raise ValueError(f"question {sample.id!r} names an image, but data.test.{name}.images is not set")
        for image_id in sample.image_ids:
            assert images is not None
            if roots.setdefault(image_id, images) != images:
                raise ValueError(
                    f"image {image_id!r} is in {roots[image_id]} and in {images}; features are kept by image name, "
                    "so give the folders one common root"
                )
        yield sample


def _image_records(roots: dict[str, Path], *, progress: StepProgress) -> Iterator[tuple[str, dict[str, bytes]]]:
    """Every image once, in ascending order of ids, decoded as a check: a bad one stops the job before any training."""
    names = sorted(roots)
    with ThreadPoolExecutor() as pool:
        for start in range(0, len(names), _IMAGES_AT_ONCE):
            part = names[start : start + _IMAGES_AT_ONCE]
            yield from pool.map(lambda name: next(image_records([name], image_root=roots[name])), part)
            progress(start + len(part), len(names))


def extract_features(context: StepContext) -> StepOutcome:
    """Image shards -> feature shards, one to one; shards an interrupted attempt finished are kept."""
    from memvp_train.features import extract_features as extract

    context.progress(0, context.inputs["build_shards"].record.summary["images"])
    manifest: Manifest = extract(
        context.inputs["build_shards"].folder / "images",
        context.folder / "features",
        context.config.vision,
        map_shards=context.services.map_shards(),
        progress=context.progress,
    )
    summary = {"images": manifest.num_samples, "features_digest": manifest.digest, **manifest.meta}
    return StepOutcome(outputs=(context.folder / "features",), summary=summary)
