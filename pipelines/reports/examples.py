"""A few questions with their image and all that was answered, read from the files of a finished job. Knows no model."""

import io
import itertools
from collections.abc import Iterator, Mapping
from pathlib import Path

from memvp_data.images import load_image
from memvp_data.samples import read_samples
from memvp_data.shards.reader import ShardReader
from pipelines.evaluation.chosen_questions import choose
from pipelines.evaluation.questions import answer_texts
from pipelines.reports.page import Answer

_LONGEST_SIDE = 384
_MOST_LOOKED_AT = 20_000
"""Samples from which the few are chosen: enough for every task to occur, also in a table of millions."""


def some_answers(table: Path, *, images: Path | None, predictions: Mapping[str, Path], count: int) -> Iterator[Answer]:
    """`count` questions of a samples table, with what each predictions file answers.

    Args:
        images: folder of image shards; None where a job has only features.
        predictions: model state -> predictions file.
    """
    chosen = choose(list(itertools.islice(read_samples(table), _MOST_LOOKED_AT)), count=count)
    given = {state: answer_texts(path) for state, path in predictions.items()}
    reader = None if images is None else ShardReader(images)
    for sample in chosen:
        yield Answer(
            question=sample.turns[-1].text,
            right=" / ".join(dict.fromkeys(sample.answers[:3])),
            given={state: texts[sample.id] for state, texts in given.items() if sample.id in texts},
            image=_thumbnail(reader, sample.image_ids[0]) if reader is not None and sample.image_ids else None,
        )


def _thumbnail(reader: ShardReader, image_id: str) -> bytes:
    """A small JPEG: a page with originals of cameras would be too heavy to open."""
    (encoded,) = reader.read(image_id).values()
    picture = load_image(encoded, name=image_id)
    picture.thumbnail((_LONGEST_SIDE, _LONGEST_SIDE))
    file = io.BytesIO()
    picture.save(file, "JPEG", quality=85)
    return file.getvalue()
