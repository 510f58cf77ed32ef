"""Which few questions are shown of many: every task in turn, and as many images as possible."""

from collections.abc import Sequence

from memvp_data.samples import Sample


def choose(samples: Sequence[Sample], *, count: int) -> list[Sample]:
    """`count` questions, tasks in turn, no image twice while there are others."""
    by_task: dict[str, list[Sample]] = {}
    for sample in samples:
        by_task.setdefault(sample.task, []).append(sample)
    chosen: list[Sample] = []
    while len(chosen) < min(count, len(samples)):
        for task in sorted(by_task):
            seen = {sample.image_ids for sample in chosen}
            fresh = [sample for sample in by_task[task] if sample.image_ids not in seen] or by_task[task]
            if fresh and len(chosen) < count:
                chosen.append(fresh[0])
                by_task[task].remove(fresh[0])
    return chosen
