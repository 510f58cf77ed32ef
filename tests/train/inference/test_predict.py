"""The file of a prediction job: the same for any actors and batches, continued where it was broken off, never stale."""

import json
import os
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import pytest
import torch

from memvp_core import MemVPConfig, get_memvp_model
from memvp_data.datasets.llava import read_questions
from memvp_data.features import feature_record
from memvp_data.samples import Sample, Turn, read_samples, write_samples
from memvp_data.shards import write_shards
from memvp_train.inference.generate import AnswerSettings
from memvp_train.inference.image_memory import PredictError
from memvp_train.inference.predict import ShardAnswerer, answer, answer_all, cut, map_in_process
from memvp_train.inference.prediction_job import PredictionJob, job_from_dict
from memvp_train.models.language import build_language_model

SETTINGS = AnswerSettings(template="toyworld", max_new_tokens=3)


@pytest.fixture(scope="module")
def job(tiny: Any, tmp_path_factory: pytest.TempPathFactory) -> PredictionJob:
    """An adapter with large random positions, so that images change answers without training; some samples show two."""
    folder = tmp_path_factory.mktemp("predict")
    torch.manual_seed(3)
    model = get_memvp_model(build_language_model(tiny.language), MemVPConfig.from_dict({**tiny.memvp, "num_slots": 6}))
    for parameter in model.trainable_state().values():
        torch.nn.init.normal_(parameter, std=0.7)
    model.save_pretrained(folder / "adapter")
    samples = list(read_samples(tiny.samples))
    for place in range(0, len(samples), 6):
        samples[place] = replace(samples[place], image_ids=(f"image-{place:02d}", "image-01"))
    write_samples(folder / "samples.parquet", samples)
    return PredictionJob(
        language=tiny.language,
        adapter=str(folder / "adapter"),
        samples=str(folder / "samples.parquet"),
        settings=SETTINGS,
        features=str(tiny.features),
        samples_per_shard=5,
    )


def in_turns(seed: int) -> Callable[..., list[Any]]:
    """Several actors in this process; shards go to them, and finish, in an order drawn from a seed."""

    def run(
        make: Callable[[], Callable[[Any], Any]],
        items: Sequence[Any],
        *,
        num_actors: int,
        on_done: Callable[[int], None],
    ) -> list[Any]:
        draw, actors = random.Random(seed), [make() for _ in range(num_actors)]
        for place in draw.sample(range(len(items)), len(items)):
            # What goes to another process is plain.
            draw.choice(actors)(json.loads(json.dumps(items[place])))
            on_done(place)
        return [None] * len(items)

    return run


def rows_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


@pytest.fixture(scope="module")
def whole(job: PredictionJob, tmp_path_factory: pytest.TempPathFactory) -> bytes:
    """The file by one actor, one question at a time."""
    settings = replace(SETTINGS, batch_size=1)
    return answer(replace(job, settings=settings), tmp_path_factory.mktemp("whole") / "out.jsonl").read_bytes()


@pytest.mark.parametrize(("batch_size", "num_actors", "samples_per_shard"), [(8, 2, 5), (64, 3, 2), (64, 1, 1000)])
def test_file_is_the_same_for_any_actors_and_batches(
    job: PredictionJob, whole: bytes, tmp_path: Path, batch_size: int, num_actors: int, samples_per_shard: int
) -> None:
    settings = replace(SETTINGS, batch_size=batch_size)
    same = replace(job, settings=settings, samples_per_shard=samples_per_shard)
    out = answer(same, tmp_path / "out.jsonl", map_actors=in_turns(batch_size), num_actors=num_actors)
    assert out.read_bytes() == whole
    assert sorted(path.name for path in tmp_path.iterdir()) == ["out.jsonl", "out.jsonl.made-from.json"]


def test_rows_stand_in_the_order_of_the_samples(job: PredictionJob, whole: bytes) -> None:
    rows = [json.loads(line) for line in whole.splitlines()]
    samples = list(read_samples(job.samples))
    assert [row["question_id"] for row in rows] == [sample.id for sample in samples]
    assert [tuple(row["images"]) for row in rows] == [sample.image_ids for sample in samples]
    assert {row["prompt"] for row in rows} == {"what colour ?", "is it red ?"}
    assert len({row["text"] for row in rows}) > 3


def test_ids_that_were_made_unique_or_short_are_given_back(job: PredictionJob, tmp_path: Path) -> None:
    long = "/".join(["имя"] * 30)
    asked = [("twice", "what colour ?"), ("twice", "is it red ?"), ("once", "what ?"), (long, "what is it ?")]
    lines = [json.dumps({"question_id": name, "text": text}) for name, text in asked]
    (tmp_path / "questions.jsonl").write_text("\n".join(lines))
    write_samples(tmp_path / "asked.parquet", read_questions(tmp_path / "questions.jsonl"))
    blind = replace(job, samples=str(tmp_path / "asked.parquet"), features=None)
    rows = [json.loads(line) for line in answer(blind, tmp_path / "out.jsonl").read_text().splitlines()]
    assert [row["prompt"] for row in rows] == [text for _, text in asked]
    assert [row["question_id"] for row in rows[:3]] == ["twice", "twice_x232", "once"]
    assert [row.get("file_question_id") for row in rows] == [None, "twice", None, long]


