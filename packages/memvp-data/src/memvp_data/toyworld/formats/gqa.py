"""The toy world as GQA: balanced questions of every structural type, answers hidden in test and challenge.

A question to "choose" lists its options behind the question ("what colour is the star ? red ; blue"), a "logical" one
asks whether two things are both there ("is there a red star ; is there a blue cross ?").
"""

from collections.abc import Callable
from random import Random

from memvp_data.datasets.gqa import question_file
from memvp_data.toyworld.formats.album import Album, Record
from memvp_data.toyworld.formats.questions import YES_NO, exactly, options, plain
from memvp_data.toyworld.language import Question
from memvp_data.toyworld.scenes import Scene

# Split: form of its image ids. Those of train and val are numbers of Visual Genome.
IMAGE_IDS = {"train": "24{:05d}", "val": "25{:05d}", "testdev": "n1{:05d}", "test": "n2{:05d}", "challenge": "n3{:05d}"}
_HIDDEN = ("test", "challenge")


def write_gqa(album: Album) -> None:
    """One question of each structural type about every image."""
    for number, (split, form) in enumerate(IMAGE_IDS.items()):
        records: dict[str, Record] = {}
        for i in range(album.config.num_images if split == "train" else album.config.num_test_images):
            image = form.format(i)
            scene = album.picture(f"images/{image}.jpg")
            for structural, make in STRUCTURAL.items():
                name = f"{number + 1}{len(records):07d}"
                record = _record(make(album.rng, scene), structural, name=name, image=image)
                records[name] = _without_answer(record) if split in _HIDDEN else record
        album.json(question_file(split), records)


def _query(rng: Random, scene: Scene) -> Question:
    return exactly(rng, scene, tasks=("colour", "shape"))


def _verify(rng: Random, scene: Scene) -> Question:
    return exactly(rng, scene, tasks=("exist", "spatial"))


def _choose(rng: Random, scene: Scene) -> Question:
    question = _query(rng, scene)
    listed = " ; ".join(options(rng, question, most=2))
    return Question(question.task, f"{question.text} {listed}", question.answer, question.about)


def _compare(rng: Random, scene: Scene) -> Question:
    """Falls back to left and right where all things are alike in size."""
    question = plain(rng, scene, task="compare")
    return question if question.task == "compare" else exactly(rng, scene, tasks=("spatial",))


def _logical(rng: Random, scene: Scene) -> Question:
    """As often yes as no, though two drawn questions are rarely both answered by yes."""
    answer = rng.choice(YES_NO)
    while True:
        first, second = (exactly(rng, scene, tasks=("exist",)) for _ in range(2))
        both = "yes" if first.answer == second.answer == "yes" else "no"
        if both == answer and first.text != second.text:
            return Question("exist", f"{first.text.removesuffix(' ?')} ; {second.text}", answer)


STRUCTURAL: dict[str, Callable[[Random, Scene], Question]] = {
    "query": _query,
    "verify": _verify,
    "choose": _choose,
    "compare": _compare,
    "logical": _logical,
}
_SEMANTIC = {"colour": "attr", "shape": "cat", "exist": "obj", "spatial": "rel", "compare": "attr"}


def _record(question: Question, structural: str, *, name: str, image: str) -> Record:
    steps = [{"operation": "select", "dependencies": [], "argument": f"{t.shape} ({t.place})"} for t in question.about]
    steps.append({"operation": structural, "dependencies": list(range(len(steps))), "argument": question.task})
    return {
        "semantic": steps,
        "entailed": [],
        "equivalent": [name],
        "question": question.text,
        "imageId": image,
        "isBalanced": True,
        "groups": {
            "global": question.task if structural == "query" else None,
            "local": f"{question.task}-{structural}",
        },
        "answer": question.answer,
        "semanticStr": "->".join(f"{s['operation']}: {s['argument']} {s['dependencies']}" for s in steps),
        "annotations": {"answer": {}, "question": {}, "fullAnswer": {}},
        "types": {"detailed": question.task, "semantic": _SEMANTIC[question.task], "structural": structural},
        "fullAnswer": f"It is {question.answer}.",
    }


def _without_answer(record: Record) -> Record:
    return {name: record[name] for name in ("imageId", "question", "isBalanced")}
