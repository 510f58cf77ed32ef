"""Predictions of any number of questions as JSONL files: cut into shards, answered by one or many actors, resumed.

A shard is a run of consecutive samples. Its file appears whole, with a note of what it was made from; called again,
`answer` keeps what is whole and still right and makes the rest. The final file holds the shards in the samples' order,
so it is the same for any number of actors and any order in which they finish. Jobs that would give the same file, such
as text-only questions shown their own images or none, are answered once.
"""

import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from memvp_data.samples import Sample, read_image_ids, read_samples
from memvp_train.inference.answer_files import digest, is_whole, join_answers, write_answers
from memvp_train.inference.generate import answer_samples
from memvp_train.inference.image_memory import PredictError, Shown, check_images
from memvp_train.inference.loaded_model import LoadedJobs, stored_images
from memvp_train.inference.prediction_job import PredictionJob, job_from_dict
from memvp_train.launch.cores import all_cores

MapActors = Callable[..., list[Any]]


def map_in_process(
    make: Callable[[], Callable[[Any], Any]],
    items: Sequence[Any],
    *,
    num_actors: int = 1,
    on_done: Callable[[int], None] = lambda place: None,
) -> list[Any]:
    """One function from `make` for every item, here, one after the other; same call as launch.map_actors."""
    results = []
    with all_cores():
        fn = make()
        for place, item in enumerate(items):
            results.append(fn(item))
            on_done(place)
    return results


