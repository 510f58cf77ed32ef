"""The table of datasets: for each its reader, its splits, and what the official files hold.

Commands and jobs ask it by name: `find_dataset("gqa").read(root, split="testdev")`. Counts are the published ones; None
where none is published. An image id is the path of the image below the folder `images` of the root.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Protocol

from memvp_data.datasets import coco, gqa, karpathy, llava, mmbench, mme, pope, scienceqa, sqa_i, video, vl_t5, vqav2
from memvp_data.samples import Sample


class Reader(Protocol):
    """Streams a split of a folder of official files, with or without looking whether its images are there."""

    def __call__(self, root: Path | str, /, *, split: str, check_images: bool = True) -> Iterator[Sample]: ...


@dataclass(frozen=True)
class Split:
    """What the official files of a split hold."""

    files: tuple[str, ...]
    """Annotation files (MME: folders), relative to the root."""
    num_samples: tuple[int, ...] = ()
    """Published numbers of samples, any of which is right; () if there is none."""
    num_images: int | None = None
    """Distinct images."""
    folders: Mapping[str, int] = field(default_factory=dict)
    """Samples by the folder that their image is in; "" are those without image."""


@dataclass(frozen=True)
class Dataset:
    """One row of the table."""

    read: Reader
    """Official files to samples."""
    splits: Mapping[str, Split]
    """By name."""
    images: str = "images"
    """Folder below the root that image ids are relative to; "" is the root itself."""
    hint: str = ""
    """What to do when images are missing, if there is more to say than to put them there."""
    metric: str = ""
    """Name of its metric in memvp_data.metrics, where that is not its own."""


def _llava_file(name: str, *, images: str) -> Reader:
    def read(root: Path | str, /, *, split: str, check_images: bool = True) -> Iterator[Sample]:
        return llava.read_conversations(Path(root, name), image_root=Path(root, images) if check_images else None)

    return read


def _vqav2_split(*subsets: str, num_samples: int, num_images: int | None = None, is_karpathy: bool = False) -> Split:
    files = [vqav2.question_file(subset) for subset in subsets]
    files += [vqav2.annotation_file(subset) for subset in subsets if not subset.startswith("test")]
    return Split((*files, karpathy.FILE) if is_karpathy else tuple(files), (num_samples,), num_images)


def _video_splits(layout: video.Layout, counts: tuple[int, int, int]) -> dict[str, Split]:
    return {
        name: Split((layout.questions.format(split=name), layout.subtitles), (count,))
        for name, count in zip(video.SPLITS, counts, strict=True)
    }


_BOTH = ("train2014", "val2014")
_PROBLEMS = (scienceqa.PROBLEMS_FILE, scienceqa.SPLITS_FILE)
_DESCRIBED = (*_PROBLEMS, scienceqa.CAPTIONS_FILE)
_MIX_FOLDERS = {
    "coco/train2017": 364_100,
    "vg": 86_417,
    "ocr_vqa/images": 80_000,
    "gqa/images": 72_140,
    "textvqa/train_images": 21_953,
    "": 40_688,
}

DATASETS: dict[str, Dataset] = {
    "vqav2": Dataset(
        vqav2.read_vqav2,
        {
            "train": _vqav2_split("train2014", num_samples=443_757, num_images=82_783),
            "val": _vqav2_split("val2014", num_samples=214_354, num_images=40_504),
            "test": _vqav2_split("test2015", num_samples=447_793, num_images=81_434),
            "test-dev": _vqav2_split("test-dev2015", num_samples=107_394),
            "karpathy_train": _vqav2_split(*_BOTH, num_samples=605_102, is_karpathy=True),
            "karpathy_val": _vqav2_split(*_BOTH, num_samples=26_729, is_karpathy=True),
            "karpathy_test": _vqav2_split(*_BOTH, num_samples=26_280, is_karpathy=True),
        },
        images="",
    ),
    "gqa": Dataset(
        gqa.read_gqa,
        {
            "train": Split((gqa.question_file("train"),), (943_000,), 72_140),
            "val": Split((gqa.question_file("val"),), (132_062,), 10_234),
            "train_val": Split((gqa.question_file("train"), gqa.question_file("val")), (1_075_062,)),
            "testdev": Split((gqa.question_file("testdev"),), (12_578,), 398),
            "test": Split((gqa.question_file("test"),), (95_336,), 2_987),
            "challenge": Split((gqa.question_file("challenge"),)),
        },
    ),
    "vqav2_vl_t5": Dataset(
        vl_t5.read_vqav2_of_vl_t5,
        {
            "karpathy_train": Split((vl_t5.vqa_file("karpathy_train"),), (605_102,)),
            "karpathy_val": Split((vl_t5.vqa_file("karpathy_val"),), (26_729,)),
            "karpathy_test": Split((vl_t5.vqa_file("karpathy_test"),), (26_280,)),
        },
        images="",
        metric="vqav2",
    ),
    "gqa_vl_t5": Dataset(
        vl_t5.read_gqa_of_vl_t5,
        {
            "train": Split(vl_t5.gqa_files("train"), (943_000,), 72_140),
            "valid": Split(vl_t5.gqa_files("valid"), (132_062,), 10_234),
            "train_valid": Split(vl_t5.gqa_files("train_valid"), (1_075_062,)),
            "testdev": Split(vl_t5.gqa_files("testdev"), (12_578,), 398),
        },
        metric="gqa",
    ),
    "coco": Dataset(
        coco.read_coco,
        {
            "train": Split((karpathy.FILE,), (566_747,), 113_287),
            "val": Split((karpathy.FILE,), (5_000,), 5_000),
            "test": Split((karpathy.FILE,), (5_000,), 5_000),
        },
        images="",
    ),
    "scienceqa": Dataset(
        scienceqa.read_scienceqa,
        {
            "train": Split(_PROBLEMS, (12_726,), 6_218),
            "val": Split(_DESCRIBED, (4_241,), 2_097),
            "test": Split(_DESCRIBED, (4_241,), 2_017),
            "trainval": Split(_PROBLEMS, (16_967,), 8_315),
            "minitrain": Split(_PROBLEMS, (1_272,)),
            "minival": Split(_DESCRIBED, (424,)),
            "minitest": Split(_DESCRIBED, (424,)),
        },
    ),
    "sqa_i": Dataset(sqa_i.read_sqa_i, {"test": Split((sqa_i.QUESTIONS_FILE, *_PROBLEMS), (4_241,), 2_017)}),
    "lcs_558k": Dataset(
        _llava_file("blip_laion_cc_sbu_558k.json", images="images"),
        {"train": Split(("blip_laion_cc_sbu_558k.json",), (558_128,))},
        metric="coco",
    ),
    "llava_665k": Dataset(
        _llava_file("llava_v1_5_mix665k.json", images=""),
        {"train": Split(("llava_v1_5_mix665k.json",), (665_298,), folders=_MIX_FOLDERS)},
        images="",
        hint="some of ocr_vqa can no longer be downloaded; take those records out of the file",
        metric="accuracy",
    ),
    "tvqa": Dataset(video.read_tvqa, _video_splits(video.TVQA, (122_039, 15_253, 7_623)), images=video.TVQA.frames),
    "how2qa": Dataset(
        video.read_how2qa, _video_splits(video.HOW2QA, (34_187, 3_115, 3_095)), images=video.HOW2QA.frames
    ),
    "mme": Dataset(
        mme.read_mme,
        {
            "test": Split(tuple(mme.TASKS), (2_374,), 1_187),
            "perception": Split(tuple(mme.PERCEPTION), (2_114,), 1_057),
            "cognition": Split(tuple(mme.COGNITION), (260,), 130),
        },
        images="",
    ),
    "mmbench": Dataset(
        mmbench.read_mmbench,
        {
            "dev": Split((mmbench.FILES["dev"],), (4_377,), 1_176),
            "test": Split((mmbench.FILES["test"],)),
            "dev_en": Split((mmbench.FILES["dev_en"],)),
            "test_en": Split((mmbench.FILES["test_en"],)),
        },
        hint="`python -m memvp_data unpack-images` writes them from the table",
    ),
    "pope": Dataset(
        pope.read_pope,
        {
            "adversarial": Split((pope.question_file("adversarial"),), (3_000,), 500),
            "popular": Split((pope.question_file("popular"),), (3_000,), 500),
            "random": Split((pope.question_file("random"),), (3_000, 2_910), 500),
            "test": Split(tuple(map(pope.question_file, pope.PARTS)), (9_000, 8_910), 500),
        },
        images="",
    ),
}


def find_dataset(name: str) -> Dataset:
    """The dataset of that name; `ValueError` listing the known ones if there is none."""
    if name not in DATASETS:
        raise ValueError(f"unknown dataset {name!r}; known: {', '.join(DATASETS)}")
    return DATASETS[name]


def find_split(dataset: Dataset, name: str) -> Split:
    """The split of that name; `ValueError` listing the known ones if there is none."""
    if name not in dataset.splits:
        raise ValueError(f"unknown split {name!r}; known: {', '.join(dataset.splits)}")
    return dataset.splits[name]


def metric_of(name: str) -> str:
    """Name of the metric in memvp_data.metrics that scores a dataset."""
    return find_dataset(name).metric or name
