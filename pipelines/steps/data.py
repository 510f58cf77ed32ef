"""The first two steps: official files -> samples tables and image shards; image shards -> feature shards.

Videos are published as features of their frames: then the first step makes tables only, the second packs the features.
"""

from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from memvp_data.answers import with_best_answer
from memvp_data.contents import Contents
from memvp_data.images import image_records
from memvp_data.samples import Sample, read_image_ids, write_samples
from memvp_data.shards import Manifest, write_shards
from pipelines.console.progress import StepProgress
from pipelines.data.sources import Part, Source, has_video, source_of
from pipelines.tracking.step_run import StepRun
from pipelines.workflow.paths import samples_path
from pipelines.workflow.step import StepContext, StepOutcome

_IMAGES_AT_ONCE = 256
_DRAWN = "official_files"


def build_shards(context: StepContext) -> StepOutcome:
    """Draw the toy world if configured, then turn official files into samples tables and one folder of image shards."""
    benchmark = context.about.get("benchmark", "")
    source = source_of(context.config, benchmark)
    roots: dict[str, Path] = {}
    contents = {
        name: _write_table(context, name, part=part, roots=roots)
        for name, part in source.parts(_root(context, source)).items()
    }
    counts = {name: one.samples for name, one in contents.items()}
    told = {"says": list(_said(contents))}
    outputs = tuple(samples_path(context.folder, name) for name in counts)
    if has_video(context.config, benchmark):
        return StepOutcome(outputs, {"samples": counts, "images": len(roots), **told})
    manifest = write_shards(
        context.folder / "images",
        _image_records(roots, progress=context.progress),
        kind="images",
        max_shard_samples=context.config.data.max_shard_samples,
        dedupe=True,  # benchmarks share images under different names
    )
    summary = {"samples": counts, "images": manifest.num_samples, "images_digest": manifest.digest, **told}
    return StepOutcome(outputs=(*outputs, context.folder / "images"), summary=summary)


def _root(context: StepContext, source: Source) -> Path:
    if source.root is not None:
        return source.root
    folder = context.folder / _DRAWN
    context.progress.describe("drawing")
    source.draw(folder, progress=context.progress)
    context.progress.describe("")
    return folder


def _said(contents: dict[str, Contents]) -> Iterator[str]:
    """How many samples there are, how many of them have no image, and what is odd."""
    shares = (f"{name} {one.samples:,} ({one.without_image / one.samples:.0%})" for name, one in contents.items())
    yield f"samples (share without an image): {', '.join(shares)}"
    yield from (f"look at the samples of {name}: {odd}" for name, one in contents.items() if (odd := one.oddities()))


def _write_table(context: StepContext, name: str, *, part: Part, roots: dict[str, Path]) -> Contents:
    """Returns what was written; notes where each image lies in `roots`."""
    path = samples_path(context.folder, name)
    path.parent.mkdir(parents=True, exist_ok=True)
    # Training is watched on the loss of the right answers; readers put them beside the questions of a test split.
    samples = map(with_best_answer, part.samples) if name == "validation" else part.samples
    contents = Contents()
    write_samples(path, contents.watched(_noting_images(samples, images=part.images, roots=roots, name=name)))
    if contents.samples == 0:
        raise ValueError(f"the official file of data.{name} holds no records; a step over nothing would learn nothing")
    if part.images is not None and contents.without_image == contents.samples:
        raise ValueError(
            f"data.{name} has the image folder {part.images}, but none of its {contents.samples:,} records names an "
            "image; correct the records, or leave the folder out for text alone"
        )
    return contents


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
    built = context.inputs["build_shards"]
    context.progress(0, built.record.summary["images"])
    if has_video(context.config, context.about.get("benchmark", "")):
        manifest = _pack_frames(context)
    else:
        from memvp_train.features.extract import extract_features as extract

        manifest = extract(
            built.folder / "images",
            context.folder / "features",
            context.config.vision,
            map_shards=context.services.map_shards(),
            progress=context.progress,
        )
    summary = {"images": manifest.num_samples, "features_digest": manifest.digest, **manifest.meta}
    return StepOutcome(outputs=(context.folder / "features",), summary=summary)


def _pack_frames(context: StepContext) -> Manifest:
    """Features of the clips that any sample names, 64 rows each."""
    from memvp_data.datasets.frames import frame_records

    built, source = context.inputs["build_shards"], source_of(context.config, context.about.get("benchmark", ""))
    (frames,) = source.folders().values()
    tables = (samples_path(built.folder, name) for name in built.record.summary["samples"])
    clips = sorted({clip for table in tables for shown in read_image_ids(table) for clip in shown})
    return write_shards(
        context.folder / "features",
        _counted(
            frame_records(clips, folder=(source.root or built.folder / _DRAWN) / frames), progress=context.progress
        ),
        kind="features",
        max_shard_samples=context.config.data.max_shard_samples,
        meta={"encoder": "published features of frames"},
    )


def _counted(
    records: Iterable[tuple[str, dict[str, bytes]]], *, progress: StepProgress
) -> Iterator[tuple[str, dict[str, bytes]]]:
    for number, record in enumerate(records, start=1):
        yield record
        progress(number)


def log_build(run: StepRun) -> None:
    """Every samples table, and the image shards."""
    for name in run.summary["samples"]:
        run.log_table(run.step, name, context=context_of(name))
    if "images_digest" in run.summary:
        run.log_manifest(run.step, name="images")


def log_features(run: StepRun) -> None:
    """The feature shards."""
    run.log_manifest(run.step, name="features")


def context_of(table: str) -> str:
    """What a samples table is for, in MLflow's words."""
    trained = table in ("stage1", "stage2", "tune")
    return "training" if trained else "validation" if table == "validation" else "evaluation"
