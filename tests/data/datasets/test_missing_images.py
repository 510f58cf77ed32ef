"""Images that are missing are told at once: the place of the first, the names of ten and the number of all."""

from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

import pytest
import torch

from memvp_data.dataloader.loader import TrainingBatches
from memvp_data.datasets.chats import read_chats
from memvp_data.datasets.frames import frame_records
from memvp_data.datasets.json_files import DatasetError
from memvp_data.datasets.llava import read_questions
from memvp_data.datasets.questions import read_questions as read_own_questions
from memvp_data.datasets.records import ImageFolder
from memvp_data.datasets.table import DATASETS
from memvp_data.features import FeatureStore, feature_record
from memvp_data.ids import from_id, to_id
from memvp_data.images import ImageError, image_members, image_num_bytes, image_records
from memvp_data.images.pixels import PixelStore
from memvp_data.samples import Sample
from memvp_data.shards import ShardError, write_shards
from memvp_data.shards.parallel import write_shards_in_processes
from memvp_data.text import Encoded
from tests.data.datasets.official import WRITERS
from tests.data.datasets.put_files import put_images, put_lines

GONE = [f"gone/{number:02d}.jpg" for number in range(13)]


def record(number: int, image: str) -> dict:
    return {"id": number, "question_id": number, "image": image, "text": "Who?", "question": "Who?", "answer": "Ann"}


@pytest.mark.parametrize("name", WRITERS)
def test_every_reader_tells_all_images_of_a_split_that_are_missing(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    dataset, images = DATASETS[name], tmp_path / DATASETS[name].images
    for split in (split for split, item in dataset.splits.items() if all((tmp_path / f).exists() for f in item.files)):
        samples = list(dataset.read(tmp_path, split=split))
        shown = list(dict.fromkeys(from_id(image_id) for sample in samples for image_id in sample.image_ids))
        if len(shown) < 2:
            continue
        before = samples[: next(place for place, sample in enumerate(samples) if to_id(shown[1]) in sample.image_ids)]
        kept = {gone: (images / gone).read_bytes() for gone in shown[1:]}
        for gone in kept:
            (images / gone).unlink()
        found, message = told(dataset.read(tmp_path, split=split))
        for gone, data in kept.items():
            (images / gone).write_bytes(data)
        assert found == before
        assert f"{'image' if len(kept) == 1 else f'{len(kept)} images'} " in message
        # MME's reader finds out by looking which suffix an image has.
        assert all(f"'{gone.rsplit('.', 1)[0]}." in message for gone in shown[1:11])


def told(samples: Iterator[Sample]) -> tuple[list[Sample], str]:
    """What came before the error, and what it says."""
    found = list[Sample]()
    try:
        found.extend(sample for sample in samples)
    except DatasetError as error:
        return found, str(error)
    return pytest.fail("nothing was missing")


@pytest.mark.parametrize("read", [read_questions, read_own_questions, read_chats], ids=["llava", "own", "chats"])
def test_ten_names_and_the_number_stand_in_one_sentence(tmp_path: Path, read: Callable[..., Iterator[Sample]]) -> None:
    put_images(tmp_path, "here.jpg")
    records = [record(number, name) for number, name in enumerate(["here.jpg", *GONE, GONE[0], "here.jpg"])]
    if read is read_chats:
        records = [{"id": one["id"], "image": one["image"], "prompt": "Who?", "completion": "Ann"} for one in records]
    put_lines(tmp_path / "q.jsonl", records)
    found, message = told(read(tmp_path / "q.jsonl", image_root=tmp_path))
    assert [sample.id for sample in found] == ["0"]
    ten = ", ".join(map(repr, GONE[:10]))
    assert message.startswith("q.jsonl, line 2")
    assert message.endswith(
        f": 13 images are not in {tmp_path} ({ten}, ...); put them there or take their records out of the file"
    )


def test_a_record_that_is_wrong_behind_a_missing_image_does_not_hide_it(tmp_path: Path) -> None:
    put_lines(tmp_path / "q.jsonl", [record(0, "a.jpg"), record(1, "b.jpg"), {"question_id": 2}])
    _, message = told(read_questions(tmp_path / "q.jsonl", image_root=tmp_path))
    assert "2 images are not in" in message
    put_images(tmp_path, "a.jpg", "b.jpg")
    assert '"text" must be a string' in told(read_questions(tmp_path / "q.jsonl", image_root=tmp_path))[1]


def test_a_folder_that_is_not_there_is_told_at_the_first_image(tmp_path: Path) -> None:
    put_lines(tmp_path / "q.jsonl", [record(0, "a.jpg"), record(1, "b.jpg")])
    _, message = told(read_questions(tmp_path / "q.jsonl", image_root=tmp_path / "none"))
    assert message.endswith(
        f": image 'a.jpg' is not in {tmp_path}/none; put it there or take the record out of the file"
    )


def test_an_image_that_is_looked_up_outside_of_a_reader_is_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"image 'a\.jpg' is not in"):
        ImageFolder(tmp_path).id("a.jpg")


