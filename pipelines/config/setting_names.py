"""Every dotted setting name of a config dataclass with its type; finds the nearest one to a misspelt name."""

import dataclasses
import difflib
import types
from collections.abc import Mapping
from typing import Any, Literal, Union, get_args, get_origin, get_type_hints

from pipelines.config.errors import RecipeError

_WORDS: dict[Any, str] = {
    int: "a whole number",
    float: "a number",
    str: "text",
    bool: "true or false",
    type(None): "null",
}


class SettingNames:
    """`types` maps "stage1.learning_rate" to float for every setting and group below `root`."""

    def __init__(self, root: type) -> None:
        self.types: dict[str, Any] = dict(_walk(root, prefix=""))

    def check(self, name: str, *, where: str) -> None:
        """Raise RecipeError unless `name` is a setting, or lies inside a free mapping."""
        if name in self.types:
            return
        parent = name
        while "." in parent:
            parent = parent.rpartition(".")[0]
            if parent in self.types and dataclass_of(self.types[parent]) is None and _is_mapping(self.types[parent]):
                return
        raise RecipeError(f"unknown setting '{name}' ({where}); {self._hint(name)}")

    def check_tree(self, tree: Mapping[Any, Any], *, where: str, prefix: str = "") -> None:
        """`check` for every name of a nested mapping, as a recipe holds it."""
        for key, value in tree.items():
            name = f"{prefix}{key}"
            self.check(name, where=where)
            if isinstance(value, Mapping) and name in self.types:
                self.check_tree(value, where=where, prefix=f"{name}.")

    def longest(self, keys: list[str]) -> str:
        """The parser reports nested names in pieces ("stage2.lora", then "rank"); join those that make a setting."""
        name = keys[0]
        for key in keys[1:]:
            if f"{name}.{key}" in self.types:
                name = f"{name}.{key}"
        return name

    def _hint(self, name: str) -> str:
        group, _, leaf = name.rpartition(".")
        inside = [known for known in self.types if known.rpartition(".")[0] == group]
        by_leaf = {known.rpartition(".")[2]: known for known in inside}
        near = difflib.get_close_matches(leaf.replace("-", "_"), by_leaf, n=1, cutoff=0.6)
        if near:
            return f"did you mean '{by_leaf[near[0]]}'?"
        elsewhere = _shallowest([known for known in self.types if known.rpartition(".")[2] == leaf])
        elsewhere = elsewhere or difflib.get_close_matches(name, self.types, n=1, cutoff=0.6)
        if elsewhere:
            return f"did you mean {' or '.join(repr(known) for known in elsewhere)}?"
        return f"known here: {', '.join(sorted(by_leaf) or sorted(k for k in self.types if '.' not in k))}"


def _shallowest(names: list[str]) -> list[str]:
    """`learning_rate` most likely means the stage's, not that of one of its groups."""
    depth = min((name.count(".") for name in names), default=0)
    return [name for name in names if name.count(".") == depth]


def _walk(root: type, *, prefix: str) -> list[tuple[str, Any]]:
    found: list[tuple[str, Any]] = []
    hints = get_type_hints(root)
    for field in dataclasses.fields(root):
        name = f"{prefix}{field.name}"
        found.append((name, hints[field.name]))
        inner = dataclass_of(hints[field.name])
        if inner is not None:
            found.extend(_walk(inner, prefix=f"{name}."))
    return found


def _members(hint: Any) -> tuple[Any, ...]:
    return get_args(hint) if get_origin(hint) in (Union, types.UnionType) else (hint,)


def dataclass_of(hint: Any) -> type | None:
    """The dataclass among the members of a type such as `LoraSettings | None`."""
    return next((part for part in _members(hint) if isinstance(part, type) and dataclasses.is_dataclass(part)), None)


def _is_mapping(hint: Any) -> bool:
    return any((get_origin(part) or part) in (dict, Mapping) for part in _members(hint))


def describe_type(hint: Any) -> str:
    """A type as a user reads it: "a whole number or null", "one of 'fp32', 'bf16'"."""
    return " or ".join(_describe_one(part) for part in _members(hint))


def _describe_one(hint: Any) -> str:
    if hint in _WORDS:
        return _WORDS[hint]
    if get_origin(hint) is Literal:
        return "one of " + ", ".join(repr(choice) for choice in get_args(hint))
    if isinstance(hint, type) and dataclasses.is_dataclass(hint):
        return f"a group of settings ({', '.join(field.name for field in dataclasses.fields(hint))})"
    if _is_mapping(hint):
        return "a mapping"
    items = [item for item in get_args(hint) if item is not Ellipsis]
    count = f" of {len(items)}" if Ellipsis not in get_args(hint) else ""
    return f"a list{count}, each {_describe_one(items[0])}" if items else "a list"
