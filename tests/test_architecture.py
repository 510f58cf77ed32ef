"""ARCHITECTURE.md is true: its floors, its rows, where it says to start reading, and its picture."""

import ast
import re
import runpy
import tomllib

import pytest

from tests.test_workspace import ROOT, SOURCES

TEXT = (ROOT / "ARCHITECTURE.md").read_text(encoding="utf-8")
ROW = re.compile(r"^\| (?:\*\*(\w+)\*\*|`(\w+)/`) \| [^|]+ \| `([^`]+)`", re.MULTILINE)


def rows() -> dict[str, str]:
    """ "memvp_core" or "memvp_core/memory" -> where to start reading."""
    found, package = {}, ""
    for whole, folder, start in ROW.findall(TEXT):
        package = whole or package
        found[package if whole else f"{package}/{folder}"] = start
    return found


@pytest.mark.parametrize("package", SOURCES)
def test_every_folder_has_a_row(package: str) -> None:
    folders = {f"{package}/{path.parent.name}" for path in SOURCES[package].glob("*/__init__.py")}
    assert folders | {package} == {name for name in rows() if name.split("/")[0] == package}


@pytest.mark.parametrize(("folder", "start"), rows().items(), ids=list(rows()))
def test_the_start_of_each_row_is_there(folder: str, start: str) -> None:
    package, _, rest = folder.partition("/")
    file, _, name = start.partition(": ")
    path = SOURCES[package] / rest / file
    assert path.is_file(), path
    defined = {getattr(node, "name", "") for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))}
    constants = set(re.findall(r"^([A-Z_]+)\b.*=", path.read_text(encoding="utf-8"), re.MULTILINE))
    assert set(filter(None, name.split("."))) <= defined | constants


@pytest.mark.parametrize("package", SOURCES)
def test_floors_are_those_that_are_checked(package: str) -> None:
    contracts = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["tool"]["importlinter"][
        "contracts"
    ]
    (layers,) = [one["layers"] for one in contracts if one.get("containers") == [package]]
    (written,) = re.findall(rf"^    {package}: +((?:.*\n)(?:^ {{10,}}>.*\n)?)", TEXT, re.MULTILINE)
    checked = [layer.split(" | ") for layer in layers if layer != "__main__"]
    floors = [floor.strip().split(" | ") for floor in written.replace("\n", " ").split(" > ")]
    said = floors if package != "pipelines" else [checked[0], *floors[1:]]
    assert [sorted(floor) for floor in said] == [sorted(floor) for floor in checked]


def test_the_picture_is_todays() -> None:
    """Boxes and lines; how thick a line is follows when the picture is drawn again."""
    drawn, kept = (
        re.sub(r'stroke-width="\d+"', "", text)
        for text in (
            runpy.run_path(str(ROOT / "docs/draw_folders.py"))["picture"](),
            (ROOT / "docs/folders.svg").read_text(encoding="utf-8"),
        )
    )
    assert kept == drawn, "run: make format"


def test_it_stays_short() -> None:
    # Ten minutes of reading; lists of files stand in the folders themselves.
    assert len(TEXT.encode()) < 10_000
