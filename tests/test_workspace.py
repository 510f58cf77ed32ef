"""The rules of the house that no other tool checks: who imports what, how long a file may be, what a file may hold."""

import ast
import re
import subprocess
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
SOURCES = {
    "memvp_core": ROOT / "packages/memvp-core/src/memvp_core",
    "memvp_data": ROOT / "packages/memvp-data/src/memvp_data",
    "memvp_train": ROOT / "packages/memvp-train/src/memvp_train",
    "pipelines": ROOT / "pipelines",
}
MAX_FILE_LINES = 400
MAX_FOLDER_MODULES = 23
MAX_FUNCTION_LINES = 60

# What a package may import anywhere, and what only inside the functions that need it.
CORE_ANYWHERE = {"torch", "safetensors", "jaxtyping", "memvp_core"}
CORE_IN_FUNCTIONS = {"transformers", "peft", "matplotlib", "huggingface_hub"}
DATA_ANYWHERE = {"webdataset", "pyarrow", "numpy", "PIL", "safetensors", "fsspec", "torch", "memvp_data"}
DATA_IN_FUNCTIONS = {"pycocoevalcap"}

# The one file, or the one folder, that knows each heavy library.
ONE_IMPORTER = {
    "ray": "memvp_train/launch/",
    "deepspeed": "memvp_train/engines/deepspeed.py",
    "mlflow": "pipelines/tracking/",
}
# MLflow runs this file itself, not we: it has to call mlflow.models.set_model.
RUN_BY_MLFLOW = "pipelines/serving/mlflow_model.py"


def python_files(package: str) -> list[Path]:
    return sorted(SOURCES[package].rglob("*.py"))


def all_python_files() -> list[Path]:
    return [path for package in SOURCES for path in python_files(package)]


def label(path: Path) -> str:
    """`memvp_core/memory/forms.py` or `pipelines/tracking/mlflow.py`."""
    return re.sub(r"^packages/[^/]+/src/", "", path.relative_to(ROOT).as_posix())


def imports(tree: ast.AST, *, in_function: bool = False) -> Iterator[tuple[str, bool]]:
    """(top-level name, inside a function or not) of each absolute import that runs, the type checker's left out."""
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.Import):
            yield from ((alias.name.split(".")[0], in_function) for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.level == 0 and node.module:
            yield node.module.split(".")[0], in_function
        inside = in_function or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
        yield from imports(node, in_function=inside)


def imports_of(path: Path) -> list[tuple[str, bool]]:
    return list(imports(ast.parse(path.read_text(encoding="utf-8"), filename=str(path))))


def imported_names(path: Path) -> set[str]:
    return {name for name, _ in imports_of(path)}


@pytest.mark.parametrize(
    ("package", "anywhere", "in_functions"),
    [("memvp_core", CORE_ANYWHERE, CORE_IN_FUNCTIONS), ("memvp_data", DATA_ANYWHERE, DATA_IN_FUNCTIONS)],
)
def test_package_imports_only_what_it_may(package: str, anywhere: set[str], in_functions: set[str]) -> None:
    wrong = [
        f"{label(path)} imports {name}" + ("" if inside else " at module level")
        for path in python_files(package)
        for name, inside in imports_of(path)
        if name not in sys.stdlib_module_names | anywhere | (in_functions if inside else set())
    ]
    assert not wrong, wrong


@pytest.mark.parametrize("library", ONE_IMPORTER)
def test_one_place_knows_the_library(library: str) -> None:
    importers = [label(path) for path in all_python_files() if library in imported_names(path)]
    others = [name for name in importers if not name.startswith(ONE_IMPORTER[library]) and name != RUN_BY_MLFLOW]
    assert not others, f"only {ONE_IMPORTER[library]} may import {library}; so do {others}"
    assert any(name.startswith(ONE_IMPORTER[library]) for name in importers)


@pytest.mark.parametrize("package", ["memvp_core", "memvp_data", "memvp_train"])
def test_packages_do_not_know_the_pipelines(package: str) -> None:
    assert not [label(path) for path in python_files(package) if "pipelines" in imported_names(path)]


@pytest.mark.parametrize(
    ("package", "absent"),
    [
        ("memvp_core", {"transformers", "peft", "webdataset", "pyarrow", "matplotlib"}),
        ("memvp_data", {"transformers", "peft", "matplotlib"}),
        ("memvp_train", set[str]()),
    ],
)
def test_import_pulls_in_no_heavy_library(package: str, absent: set[str]) -> None:
    absent = absent | {"ray", "deepspeed", "mlflow"}
    code = f"import sys, {package}; print(*sorted(set({sorted(absent)}) & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == []


def test_core_declares_three_dependencies() -> None:
    project = tomllib.loads((ROOT / "packages/memvp-core/pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert {re.split(r"[<>=~!;\[ ]", item)[0] for item in project["dependencies"]} == {
        "torch",
        "safetensors",
        "jaxtyping",
    }


@pytest.mark.parametrize("package", ["memvp-core", "memvp-data", "memvp-train"])
def test_declared_dependencies_are_in_the_tested_set(package: str) -> None:
    project = tomllib.loads((ROOT / f"packages/{package}/pyproject.toml").read_text(encoding="utf-8"))["project"]
    declared = {re.split(r"[<>=~!;\[ ]", item)[0].lower() for item in project["dependencies"]}
    pinned = {line.split("==")[0].lower() for line in pinned_versions()}
    assert declared - {"memvp-core", "memvp-data"} <= pinned


def pinned_versions() -> list[str]:
    lines = (ROOT / "constraints.txt").read_text(encoding="utf-8").splitlines()
    return [line for line in lines if line and not line.startswith("#")]


def test_constraints_are_plain_pins() -> None:
    # Neither a local build tag, a path nor a URL, so that the file resolves on any machine.
    assert not [line for line in pinned_versions() if not re.fullmatch(r"[A-Za-z0-9._-]+==[0-9][0-9A-Za-z.]*", line)]
    assert not [line for line in pinned_versions() if line.startswith(("torchvision", "timm", "open_clip"))]


@pytest.mark.parametrize("path", all_python_files() + sorted((ROOT / "tests").rglob("*.py")), ids=label)
def test_file_can_be_read_in_one_sitting(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    assert len(text.splitlines()) <= MAX_FILE_LINES, f"split {label(path)}: over {MAX_FILE_LINES} lines"
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or node.lineno) - node.lineno + 1
            assert length <= MAX_FUNCTION_LINES, f"split {label(path)}:{node.name}: {length} lines"


@pytest.mark.parametrize("package", SOURCES)
def test_folder_can_be_seen_at_a_glance(package: str) -> None:
    folders = Counter(label(path.parent) for path in python_files(package) if path.name != "__init__.py")
    assert not {folder: number for folder, number in folders.items() if number > MAX_FOLDER_MODULES}


@pytest.mark.parametrize("path", all_python_files(), ids=label)
def test_file_says_what_it_is(path: Path) -> None:
    assert ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))), f"{label(path)} has no docstring"


