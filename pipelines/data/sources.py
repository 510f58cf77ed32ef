"""Official files as the build step sees them: which files, which images, and the samples tables that come out of them.

`source_of(config)` is a job's source: LLaVA's conversation and question files, or splits of a benchmark.
"""

import itertools
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from pipelines.config.benchmarks import VIDEO, ComparisonConfig, FinetuneConfig
from pipelines.config.instruct import DataConfig, JobConfig, QuestionFile
from pipelines.config.plain import as_settings

TEST_SLICES = ("image", "unseen", "text_only", "described")
Config = JobConfig | FinetuneConfig | ComparisonConfig
Progress = Callable[[int, int], None]


@dataclass(frozen=True)
class Part:
    """One samples table to be."""

    samples: Iterable[Any]
    """its samples, streamed"""
    images: Path | None
    """folder that image ids are relative to; None: no sample may have an image"""


class Source(Protocol):
    """The official files of one build step."""

    setting: str
    """name of the setting that names the root, for messages"""
    root: Path | None
    """folder of the official files; None: they are drawn"""

    def settings(self) -> dict[str, Any]:
        """What decides the tables, plain JSON."""
        ...

    def files(self) -> dict[str, str]:
        """Setting -> annotation file, or folder of such files, below the root."""
        ...

    def folders(self) -> dict[str, str]:
        """Setting -> folder of images below the root."""
        ...

    def draw(self, folder: Path, *, progress: Progress) -> None:
        """Write the toy world as these official files."""
        ...

    def parts(self, root: Path) -> dict[str, Part]:
        """Name -> samples table."""
        ...


def source_of(config: Config, about: str = "") -> Source:
    """The official files of a job; of one benchmark, `about`, where the job has several."""
    if isinstance(config, JobConfig):
        return LlavaFiles(config.data)
    if isinstance(config, FinetuneConfig):
        data = config.data
        splits = {"tune": data.train, **({"validation": data.validation} if data.validation else {})}
        tests = {test_table(split): split for split in data.tests}
        return BenchmarkFiles(
            data.dataset, splits | tests, root=_path(data.root), world=data.toyworld, setting="data.root"
        )
    data = config.data
    own = data.roots.get(about)
    root = _path(own) if own else Path(data.root, about) if data.root else None
    splits = {test_table(config.benchmarks[about]): config.benchmarks[about]}
    return BenchmarkFiles(
        about, splits, root=root, world=data.toyworld, setting=f"data.roots.{about}" if own else "data.root"
    )


def test_table(split: str) -> str:
    """Name of the samples table of a split that is scored."""
    return f"test_{split}"


def has_video(config: Config, about: str = "") -> bool:
    """Whether the source brings features of frames instead of images."""
    dataset = config.data.dataset if isinstance(config, FinetuneConfig) else about
    return dataset in VIDEO


def _path(name: str | None) -> Path | None:
    return None if name is None else Path(name)


class LlavaFiles:
    """Conversations to learn in two stages, and questions with their answers."""

    setting = "data.root"

    def __init__(self, data: DataConfig) -> None:
        self.data, self.root = data, _path(data.root)
        self._training = {"stage1": data.stage1, "stage2": data.stage2}

    def settings(self) -> dict[str, Any]:
        return as_settings(self.data)

    def files(self) -> dict[str, str]:
        found = {f"data.{name}.conversations": files.conversations for name, files in self._training.items()}
        for name, test in test_files(self.data).items():
            found[f"data.test.{name}.questions"] = test.questions
            found[f"data.test.{name}.answers"] = test.answers
        return found

    def folders(self) -> dict[str, str]:
        training = {f"data.{name}.images": files.images for name, files in self._training.items()}
        tests = {f"data.test.{name}.images": test.images for name, test in test_files(self.data).items()}
        return training | {setting: path for setting, path in tests.items() if path is not None}

    def draw(self, folder: Path, *, progress: Progress) -> None:
        from memvp_data.toyworld import images_in, write_toyworld

        world, drawn = self.data.toyworld, itertools.count(1)
        assert world is not None
        write_toyworld(folder, world, progress=lambda _: progress(next(drawn), images_in(world)))

    def parts(self, root: Path) -> dict[str, Part]:
        from memvp_data.datasets.llava import read_conversations, read_questions

        parts = {}
        for name, files in self._training.items():
            images = root / files.images
            parts[name] = Part(read_conversations(root / files.conversations, image_root=images), images)
        for name, test in test_files(self.data).items():
            images = root / test.images if test.images is not None else None
            samples = read_questions(root / test.questions, answers=root / test.answers, image_root=images)
            parts[name] = Part(samples, images)
        return parts


def test_files(data: DataConfig) -> dict[str, QuestionFile]:
    """The test slices that are configured, by name."""
    found = {name: getattr(data.test, name) for name in TEST_SLICES} if data.test else {}
    return {name: files for name, files in found.items() if files is not None}


class BenchmarkFiles:
    """Splits of a benchmark of memvp_data's table, each by the name of its samples table."""

    def __init__(self, dataset: str, splits: Mapping[str, str], *, root: Path | None, world: Any, setting: str) -> None:
        from memvp_data.datasets.table import find_dataset, find_split

        self.dataset, self.splits, self.root, self.world, self.setting = dataset, dict(splits), root, world, setting
        self._row = find_dataset(dataset)
        self._published = {split: find_split(self._row, split) for split in self.splits.values()}

    def settings(self) -> dict[str, Any]:
        world = None if self.world is None else as_settings(self.world)
        return {"dataset": self.dataset, "splits": self.splits, "toyworld": world}

    def files(self) -> dict[str, str]:
        names = sorted({name for split in self._published.values() for name in split.files})
        return {f"{self.setting}: {self.dataset}, {name}": name for name in names}

    def folders(self) -> dict[str, str]:
        return {f"{self.setting}: images of {self.dataset}": self._row.images}

    def draw(self, folder: Path, *, progress: Progress) -> None:
        from memvp_data.datasets.mmbench import unpack_images
        from memvp_data.toyworld.formats.table import write_format

        progress(0, self.world.num_images)
        write_format(self.dataset, folder, self.world)
        if self.dataset == "mmbench":
            # As a user does once by `python -m memvp_data unpack-images`: its tables hold the images inside.
            for split in self.splits.values():
                unpack_images(folder, split=split)

    def parts(self, root: Path) -> dict[str, Part]:
        images = root / self._row.images
        return {name: Part(self._row.read(root, split=split), images) for name, split in self.splits.items()}
