"""No circle of imports, neither of files nor of folders, by the syntax trees; those for the type checker count too.

Within a folder its files and its subfolders stand side by side; an import of anything in a subfolder is one of the
subfolder.
"""

import ast
from collections import defaultdict
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from tests.test_workspace import SOURCES, all_python_files, label

Graph = dict[str, set[str]]


def module_name(path: Path) -> str:
    return label(path).removesuffix(".py").removesuffix("/__init__").replace("/", ".")


MODULES = {module_name(path): path for path in all_python_files()}


def imported_modules(name: str) -> set[str]:
    """Our own modules that a module imports, wherever in it."""
    found = set[str]()
    for node in ast.walk(ast.parse(MODULES[name].read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            wholes = {f"{node.module}.{alias.name}" for alias in node.names}
            found |= {whole if whole in MODULES else node.module for whole in wholes}
    return (found & MODULES.keys()) - {name}


@pytest.fixture(scope="module")
def imports() -> Graph:
    return {name: imported_modules(name) for name in MODULES}


def among_siblings(imports: Graph) -> dict[str, Graph]:
    """For every folder: which of its files and subfolders import which others of them."""
    siblings: dict[str, Graph] = defaultdict(lambda: defaultdict(set))
    for name, targets in imports.items():
        for target in targets:
            own, other = name.split("."), target.split(".")
            shared = next((n for n, pair in enumerate(zip(own, other, strict=False)) if len(set(pair)) > 1), None)
            if shared:
                siblings[".".join(own[:shared])][own[shared]].add(other[shared])
    return siblings


def circle(graph: Graph) -> list[str]:
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def test_no_circle_of_files(imports: Graph) -> None:
    assert not circle(imports)


@pytest.mark.parametrize("package", SOURCES)
def test_no_circle_of_folders(package: str, imports: Graph) -> None:
    circles = {folder: circle(graph) for folder, graph in among_siblings(imports).items()}
    assert not {folder: names for folder, names in circles.items() if names and folder.split(".")[0] == package}


def test_circles_are_found() -> None:
    imports = {"a.b.one": {"a.c.two"}, "a.c.three": {"a.b.four"}, "a.c.two": set(), "a.b.four": {"a"}}
    assert not circle(imports)
    assert set(circle(among_siblings(imports)["a"])) == {"b", "c"}
    assert circle({"a.b": {"a.c"}, "a.c": {"a.b"}})