def test_modes_show_own_other_or_no_image(job: PredictionJob, whole: bytes, tmp_path: Path) -> None:
    outs = {tmp_path / mode: replace(job, image=mode) for mode in ("none", "other")}
    seen: list[int] = []
    answer_all(outs, map_actors=in_turns(1), num_actors=2, progress=seen.append)
    own, (none, other) = [json.loads(line) for line in whole.splitlines()], map(rows_of, outs)
    assert (seen[0], seen[-1]) == (0, 48)
    assert seen == sorted(seen)
    assert all(row["images"] == [] for row in none)
    for one, two in zip(own, other, strict=True):
        assert len(one["images"]) == len(two["images"])
        assert not any(a == b for a, b in zip(one["images"], two["images"], strict=True))
    texts = [[row["text"] for row in rows] for rows in (own, none, other)]
    assert texts[0] != texts[1]
    assert texts[0] != texts[2]


def test_language_model_alone_answers_without_images(job: PredictionJob, tmp_path: Path) -> None:
    alone = replace(job, adapter=None, features=None, image="none")
    rows = rows_of(answer(alone, tmp_path / "out"))
    assert len(rows) == 24
    assert all(row["images"] == [] for row in rows)


def test_jobs_with_the_same_answers_are_answered_once(job: PredictionJob, tmp_path: Path) -> None:
    write_samples(
        tmp_path / "text.parquet", [replace(sample, image_ids=()) for sample in list(read_samples(job.samples))[:12]]
    )
    text = replace(job, samples=str(tmp_path / "text.parquet"))
    outs = {tmp_path / mode: replace(text, image=mode) for mode in ("own", "none", "other")}
    alone = tmp_path / "alone"
    given: list[Any] = []

    def note(make: Any, items: Sequence[Any], **settings: Any) -> list[Any]:
        given.extend(items)
        return map_in_process(make, items, **settings)

    seen: list[int] = []
    answer_all({**outs, alone: replace(text, adapter=None, image="none")}, map_actors=note, progress=seen.append)
    assert [item["start"] for item in given] == [0, 5, 10] * 2
    assert seen == [0, 15, 30, 36, 41, 46, 48]
    assert len({path.read_bytes() for path in outs}) == 1
    assert alone.is_file()
    # One that is gone is copied from one that is there.
    (tmp_path / "own").unlink()
    answer_all(outs, map_actors=_refused, progress=seen.append)
    assert (tmp_path / "own").read_bytes() == (tmp_path / "none").read_bytes()
    assert seen[-1] == 36


class Broken(ShardAnswerer):
    """Stops in the middle, once its shard is written or before."""

    num_done = 0

    def __call__(self, item: dict[str, Any]) -> None:
        if Broken.num_done == 2:
            raise KeyboardInterrupt
        super().__call__(item)
        Broken.num_done += 1


def broken_off(make: Any, items: Sequence[Any], **settings: Any) -> list[Any]:
    Broken.num_done = 0
    return map_in_process(Broken, items, **settings)


def test_what_was_broken_off_is_continued(job: PredictionJob, whole: bytes, tmp_path: Path) -> None:
    out, seen = tmp_path / "out.jsonl", list[int]()
    with pytest.raises(KeyboardInterrupt):
        answer(job, out, map_actors=broken_off, progress=seen.append)
    done = {path: path.stat() for path in out.with_name("out.jsonl.shards").glob("*.jsonl")}
    assert len(done) == 2
    assert not out.exists()
    assert seen == [0, 5, 10]
    given: list[Any] = []

    def note(make: Any, items: Sequence[Any], **settings: Any) -> list[Any]:
        given.extend(items)
        assert all((path.stat().st_ino, path.stat().st_mtime_ns) == (was.st_ino, was.st_mtime_ns)
                   for path, was in done.items())  # fmt: skip
        return map_in_process(make, items, **settings)

    seen.clear()
    # Another batch size goes on where the first one ran out of memory.
    answer(replace(job, settings=replace(SETTINGS, batch_size=3)), out, map_actors=note, progress=seen.append)
    assert out.read_bytes() == whole
    assert [item["start"] for item in given] == [10, 15, 20]
    assert seen == [10, 15, 20, 24]


def _damage(path: Path, how: str) -> None:
    if how == "changed":
        path.write_bytes(path.read_bytes().replace(b"question", b"Question"))
    elif how == "cut":
        os.truncate(path, 10)
    else:
        path.unlink()


