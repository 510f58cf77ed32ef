"""Thousands of damaged and hostile files: a reader gives samples or one sentence of its own error, never anything else.

Seeded, so a failure names its case. Bytes are flipped, cut, doubled and interspersed with what parsers choke on; JSON
is also changed by value: another type, an escaping id, half a surrogate pair, an absurd number, deep nesting.
"""

import json
import tracemalloc
import zlib
from collections.abc import Callable, Iterator
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any

import pytest

from memvp_data.datasets.chats import read_chats
from memvp_data.datasets.gqa import read_gqa
from memvp_data.datasets.json_files import DatasetError
from memvp_data.datasets.questions import read_questions
from memvp_data.datasets.table import DATASETS
from memvp_data.samples import Sample, write_samples
from tests.data.datasets.official import WRITERS
from tests.data.datasets.put_files import put_json, put_lines

NUM_CASES = 200  # of each dataset: 3,200 in all
MAX_MESSAGE = 1000
TOKENS = (
    b'\0 \xff\xfe " \\ { } [ ] , : \n \t \r null true NaN Infinity 1e999 -1 "../../x" "\\ud800" 0x1 \xed\xa0\x80'.split(
        b" "
    )
)
VALUES: list[Any] = [
    None, True, False, -1, 0, 10**40, 1.5, 1e308, float("inf"), float("nan"), "", "x", "../../etc/passwd", "/x", "a\\b",
    "\ud800", "a\0b", "a\nb", ".", "<image>", "9" * 200, [], {}, [[]], ["x"], {"a": 1}, [None], [{"": None}],
    [{"from": "human"}], {"text": 3},
]  # fmt: skip


def damaged(content: bytes, rng: Random) -> bytes:
    start, length = rng.randrange(len(content) + 1), rng.choice([1, 1, 3, 20, 200])
    token = rng.choice(
        [*TOKENS, b"[" * 3000, b"9" * 6000, content[start : start + length], bytes([rng.randrange(256)])]
    )
    kind = rng.randrange(4)
    if kind == 0:
        return content[:start]
    return content[:start] + (b"" if kind == 1 else token) + content[start + (0 if kind == 2 else length) :]


def changed_value(content: str, rng: Random) -> bytes:
    """JSON, or JSON Lines, with one value exchanged, one field gone or one record doubled."""
    lines = [json.loads(line) for line in content.splitlines()] if "\n{" in content else [json.loads(content)]
    node, key = rng.choice(list(places(lines)))
    kind = rng.randrange(8)
    if kind == 0:
        del node[key]
    elif kind == 1 and isinstance(node, list):
        node.append(node[key])
    else:
        node[key] = rng.choice(VALUES)
    return "\n".join(json.dumps(line) for line in lines).encode()


def places(node: Any) -> Iterator[tuple[Any, Any]]:
    for key in list(node) if isinstance(node, dict) else range(len(node)):
        yield node, key
        if isinstance(node[key], dict | list):
            yield from places(node[key])


def hostile(content: bytes, rng: Random) -> bytes:
    if content.lstrip()[:1] in (b"{", b"[") and rng.random() < 0.6:
        return changed_value(content.decode(), rng)
    for _ in range(rng.choice([1, 1, 1, 4])):
        content = damaged(content, rng)
    return content


def only_its_own_error(read: Callable[[], Iterator[Sample]], *, case: str) -> list[Sample]:
    samples, message = [], ""
    try:
        samples.extend(read())
    except DatasetError as error:
        message = str(error)
    except Exception as error:
        raise AssertionError(f"{case}: {type(error).__name__}: {error}") from error
    assert "\n" not in message, case
    assert len(message) < MAX_MESSAGE, case
    assert message.encode() is not None, case
    return samples


def attack(name: str, files: list[Path], readers: list[Callable[[], Iterator[Sample]]]) -> None:
    """Damage one file at a time, read, put it back. What could be read must also fit into a table."""
    rng = Random(zlib.crc32(name.encode()))
    survived: list[Sample] = []
    for number, read in enumerate(islice(cycle(readers), NUM_CASES)):
        path = rng.choice(files)
        content = path.read_bytes()
        path.write_bytes(hostile(content, rng))
        survived += only_its_own_error(read, case=f"{name}, case {number}, {path.name}")
        path.write_bytes(content)
    assert survived
    write_samples(files[0].parent / "survived.parquet", survived)


@pytest.mark.parametrize("name", WRITERS)
def test_damaged_official_files(name: str, tmp_path: Path) -> None:
    WRITERS[name](tmp_path)
    dataset = DATASETS[name]
    splits = [split for split, item in dataset.splits.items() if all((tmp_path / file).exists() for file in item.files)]
    files = sorted(path for path in tmp_path.rglob("*") if path.suffix in (".json", ".jsonl", ".tsv", ".txt"))
    attack(name, files, [lambda split=split: dataset.read(tmp_path, split=split) for split in splits])


def test_damaged_files_of_ones_own(tmp_path: Path) -> None:
    said = [{"role": "user", "content": [{"type": "text", "text": "Who?"}]}, {"role": "assistant", "content": "Ann"}]
    put_json(tmp_path / "chats.json", [{"id": 1, "messages": said}, {"prompt": "Who?", "completion": "Ann"}])
    put_lines(tmp_path / "chats.jsonl", [{"conversations": said, "images": []}, {"messages": said}])
    rows = [{"id": "a", "question": "Who?", "answer": ["Ann"], "image": ""}, {"question": "Why?", "task": "t"}]
    put_json(tmp_path / "questions.json", rows)
    (tmp_path / "questions.csv").write_text('id,question,answer\n1,"Who, then?",Ann\n2,"two\nlines",\n')
    chats = [path for path in tmp_path.iterdir() if path.stem == "chats"]
    attack("chats", chats, [lambda path=path: read_chats(path, image_root=tmp_path) for path in chats])
    tables = [path for path in tmp_path.iterdir() if path.stem == "questions"]
    attack("questions", tables, [lambda path=path: read_questions(path, image_root=tmp_path) for path in tables])


def test_a_question_of_10_mb_costs_a_few_copies_of_itself(tmp_path: Path) -> None:
    record = {"question": "x" * 10_000_000, "imageId": "n1", "isBalanced": True, "answer": "no"}
    put_json(tmp_path / "testdev_balanced_questions.json", {"1": record})
    tracemalloc.start()
    with pytest.raises(DatasetError, match=r"10,000,000 characters, more than the 1,048,576 allowed; shorten it"):
        list(read_gqa(tmp_path, split="testdev", check_images=False))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 100_000_000  # the window doubles: at most 16 MB twice, its copies while it grows, and the value


def test_a_record_that_never_ends_is_given_up(tmp_path: Path) -> None:
    (tmp_path / "testdev_balanced_questions.json").write_text('{"1": {"question": "' + "x" * 60_000_000)
    tracemalloc.start()
    with pytest.raises(DatasetError, match=r"testdev_balanced_questions\.json, line 1, column 20: malformed JSON"):
        list(read_gqa(tmp_path, split="testdev", check_images=False))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 150_000_000
