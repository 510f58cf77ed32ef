"""Secrets are redacted out of whatever leaves the process: run records, reports, messages.

A job needs none in its settings: MLflow, the hub and object stores read theirs from the environment. But addresses
carry passwords, and a setting may carry a token by mistake; MLflow keeps what it is told for ever.
"""

import os
import re
from collections.abc import Mapping
from typing import Any

BLOT = "***"

# A last word that only a secret has: `token`, not `max_new_tokens` or `token_budget`.
_NAME = re.compile(
    r"(^|[._\-])(password|passwd|passphrase|secret|token|credentials?|(api|access|secret|private|account)[_\-]?key)$",
    re.IGNORECASE,
)
_USER = re.compile(r"(?P<scheme>[a-z][a-z0-9+.\-]*://)[^/\s@?#'\"]+@", re.IGNORECASE)
_QUERY = re.compile(r"(?P<name>[?&;][\w.\-]*(?:token|key|secret|password|signature|sig|credential)=)[^&\s'\"]+", re.I)
_SETTING = re.compile(r"(?P<name>--[\w.\-]+)(?P<equals>[= ])(?P<value>\S+)")
# Shorter values of the environment are words such as "1" or "none", which would blot out half a text.
_SHORTEST = 8


def is_secret_name(name: str) -> bool:
    """Whether a setting or variable of this name holds a secret."""
    return _NAME.search(name) is not None


def redacted(text: str) -> str:
    """The text without passwords in addresses, signed queries, secret options, and values of secret variables."""
    for value in _secret_values():
        text = text.replace(value, BLOT)
    text = _USER.sub(rf"\g<scheme>{BLOT}@", text)
    text = _QUERY.sub(rf"\g<name>{BLOT}", text)
    return _SETTING.sub(_without_value, text)


def _without_value(option: re.Match[str]) -> str:
    name = option["name"].removeprefix("--")
    return f"--{name}{option['equals']}{BLOT}" if is_secret_name(name) else option[0]


def redacted_settings(settings: Any) -> Any:
    """Settings with every text redacted, and with the values of secret names gone; nested as before."""
    if isinstance(settings, Mapping):
        return {
            name: BLOT if is_secret_name(str(name)) and value is not None else redacted_settings(value)
            for name, value in settings.items()
        }
    if isinstance(settings, (list, tuple)):
        return [redacted_settings(item) for item in settings]
    return redacted(settings) if isinstance(settings, str) else settings


def first_line(error: BaseException) -> str:
    """What an error of a library says, short and without secrets."""
    return redacted(str(error).strip().splitlines()[0][:300]) if str(error).strip() else type(error).__name__


def _secret_values() -> list[str]:
    """The longest first: one may contain another."""
    values = (value for name, value in _environment().items() if is_secret_name(name))
    return sorted({value for value in values if len(value) >= _SHORTEST}, key=len, reverse=True)


def _environment() -> dict[str, str]:
    """A copy: threads of libraries change the environment while it is walked, and MLflow's do at its start."""
    names = list(os.environ)
    return {name: value for name in names if (value := os.environ.get(name)) is not None}
