"""TVQA and How2QA: multiple choice about clips of 64 frames, in the layout of the VALUE benchmark.

Source: VALUE's DataRelease (`ann/`, `vis_features/`). Licence: the annotations are for research only (TVQA) and CC
BY-NC-SA 4.0 (How2QA); the videos are not included. Counts: TVQA 122,039 questions train, 15,253 val, 7,623
test_public; How2QA 34,187, 3,115 and 3,095. TVQA has five choices and a show, How2QA four choices and no show; test
has no answers.

An "image" is a clip: its id is that of `{vid_name}.npz` in vis_features/, see frames.py. The answer is "a0" to "a4",
the user's turn the bare question. Fields: question, choices (JSON list), ts, subtitles (all of the clip's), vid_name,
show_name if known.
"""

import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from memvp_data.datasets.json_files import DatasetError, read_json_lines
from memvp_data.datasets.records import ImageFolder, OnceOnly, label, one_of, placed, shown, text, whole_number
from memvp_data.samples import Sample, Turn, to_id

SPLITS = ("train", "val", "test_public")


@dataclass(frozen=True)
class Layout:
    """Where a dataset keeps its parts, relative to the root."""

    questions: str
    """Question file, with the split at {split}."""
    subtitles: str
    """Subtitle file."""
    frames: str
    """Folder of the clips' features."""
    num_choices: int
    """Choices of every question."""


TVQA = Layout("ann/tvqa/tvqa_{split}.jsonl", "ann/tv_subtitles.jsonl", "vis_features/tv/clip-vit", 5)
HOW2QA = Layout("ann/how2qa/how2qa_{split}_release.jsonl", "ann/how2_subtitles.jsonl", "vis_features/how2/clip-vit", 4)


def read_tvqa(root: Path | str, *, split: str, check_images: bool = True) -> Iterator[Sample]:
    """Stream a split of TVQA; "train" holds the answer's turn."""
    return _read(Path(root), TVQA, split=split, check_images=check_images)


def read_how2qa(root: Path | str, *, split: str, check_images: bool = True) -> Iterator[Sample]:
    """Stream a split of How2QA; "train" holds the answer's turn."""
    return _read(Path(root), HOW2QA, split=split, check_images=check_images)


def _read(root: Path, layout: Layout, *, split: str, check_images: bool) -> Iterator[Sample]:
    path = root / layout.questions.format(split=one_of(split, SPLITS, what="split"))
    frames = ImageFolder(root / layout.frames if check_images else None)
    subtitles = _read_subtitles(root / layout.subtitles)
    return frames.whole(_samples(path, layout, subtitles=subtitles, frames=frames, split=split))


def _samples(
    path: Path, layout: Layout, *, subtitles: Mapping[str, str], frames: ImageFolder, split: str
) -> Iterator[Sample]:
    seen = OnceOnly("qid")
    for number, record in read_json_lines(path):
        with frames.placed(f"{path.name}, line {number} (qid {shown(record.get('qid'))})"):
            seen.add(label(record, "qid"))
            sample = _sample(record, layout, subtitles=subtitles, frames=frames, split=split)
        yield sample


def _sample(
    record: dict[str, Any], layout: Layout, *, subtitles: Mapping[str, str], frames: ImageFolder, split: str
) -> Sample:
    clip, question = text(record, "vid_name"), Turn("user", text(record, "q"))
    answers = _answers(record, layout, split=split)
    if clip not in subtitles:
        raise DatasetError(f"clip {shown(clip)} has no line in {layout.subtitles}; take files of one release")
    return Sample(
        id=to_id(label(record, "qid")),
        image_ids=(frames.id(f"{clip}.npz"),),
        turns=(question, Turn("assistant", *answers)) if split == "train" else (question,),
        task=text(record, "show_name", default=""),
        answers=answers,
        source=Path(layout.questions.format(split=split)).name,
        fields=_fields(record, layout) | {"question": question.text.strip(), "subtitles": subtitles[clip]},
    )


def _answers(record: dict[str, Any], layout: Layout, *, split: str) -> tuple[str, ...]:
    if split.startswith("test") and record.get("answer_idx") is None:
        return ()
    return (f"a{whole_number(record, 'answer_idx', below=layout.num_choices)}",)


def _fields(record: dict[str, Any], layout: Layout) -> dict[str, str]:
    choices = [text(record, f"a{number}") for number in range(layout.num_choices)]
    shared = {"choices": json.dumps(choices, ensure_ascii=False), "ts": text(record, "ts")}
    return shared | {name: text(record, name) for name in ("vid_name", "show_name") if name in record}


def _read_subtitles(path: Path) -> dict[str, str]:
    """All that is said in each clip, joined by spaces."""
    said = dict[str, str]()
    for number, record in read_json_lines(path):
        with placed(f"{path.name}, line {number}"):
            clip, lines = text(record, "vid_name"), record.get("sub")
            if not isinstance(lines, list) or not all(isinstance(line, dict) for line in lines):
                raise DatasetError(f'"sub" must be a list of objects with "text", got {shown(lines)}')
            if clip in said:
                raise DatasetError(f"clip {shown(clip)} has two lines; keep one")
            said[clip] = " ".join(text(line, "text").strip() for line in lines)
    return said