@pytest.mark.parametrize("how", ["changed", "cut", "gone"])
def test_damaged_shard_is_made_again(job: PredictionJob, whole: bytes, tmp_path: Path, how: str) -> None:
    out = tmp_path / "out.jsonl"
    with pytest.raises(KeyboardInterrupt):
        answer(job, out, map_actors=broken_off)
    _damage(sorted(out.with_name("out.jsonl.shards").glob("*.jsonl"))[1], how)
    assert answer(job, out).read_bytes() == whole
    _damage(out, how)
    assert answer(job, out).read_bytes() == whole


def _refused(make: Any, items: Sequence[Any], **settings: Any) -> list[Any]:
    raise AssertionError("there was nothing to answer")


def test_finished_file_is_kept_until_something_it_was_made_from_changes(
    tiny: Any, job: PredictionJob, tmp_path: Path
) -> None:
    adapter, samples, features = tmp_path / "adapter", tmp_path / "samples.parquet", tmp_path / "features"
    shutil.copytree(str(job.adapter), adapter)
    shutil.copyfile(job.samples, samples)
    shutil.copytree(str(job.features), features)
    own = replace(job, adapter=str(adapter), samples=str(samples), features=str(features))
    out = answer(own, tmp_path / "out.jsonl")
    before, seen = out.stat(), list[int]()
    answer(replace(own, samples_per_shard=9), out, map_actors=_refused, progress=seen.append)
    assert seen == [24]
    assert out.stat().st_ino == before.st_ino
    changes: list[Callable[[], Any]] = [
        lambda: write_samples(samples, list(read_samples(job.samples))[:-1]),
        lambda: (adapter / "adapter_config.json").write_text((adapter / "adapter_config.json").read_text() + " "),
        lambda: _other_features(tiny, features),
    ]
    for change in changes:
        change()
        with pytest.raises(AssertionError, match="nothing to answer"):
            answer(own, out, map_actors=_refused)
        answer(own, out)
    for other in ({"max_new_tokens": 2}, {"num_beams": 2}, {"cue": "it is"}):
        with pytest.raises(AssertionError, match="nothing to answer"):
            answer(replace(own, settings=replace(SETTINGS, **other)), out, map_actors=_refused)


def _other_features(tiny: Any, folder: Path) -> None:
    shutil.rmtree(folder)
    records = ((f"image-{number:02d}", {"safetensors": feature_record(torch.ones(3, 8))}) for number in range(24))
    write_shards(folder, records, kind="features")


def test_shards_that_were_not_written_are_told(job: PredictionJob, tmp_path: Path) -> None:
    with pytest.raises(PredictError, match=r"5 shards in .*out\.jsonl\.shards were not written whole; run it again"):
        answer(job, tmp_path / "out.jsonl", map_actors=lambda make, items, **_: [None] * len(items))
    assert not (tmp_path / "out.jsonl").exists()


@pytest.mark.parametrize(
    ("images", "size", "expected"),
    [
        ("aabbcc", 2, [(0, 2), (2, 4), (4, 6)]),
        ("aaabbb", 2, [(0, 3), (3, 6)]),
        ("aaaaaaa", 2, [(0, 4), (4, 7)]),
        ("-----", 2, [(0, 2), (2, 4), (4, 5)]),
        ("a", 9, [(0, 1)]),
        ("", 9, []),
    ],
)
def test_shards_end_with_an_image(images: str, size: int, expected: list[tuple[int, int]]) -> None:
    shown = [() if name == "-" else (name,) for name in images]
    assert list(cut(shown, size=size)) == expected


def test_job_survives_json(job: PredictionJob) -> None:
    assert job_from_dict(json.loads(json.dumps(asdict(job)))) == job


def test_what_cannot_be_answered_is_refused_before_anything_is_written(job: PredictionJob, tmp_path: Path) -> None:
    write_samples(tmp_path / "one.parquet", [Sample("a", ("elsewhere",), (Turn("user", "what colour ?"),))])
    write_samples(tmp_path / "none.parquet", [])
    with pytest.raises(PredictError, match="1 images have no features, first 'elsewhere'"):
        answer(replace(job, samples=str(tmp_path / "one.parquet")), tmp_path / "out", map_actors=_refused)
    with pytest.raises(PredictError, match=r"none\.parquet holds no questions"):
        answer(replace(job, samples=str(tmp_path / "none.parquet")), tmp_path / "out", map_actors=_refused)
    with pytest.raises(PredictError, match="own, none or other, got 'another'"):
        replace(job, image="another")  # type: ignore[arg-type]
    with pytest.raises(PredictError, match="without an adapter no image can be shown, but image is 'own'"):
        replace(job, adapter=None)
    with pytest.raises(PredictError, match="give features, or images together with vision"):
        replace(job, images="somewhere")
    with pytest.raises(PredictError, match="samples_per_shard must be at least 1, got 0"):
        replace(job, samples_per_shard=0)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["none.parquet", "one.parquet"]
