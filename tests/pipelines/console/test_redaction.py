"""Secrets are redacted out, and what only looks a little like one is left as it is."""

from collections.abc import Iterator, Mapping
from types import SimpleNamespace

import pytest

from pipelines.console.redaction import is_secret_name, redacted, redacted_settings


@pytest.mark.parametrize(
    "name",
    [
        "token", "HF_TOKEN", "language.overrides.token", "MLFLOW_TRACKING_PASSWORD", "AWS_SECRET_ACCESS_KEY", "api_key",
        "apikey", "OPENAI_API_KEY", "db.passwd", "client-secret", "GOOGLE_APPLICATION_CREDENTIALS", "AZURE_ACCOUNT_KEY",
    ],
)  # fmt: skip
def test_secret_names(name: str) -> None:
    assert is_secret_name(name)


@pytest.mark.parametrize(
    "name",
    ["evaluate.max_new_tokens", "stage2.token_budget", "vision.tokens", "packed_tokens", "tokenizer", "key", "name",
     "stage1.learning_rate", "memvp.share_position_embedding", "secretary"],
)  # fmt: skip
def test_settings_that_are_no_secrets(name: str) -> None:
    assert not is_secret_name(name)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("https://ann:s3cret@host:5000/x", "https://***@host:5000/x"),
        ("postgresql+psycopg2://u:p@db/mlflow", "postgresql+psycopg2://***@db/mlflow"),
        ("https://token-alone@host", "https://***@host"),
        ("s3://bucket/x?X-Amz-Signature=abc&n=1", "s3://bucket/x?X-Amz-Signature=***&n=1"),
        ("abfs://c/x?sv=1&sig=a%2Fb", "abfs://c/x?sv=1&sig=***"),
        ("python x.py --hub.token=hf_abc --a=1", "python x.py --hub.token=*** --a=1"),
        ("python x.py --hub.token hf_abc --a 1", "python x.py --hub.token *** --a 1"),
        ("cannot open 'https://a:b@h' (refused)", "cannot open 'https://***@h' (refused)"),
    ],
)
def test_texts_are_blotted(text: str, expected: str) -> None:
    assert redacted(text) == expected
    assert redacted(expected) == expected


@pytest.mark.parametrize(
    "text",
    ["sqlite:////runs/mlflow.db", "http://mlflow:5000", "mail ann@host", "s3://bucket/key=1/x", "--a.max_new_tokens=8",
     "https://host/@scope/package", "what is at http://a.b/c ?"],
)  # fmt: skip
def test_other_texts_stay(text: str) -> None:
    assert redacted(text) == text


def test_values_of_secret_variables_are_blotted_wherever_they_stand(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CANARY_TOKEN", "canary-in-a-cage")
    monkeypatch.setenv("SHORT_TOKEN", "short")
    assert redacted("a canary-in-a-cage sings, in short") == "a *** sings, in short"


def test_settings_keep_their_shape() -> None:
    settings = {
        "a": {"token": "x", "tokens": 8, "password": None},
        "uri": "http://u:p@h",
        "list": ["http://u:p@h", 1.5],
    }
    assert redacted_settings(settings) == {
        "a": {"token": "***", "tokens": 8, "password": None}, "uri": "http://***@h", "list": ["http://***@h", 1.5],
    }  # fmt: skip


class _Changing(Mapping[str, str]):
    """An environment that a thread takes a name out of while it is walked."""

    def __init__(self, **values: str) -> None:
        self._values = values

    def __iter__(self) -> Iterator[str]:
        yield "GONE_TOKEN"
        yield from self._values

    def __len__(self) -> int:
        return len(self._values) + 1

    def __getitem__(self, name: str) -> str:
        return self._values[name]


def test_threads_may_change_the_environment_meanwhile(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipelines.console.redaction.os", SimpleNamespace(environ=_Changing(HF_TOKEN="hf_0123456789")))
    assert redacted("with hf_0123456789") == "with ***"