@pytest.mark.parametrize("package", SOURCES)
def test_folder_lists_its_files(package: str) -> None:
    """In the docstring of its `__init__.py`: `name: what it answers`, or `one, other: what they answer`."""
    missing = []
    for init in (path for path in python_files(package) if path.name == "__init__.py"):
        docstring = ast.get_docstring(ast.parse(init.read_text(encoding="utf-8"))) or ""
        lines = [line.partition(": ")[0] for line in docstring.splitlines()[1:]]
        named = {name for line in lines for name in line.split(", ")}
        missing += [label(path) for path in init.parent.glob("*.py") if path != init and path.stem not in named]
    assert not missing, f"not in the docstring of their folder: {missing}"


def test_no_catch_all_module() -> None:
    assert not [label(path) for path in all_python_files() if path.name in {"utils.py", "common.py", "base.py"}]


def tracked_text_files() -> list[Path]:
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=False).stdout
    paths = [ROOT / name for name in listed.split("\0") if name]
    texts = {".py", ".toml", ".txt", ".yaml", ".yml", ".json", ".md", ".cfg", ".sh", ""}
    return [path for path in paths if path.suffix in texts and path.is_file()]


def test_no_file_names_a_machine() -> None:
    # A home folder or scratch folder of the author's; built from pieces so that this file does not match itself.
    folders = "|".join(["home/[a-z]", "root/", "work/", "Users/", "mnt/", "scratch/"])
    machine_path = re.compile(rf"(?<![\w.\-/}}~])/(?:{folders})")
    wrong = [
        f"{path.relative_to(ROOT)}:{number}"
        for path in tracked_text_files()
        if path.name != "LICENSE" and "infra" not in path.parts
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), start=1)
        if machine_path.search(line)
    ]
    assert not wrong, wrong


@pytest.mark.parametrize("package", ["memvp_core", "memvp_data", "memvp_train"])
def test_no_name_of_a_folder_hides_one_of_its_files(package: str) -> None:
    """`from memvp_data.shards import verify` would give either, by what was imported before."""
    hidden = [
        f"{label(init.parent)}: {name}"
        for init in python_files(package)
        if init.name == "__init__.py"
        for node in ast.parse(init.read_text(encoding="utf-8")).body
        if isinstance(node, ast.ImportFrom)
        for name in [alias.asname or alias.name for alias in node.names]
        if (init.parent / f"{name}.py").is_file() or (init.parent / name / "__init__.py").is_file()
    ]
    assert not hidden, hidden
