"""Reads recipes (YAML) and dotted overrides into a job's settings; every mistake becomes one sentence (RecipeError)."""

import argparse
import dataclasses
import re
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar, get_type_hints

import yaml
from jsonargparse import ActionConfigFile, ArgumentParser, set_parsing_settings

from pipelines.config.errors import RecipeError
from pipelines.config.setting_names import SettingNames, dataclass_of, describe_type
from pipelines.jobs.kinds import FINETUNE, INSTRUCT, JobKind
from pipelines.jobs.options import NAMES, Options, add_options, read_options

T = TypeVar("T")

_KEY = re.compile(r'Parser key "([^"]+)"')
_GOT = re.compile(r"(?:Got value|Given value): (.*)")
_OWN_OPTIONS = {"config", "help", "print_config", "dry-run", *NAMES}
_FLAGS = {"--dry-run", "--help", "-h", "--print_config"}


def read_arguments(kind: JobKind, arguments: Sequence[str]) -> tuple[Any, Options]:
    """Command line -> settings of a job of this kind, and which steps are wanted.

    Args:
        arguments: `--config recipe.yaml` and `--group.setting=value` overrides, later ones win; options of options.py.

    Raises:
        RecipeError: one sentence that names the setting (or file) and what would work.
    """
    names = SettingNames(kind.config)
    _check_names(arguments, names=names)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if {"--help", "-h"} & set(arguments):
            # Reads the line under each setting; it takes a second that a job need not wait for.
            set_parsing_settings(docstring_parse_attribute_docstrings=True)
        parser = _parser(kind)
        try:
            values = vars(parser.parse_args(list(arguments)))
        except argparse.ArgumentError as error:
            raise RecipeError(_sentence(str(error.message), names=names)) from error
    options = read_options(values)
    return _build(kind.config, values, group=""), options


def read_settings(kind: JobKind, arguments: Sequence[str]) -> Any:
    """The settings alone."""
    return read_arguments(kind, arguments)[0]


def tuning_kind(arguments: Sequence[str]) -> JobKind:
    """Which of the two kinds of job that tune the recipes and overrides are for: one with `stage` is finetune.py's."""
    keys: set[str] = set()
    for place, argument in enumerate(arguments):
        name, _, value = argument.partition("=")
        keys.add(name.removeprefix("--").partition(".")[0])
        path = Path(value or "".join(arguments[place + 1 : place + 2]))
        if name == "--config" and path.is_file():
            keys |= set(_read_tree(path))
    return FINETUNE if "stage" in keys else INSTRUCT


def _build(cls: type[T], values: Any, *, group: str) -> T:
    """The dataclass, its inner ones first; what one of them refuses is reported with the name of its group."""
    hints = get_type_hints(cls)
    built = {}
    for field in dataclasses.fields(cls):  # type: ignore[arg-type]
        value, inner = values[field.name], dataclass_of(hints[field.name])
        if inner is not None and value is not None:
            value = _build(inner, value, group=f"{group}{field.name}.")
        built[field.name] = value
    try:
        return cls(**built)
    except ValueError as error:
        if isinstance(error, RecipeError):
            raise
        raise RecipeError(f"{group.rstrip('.')}: {error}") from error


def _parser(kind: JobKind) -> ArgumentParser:
    parser = ArgumentParser(
        prog=kind.script,
        usage=f"{kind.script} --config RECIPE [--group.setting=value ...] [--dry-run] [--until STEP] [--from STEP]",
        description=kind.title,
        exit_on_error=False,
        default_env=False,
    )
    parser.add_argument(
        "--config", action=ActionConfigFile, help="recipe (YAML); of several, later ones win setting by setting"
    )
    add_options(parser)
    parser.add_class_arguments(kind.config)
    return parser


def _check_names(arguments: Sequence[str], *, names: SettingNames) -> None:
    recipes: list[str] = []
    takes_value = False
    for position, argument in enumerate(arguments):
        name, has_value, value = argument.removeprefix("--").partition("=")
        if not argument.startswith("-"):
            if not takes_value:
                raise RecipeError(f"unexpected argument {argument!r}; settings are written --group.setting=value")
            takes_value = False
            continue
        takes_value = not has_value and argument not in _FLAGS
        if name == "config":
            recipes.append(value if has_value else "".join(arguments[position + 1 : position + 2]))
        elif name not in _OWN_OPTIONS and argument != "-h":
            names.check(name, where="command line")
    if not recipes and not {"--help", "-h"} & set(arguments):
        raise RecipeError("no recipe given; pass --config pipelines/recipes/<run>.yaml")
    for recipe in recipes:
        _check_recipe(Path(recipe), names=names)


def _check_recipe(path: Path, *, names: SettingNames) -> None:
    if not path.is_file():
        near = sorted(str(other) for other in Path(__file__).parents[1].joinpath("recipes").glob("*.yaml"))
        raise RecipeError(f"recipe not found: {path}; shipped recipes: {', '.join(near)}")
    names.check_tree(_read_tree(path), where=str(path))


def _read_tree(path: Path) -> dict[str, Any]:
    try:
        tree = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise RecipeError(f"recipe {path} is not YAML: {' '.join(str(error).split())}") from error
    if not isinstance(tree, dict):
        raise RecipeError(f"recipe {path} must hold settings (name: value), got {type(tree).__name__}")
    return tree


def _sentence(message: str, *, names: SettingNames) -> str:
    """The parser's report, which may run over ten lines, as one sentence that names the dotted setting."""
    keys = _KEY.findall(message)
    if not keys:
        return _missing(message)
    name = names.longest(keys)
    got = _GOT.findall(message)
    hint = names.types.get(name)
    if dataclass_of(hint) is not None and not got:
        return f"setting '{name}' expects {describe_type(hint)}"
    if hint is None or not got or "Expected" not in message:
        return f"setting '{name}': {' '.join(message.split())}"
    value = got[-1].strip() if len(keys) == 1 else got[0].strip()
    return f"setting '{name}' expects {describe_type(hint)}, got {value}"


def _missing(message: str) -> str:
    required = re.search(r"arguments are required: (.*)", message)
    if required:
        return f"the recipe lacks the setting {required.group(1)}"
    return " ".join(message.split())