def answer(
    job: PredictionJob,
    out: Path | str,
    *,
    map_actors: MapActors = map_in_process,
    num_actors: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> Path:
    """Write {"question_id", "text", "prompt", "images"} for every sample, in their order; see `answer_all`."""
    out = Path(out)
    answer_all({out: job}, map_actors=map_actors, num_actors=num_actors, progress=progress)
    return out


def answer_all(
    jobs: Mapping[Path, PredictionJob],
    *,
    map_actors: MapActors = map_in_process,
    num_actors: int = 1,
    progress: Callable[[int], None] = lambda done: None,
) -> None:
    """Write the answers of each job to its path, all by the same actors, each of which has one model at a time.

    Jobs of the same model should stand side by side. `progress` gets the number of answers so far over all jobs,
    those of an earlier call included. What cannot be answered is refused before anything is loaded or written.
    """
    plans = [_Plan.of(job.absolute(), out=Path(out).resolve()) for out, job in jobs.items()]
    for plan in plans:
        plan.check()
    answering = _distinct(plans)
    times = Counter(plan.made_from for plan in plans if not plan.is_finished())
    open_shards = [(plan, shard) for plan in answering.values() for shard in plan.open_shards()]
    counts = [times[plan.made_from] * shard.num_samples for plan, shard in open_shards]
    done = sum(plan.num_samples for plan in plans) - sum(counts)
    progress(done)

    def on_done(place: int) -> None:
        nonlocal done
        done += counts[place]
        progress(done)

    if open_shards:
        items = [shard.item for _, shard in open_shards]
        map_actors(ShardAnswerer, items, num_actors=min(num_actors, len(items)), on_done=on_done)
    for plan in sorted(plans, key=lambda plan: plan is not answering[plan.made_from]):
        plan.finish(answered=answering[plan.made_from].out)


class ShardAnswerer:
    """What an actor does: shard after shard, plain values in and a file out, with the model it has loaded already."""

    def __init__(self) -> None:
        self.loaded = LoadedJobs()
        """Model and images of the last shard."""

    def __call__(self, item: dict[str, Any]) -> None:
        """Answer the samples of one shard and write its file."""
        job, loaded = job_from_dict(item["job"]), self.loaded
        samples = list(read_samples(job.samples, start=item["start"], stop=item["stop"]))
        shown = loaded.shown(job, [sample.image_ids for sample in samples])
        model, tokenizer = loaded.model(job)
        texts = answer_samples(model, tokenizer, samples, shown, source=loaded.source(job), settings=job.settings)
        rows = [_row(*each) for each in zip(samples, texts, shown, strict=True)]
        write_answers(Path(item["path"]), rows, made_from=item["made_from"])


def _row(sample: Sample, text: str, shown: Shown) -> dict[str, Any]:
    question = next((turn.text for turn in reversed(sample.turns) if turn.role == "user"), "")
    row = {"question_id": sample.id, "text": text, "prompt": question, "images": list(shown)}
    # What the file called it, where that name came twice.
    name = sample.fields.get("question_id")
    return row if name is None else {**row, "file_question_id": name}


@dataclass(frozen=True)
class _Shard:
    path: Path
    made_from: str
    item: dict[str, Any]
    """What an actor is given."""

    @property
    def num_samples(self) -> int:
        return self.item["stop"] - self.item["start"]


@dataclass(frozen=True)
class _Plan:
    """One job, its file and its shards."""

    job: PredictionJob
    out: Path
    made_from: str
    images: list[Shown]
    """Of each sample."""

    @classmethod
    def of(cls, job: PredictionJob, *, out: Path) -> "_Plan":
        images = list(read_image_ids(job.samples))
        if not images:
            raise PredictError(f"{job.samples} holds no questions; write a samples table with at least one")
        if not any(images):
            job = replace(job, image="none")
        return cls(job, out, job.made_from(), images)

    @property
    def num_samples(self) -> int:
        return len(self.images)

    @property
    def folder(self) -> Path:
        return self.out.with_name(f"{self.out.name}.shards")

    def check(self) -> None:
        """Refuse images without features."""
        if self.job.image != "none":
            # The images of other samples are images of these samples too.
            check_images(self.images, source=stored_images(self.job))

    def shards(self) -> list[_Shard]:
        job = asdict(self.job)
        return [self._shard(*each, job=job) for each in cut(self.images, size=self.job.samples_per_shard)]

    def _shard(self, start: int, stop: int, *, job: dict[str, Any]) -> _Shard:
        path = self.folder / f"{start:09d}-{stop:09d}.jsonl"
        made_from = digest({"job": self.made_from, "start": start, "stop": stop})
        item = {"job": job, "start": start, "stop": stop, "path": str(path), "made_from": made_from}
        return _Shard(path, made_from, item)

    def is_finished(self) -> bool:
        """Whether its file is there and right."""
        return is_whole(self.out, made_from=self.made_from)

    def open_shards(self) -> list[_Shard]:
        """Shards that must be answered."""
        if self.is_finished():
            return []
        return [shard for shard in self.shards() if not is_whole(shard.path, made_from=shard.made_from)]

    def finish(self, *, answered: Path) -> None:
        """Join the shards, or copy the `answered` file of the same job, unless that was done before; clear up."""
        if answered != self.out and not self.is_finished():
            join_answers(self.out, [answered], made_from=self.made_from)
        if not self.is_finished():
            shards = self.shards()
            missing = [shard.path.name for shard in shards if not is_whole(shard.path, made_from=shard.made_from)]
            if missing:
                raise PredictError(f"{len(missing)} shards in {self.folder} were not written whole; run it again")
            join_answers(self.out, [shard.path for shard in shards], made_from=self.made_from)
        shutil.rmtree(self.folder, ignore_errors=True)


def _distinct(plans: Iterable[_Plan]) -> dict[str, _Plan]:
    """By what they are made from, the plan that is answered for all that are alike: a finished one if there is one."""
    found: dict[str, _Plan] = {}
    for plan in plans:
        known = found.get(plan.made_from)
        if known is None or (plan.is_finished() and not known.is_finished()):
            found[plan.made_from] = plan
    return found


def cut(images: Sequence[Shown], *, size: int) -> Iterator[tuple[int, int]]:
    """(start, stop) of every shard: at least `size` samples but in the last, up to twice as many to end with an image.

    So the questions of an image that stand together are answered together, and it is encoded once.
    """
    start = 0
    for place in range(1, len(images)):
        num_samples = place - start
        is_same_image = bool(images[place]) and images[place] == images[place - 1]
        if num_samples >= 2 * size or (num_samples >= size and not is_same_image):
            yield start, place
            start = place
    if images:
        yield start, len(images)
