"""A warning of ours is one line of the terminal; a library's is printed as Python does."""

import io
import threading
import warnings

import pytest
from rich.console import Console

from pipelines.console.warning_lines import warning_lines


@pytest.fixture
def always(monkeypatch: pytest.MonkeyPatch) -> None:
    # pytest records warnings by replacing the very function.
    monkeypatch.setattr(warnings, "filters", [("always", None, Warning, None, 0)])


def _warn(text: str, *, filename: str) -> None:
    warnings.warn_explicit(text, UserWarning, filename, 7)


def test_ours_are_lines_without_secrets_and_others_go_their_way(always: None) -> None:
    out, others = io.StringIO(), []
    console = Console(file=out, width=40)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(warnings, "showwarning", lambda message, *rest: others.append(str(message)))
        before = warnings.showwarning
        with warning_lines(console):
            text = "the memory of [stage1] at s3://me:hunter22@bucket makes the loss worse by far and is a long line"
            thread = threading.Thread(target=_warn, args=(text,), kwargs={"filename": "/a/memvp_train/x.py"})
            thread.start()
            thread.join()
            _warn("a library's", filename="/site-packages/transformers/pipelines/x.py")
        assert warnings.showwarning is before
    assert out.getvalue() == f"warning: {text.replace('me:hunter22@', '***@')}\n"
    assert others == ["a library's"]
