"""MME: two yes-or-no questions about each image, ten tasks of perception and four of cognition.

Source: github.com/BradyFU/Awesome-Multimodal-Large-Language-Models (MME_Benchmark_release_version). Licence: for
academic research only. Counts: 2,374 questions, 2,114 of them perception. A task's folder holds images and texts side
by side, or in images/ and questions_answers_YN/; each text file has two lines "question<TAB>Yes" and
"question<TAB>No".

The root is the folder that holds the fourteen folders. The question is kept as it is, with its "Please answer yes or
no.". Field: subtask. Sample ids are "<task>/<image>-1" and "-2"; an image's questions follow each other.
"""

from collections.abc import Iterable, Iterator
from pathlib import Path

from memvp_data.datasets.json_files import DatasetError, open_text, read_part
from memvp_data.datasets.records import ImageFolder, one_of, shown
from memvp_data.samples import Sample, Turn, to_id

# Number of questions of each task.
PERCEPTION = {
    "existence": 60,
    "count": 60,
    "position": 60,
    "color": 60,
    "posters": 294,
    "celebrity": 340,
    "scene": 400,
    "landmark": 400,
    "artwork": 400,
    "OCR": 40,
}
COGNITION = {"commonsense_reasoning": 140, "numerical_calculation": 40, "text_translation": 40, "code_reasoning": 40}
TASKS = PERCEPTION | COGNITION
_SPLITS = {"test": TASKS, "perception": PERCEPTION, "cognition": COGNITION} | {
    task: {task: n} for task, n in TASKS.items()
}
SPLITS = tuple(_SPLITS)
_SUFFIXES = (".jpg", ".png", ".jpeg")
_MAX_BYTES = 1 << 16


def read_mme(root: Path | str, *, split: str = "test", check_images: bool = True) -> Iterator[Sample]:
    """Stream "test" (all tasks), "perception", "cognition" or one task."""
    images, tasks = ImageFolder(root if check_images else None), _SPLITS[one_of(split, SPLITS, what="split")]
    return images.whole(_read(Path(root), tasks, images=images))


def _read(root: Path, tasks: Iterable[str], *, images: ImageFolder) -> Iterator[Sample]:
    for task in tasks:
        texts, pictures = _folders(root, task)
        for path in sorted(texts.glob("*.txt")):
            with images.placed(f"{path.relative_to(root)}"):
                image_id = images.id(_image_name(pictures, stem=path.stem, root=root))
                samples = [
                    _sample(line, name=f"{task}/{path.stem}-{number}", task=task, image_id=image_id)
                    for number, line in enumerate(_two_lines(path), start=1)
                ]
            yield from samples


def _folders(root: Path, task: str) -> tuple[Path, Path]:
    """Where the texts and where the images of a task lie."""
    folder = root / task
    if not folder.is_dir():
        raise DatasetError(
            f"task folder {folder} does not exist; the root must be the folder that holds all of MME's tasks"
        )
    texts = folder / "questions_answers_YN"
    return (texts, folder / "images") if texts.is_dir() else (folder, folder)


def _image_name(folder: Path, *, stem: str, root: Path) -> str:
    """The image of a text, with the suffix that is there; .jpg if there is none."""
    names = [folder / f"{stem}{suffix}" for suffix in _SUFFIXES]
    return next((name for name in names if name.is_file()), names[0]).relative_to(root).as_posix()


def _two_lines(path: Path) -> list[str]:
    if path.stat().st_size > _MAX_BYTES:
        raise DatasetError(f"expected two short lines, got {path.stat().st_size:,} bytes; download it again")
    with open_text(path) as file:
        lines = [line for line in read_part(file, size=-1, path=path, line=False).split("\n") if line.strip()]
    if len(lines) != 2:
        raise DatasetError(
            f"expected two lines 'question<TAB>Yes' and 'question<TAB>No', got {len(lines)}; download it again"
        )
    return lines


def _sample(line: str, *, name: str, task: str, image_id: str) -> Sample:
    question, tab, answer = line.rpartition("\t")
    if not tab:
        raise DatasetError(f"expected 'question<TAB>Yes' or 'question<TAB>No', got {shown(line)}")
    return Sample(
        id=to_id(name),
        image_ids=(image_id,),
        turns=(Turn("user", question),),
        task=task,
        answers=(one_of(answer.strip(), ("Yes", "No"), what="the answer"),),
        source=f"{task}.txt",
        fields={"subtask": task},
    )
