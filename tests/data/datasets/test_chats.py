"""Conversations in LLaVA's, ShareGPT's and TRL's shapes become the same samples."""

import json
from pathlib import Path
from typing import Any

import pytest

from memvp_data.datasets.chats import read_chats
from memvp_data.datasets.json_files import DatasetError
from memvp_data.samples import Sample, Turn

TURNS = (Turn("user", "What?"), Turn("assistant", "A cat."))


def chats(root: Path, *records: Any, name: str = "chats.json") -> list[Sample]:
    lines = "\n".join(map(json.dumps, records))
    (root / name).write_text(lines if name.endswith("l") else json.dumps(records))
    for image in ("a.jpg", "b.jpg"):
        (root / image).write_bytes(b"any")
    return list(read_chats(root / name, image_root=root))


@pytest.mark.parametrize(
    "said",
    [
        {"conversations": [{"from": "human", "value": "<image>\nWhat?"}, {"from": "gpt", "value": "A cat."}]},
        {"conversations": [{"from": "user", "value": "What?"}, {"from": "chatgpt", "value": "A cat."}], "model": "x"},
        {"messages": [{"role": "user", "content": "What?\n<image>"}, {"role": "assistant", "content": "A cat."}]},
        {
            "messages": [
                {"role": "user", "content": [{"type": "image"}, {"type": "text", "text": "What?"}]},
                {"role": "assistant", "content": [{"type": "text", "text": "A cat."}]},
            ]
        },
        {"prompt": "What?", "completion": "A cat."},
        {"prompt": [{"role": "user", "content": "What?"}], "completion": [{"role": "assistant", "content": "A cat."}]},
    ],
)
@pytest.mark.parametrize("image", [{"image": "a.jpg"}, {"images": ["a.jpg"]}, {"images": [{"path": "a.jpg"}]}])
@pytest.mark.parametrize("name", ["chats.json", "chats.jsonl"])
def test_all_shapes_are_one_sample(tmp_path: Path, said: dict, image: dict, name: str) -> None:
    assert chats(tmp_path, said | image, name=name) == [Sample("0", ("a_djpg",), TURNS, source=name)]


def test_text_only_several_images_systems_and_repeated_ids(tmp_path: Path) -> None:
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "<image>?"}]
    turns.append({"role": "assistant", "content": "A tag."})
    first, second, third = chats(
        tmp_path,
        {"id": "x", "messages": [turns[0], {"role": "user", "content": "?"}, turns[2]], "images": None},
        {"id": "x", "messages": turns[1:], "images": ["a.jpg", "b.jpg"]},
        {"messages": [{"role": "assistant", "content": "Hello."}, {"role": "user", "content": "?"}, turns[2]]},
    )
    assert [turn.text for turn in first.turns] == ["Be brief.", "?", "A tag."]
    assert (second.id, second.image_ids, second.turns[0].text) == ("x_x232", ("a_djpg", "b_djpg"), "?")
    assert (third.id, len(third.turns)) == ("2", 2)


@pytest.mark.parametrize(
    "part",
    [
        {"type": "image", "image": "a.jpg"},
        {"type": "image", "path": "a.jpg"},
        {"type": "image", "url": "file://a.jpg"},
        {"type": "image_url", "image_url": "a.jpg"},
        {"type": "image_url", "image_url": {"url": "a.jpg"}},
    ],
)
def test_a_part_may_name_its_image(tmp_path: Path, part: dict) -> None:
    said = [part, {"type": "text", "text": "What?"}]
    messages = [{"role": "user", "content": said}, {"role": "assistant", "content": "A cat."}]
    assert chats(tmp_path, {"messages": messages}) == [Sample("0", ("a_djpg",), TURNS, source="chats.json")]


@pytest.mark.parametrize("name", ["c.json", "c.jsonl"])
def test_a_file_of_nothing_is_refused(tmp_path: Path, name: str) -> None:
    with pytest.raises(DatasetError, match=rf"{name} holds no records"):
        chats(tmp_path, name=name)


def test_text_alone_may_speak_of_files(tmp_path: Path) -> None:
    first, second = chats(
        tmp_path,
        {"prompt": "Which ends in .png?", "completion": "b.png"},
        {"prompt": "a", "completion": "b", "image": None, "origin": "scan.jpg"},
    )
    assert (first.image_ids, second.image_ids) == ((), ())


def test_another_kind_of_file_is_refused(tmp_path: Path) -> None:
    with pytest.raises(DatasetError, match=r"chats\.txt: expected a file of the kinds \.json, \.jsonl, \.ndjson"):
        chats(tmp_path, name="chats.txt")


@pytest.mark.parametrize(
    ("record", "message"),
    [
        ({"text": "a"}, r"expected \"conversations\", \"messages\" or \"prompt\" and .*got the fields \['text'\]"),
        ({"messages": "hi"}, r"\"messages\" must be a list of turns, got 'hi'"),
        ({"messages": []}, r"\"messages\" must be a list of turns"),
        ({"messages": ["hi"]}, r"a turn must be an object, got 'hi'"),
        ({"messages": [{"role": "tool", "content": "x"}]}, r"a turn must be from one of human, .* got 'tool'"),
        ({"messages": [{"role": ["user"], "content": "x"}]}, r"a turn must be from one of"),
        ({"messages": [{"role": "user", "content": 3}]}, r"what is said must be a string, got 3"),
        ({"messages": [{"role": "user", "content": [{"type": "video"}]}]}, r"must be of type \"text\" or \"image\""),
        ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, r"\"text\" must be a string"),
        ({"messages": [{"role": "user", "content": "x"}]}, "nothing to learn"),
        ({"prompt": "a", "completion": "b", "image": "../x"}, "could leave its folder"),
        ({"prompt": "a", "completion": "b", "image": "no.jpg"}, r"'no.jpg' is not in"),
        ({"prompt": "a", "completion": "b", "images": [{"bytes": "x"}]}, "an image's path must be a string, got None"),
        ({"prompt": "a", "completion": "b", "image": "https://x.org/a.jpg"}, "is no file below the image folder"),
        ({"prompt": "<image> a", "completion": "b"}, 'it says <image> and names no image; give "image" its path'),
        (
            {"prompt": "a", "completion": "b", "img": "a.jpg"},
            "it has no 'image', but 'img' is 'a.jpg'; call that",
        ),
        (
            {
                "prompt": [{"role": "user", "content": [{"type": "image"}, {"type": "image"}]}],
                "completion": "b",
                "image": "a.jpg",
            },
            "it has 2 parts of images and names 1 images",
        ),
        (
            {"prompt": [{"role": "user", "content": [{"type": "image"}]}], "completion": "b"},
            "it has 1 parts of images and names 0 images",
        ),
        ({"prompt": "a", "completion": "b", "id": []}, r"\"id\" must be a string or an integer"),
        ({"prompt": "a", "completion": "x" * 2_000_000}, "2,000,000 characters"),
    ],
)
@pytest.mark.parametrize(("name", "place"), [("c.json", "c.json, record 1: "), ("c.jsonl", "c.jsonl, line 2: ")])
def test_a_bad_record_is_named(tmp_path: Path, record: dict, message: str, name: str, place: str) -> None:
    with pytest.raises(DatasetError, match=message) as caught:
        chats(tmp_path, {"prompt": "a", "completion": "b"}, record, name=name)
    assert str(caught.value).startswith(place)