@pytest.mark.parametrize("name", ["x" * 300, "x/" * 2000 + "x"], ids=["no file's name", "no path"])
def test_a_name_that_no_file_can_have_is_a_missing_image(tmp_path: Path, name: str) -> None:
    put_lines(tmp_path / "q.jsonl", [record(0, name)])
    _, message = told(read_questions(tmp_path / "q.jsonl", image_root=tmp_path))
    assert "is not in" in message
    with pytest.raises(ImageError, match="there is no file"):
        list(image_records([to_id(name)], image_root=tmp_path))


def test_writers_look_all_images_up_before_they_write(tmp_path: Path) -> None:
    put_images(tmp_path, "here.jpg")
    ids = sorted(map(to_id, ["here.jpg", *GONE]))
    with pytest.raises(
        ImageError, match=rf"^13 images are not in {tmp_path} \('gone/00\.jpg', .*'gone/09\.jpg', \.\.\.\)"
    ):
        write_shards(tmp_path / "s", image_records(ids, image_root=tmp_path), kind="images")
    with pytest.raises(ShardError, match=r"^13 keys have no members .*, \.\.\.\), the first as image 'gone/00\.jpg'"):
        write_shards_in_processes(
            tmp_path / "s",
            ids,
            members=partial(image_members, image_root=tmp_path),
            num_bytes=partial(image_num_bytes, image_root=tmp_path),
            kind="images",
            num_processes=1,
        )
    with pytest.raises(DatasetError, match=r"^13 clips are not in .*\('gone/00\.jpg', .*\.\.\.\)"):
        list(frame_records(map(to_id, GONE), folder=tmp_path))
    assert not list((tmp_path / "s").glob("*.tar"))


def test_stores_and_batches_tell_all_they_lack(tmp_path: Path) -> None:
    put_images(tmp_path, "here.jpg")
    images = image_records(["here_djpg"], image_root=tmp_path)
    write_shards(tmp_path / "images", images, kind="images")
    write_shards(tmp_path / "f", [("here", {"safetensors": feature_record(torch.zeros(2, 4))})], kind="features")
    pixels = PixelStore(tmp_path / "images", preprocessing="clip_336", num_rows=1)
    gone = [f"i{number}" for number in range(12)]
    ten = ", ".join(map(repr, gone[:10]))
    with pytest.raises(ShardError, match=rf"^12 images are not in .*/images \({ten}, \.\.\.\); write its shards with"):
        pixels.load(["here_djpg", *gone, *gone])
    store = FeatureStore(tmp_path / "f")
    with pytest.raises(ShardError, match=rf"^no features of 12 images \({ten}, \.\.\.\) in .*/f; extract them"):
        store.load(["here", *gone, *gone])
    samples = [Encoded(f"s{name}", (1, 2), (-100, 2), (name,)) for name in gone]
    with pytest.raises(
        ValueError, match=rf"sample 'si0' needs image 'i0', but .*, as it lacks 12 images \({ten}, \.\.\.\)"
    ):
        TrainingBatches(
            samples,
            store,
            seed=0,
            global_batch_size=2,
            micro_batch_size=2,
            rank=0,
            world_size=1,
            pad_token_id=0,
            feature_shape=(2, 4),
        )
