"""Which errors become a sentence and which keep their traceback."""

import errno
import json

import pytest

from memvp_data.images import ImageError
from memvp_data.samples import to_id
from pipelines.console.errors import user_sentence


def caught(function: object, *arguments: object) -> BaseException:
    with pytest.raises(Exception) as info:  # noqa: PT011
        function(*arguments)  # type: ignore[operator]
    return info.value


def test_our_value_error_is_a_sentence() -> None:
    assert user_sentence(caught(to_id, "../x")) == str(caught(to_id, "../x"))


def test_value_error_from_inside_a_library_is_a_bug() -> None:
    assert user_sentence(caught(json.loads, "{")) is None


def test_other_errors_are_bugs() -> None:
    assert user_sentence(KeyError("x")) is None


def test_error_wrapped_by_a_library_is_still_ours() -> None:
    wrapped = RuntimeError("task failed")
    wrapped.__cause__ = ImageError("image 'a' is damaged")
    assert user_sentence(wrapped) == "image 'a' is damaged"


def test_sentence_is_one_line() -> None:
    assert user_sentence(ImageError("two\n  lines")) == "two lines"


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EDQUOT])
def test_a_full_disk_says_where_and_what_to_do(number: int) -> None:
    wrapped = RuntimeError("task failed")
    wrapped.__cause__ = OSError(number, "No space left on device", "/x/y")
    assert user_sentence(wrapped) == "no room at /x/y; free some and run the same command again"
    assert user_sentence(OSError(number, "full")) == "no room at the disk; free some and run the same command again"
