"""Settings as plain data: for keys of steps, for MLflow and for people to read."""

import dataclasses
from typing import Any

import yaml


def as_settings(part: Any) -> dict[str, Any]:
    """Dataclass -> plain JSON data (tuples become lists)."""
    return {field.name: _plain(getattr(part, field.name)) for field in dataclasses.fields(part)}


def _plain(value: Any) -> Any:
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return as_settings(value)
    if isinstance(value, dict):
        return {str(key): _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    return value


def flat_settings(settings: dict[str, Any], *, prefix: str = "") -> dict[str, Any]:
    """Nested settings -> {"stage1.learning_rate": 0.001, ...}; the dotted names are the command line's."""
    flat: dict[str, Any] = {}
    for key, value in settings.items():
        if isinstance(value, dict) and value:
            flat.update(flat_settings(value, prefix=f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = value
    return flat


def describe_settings(config: Any) -> str:
    """The resolved settings as YAML text; the file that travels with a run."""
    return yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
