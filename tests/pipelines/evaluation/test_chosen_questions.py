"""Which questions get onto the picture page."""

from memvp_data.samples import Sample, Turn
from pipelines.evaluation.chosen_questions import choose


def question(number: int, *, task: str, image: str) -> Sample:
    return Sample(id=f"q{number}", image_ids=(image,), turns=(Turn("user", "?"),), task=task)


def test_tasks_take_turns_and_images_do_not_repeat() -> None:
    samples = [question(n, task=task, image=f"i{n // 2}") for n, task in enumerate(["a", "b"] * 4)]
    chosen = choose(samples, count=4)
    assert [sample.task for sample in chosen] == ["a", "b", "a", "b"]
    assert len({sample.image_ids for sample in chosen}) == 4


def test_no_more_than_there_are() -> None:
    samples = [question(0, task="a", image="i"), question(1, task="a", image="i")]
    assert choose(samples, count=5) == samples
    assert choose(samples, count=0) == []
    assert choose([], count=3) == []
