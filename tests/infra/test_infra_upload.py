"""What `ray job submit --working-dir .` sends to the cluster: all that a job needs, nothing else, a few megabytes."""

import shutil
import subprocess
import zipfile
from pathlib import Path

import pytest
from ray._private.runtime_env.packaging import create_package

ROOT = Path(__file__).resolve().parents[2]
MOST_BYTES = 8 << 20
# What the job manager leaves out by itself (RAY_RUNTIME_ENV_... default excludes).
RAY_LEAVES_OUT = [".git", ".venv", "venv", "__pycache__"]
NOT_NEEDED = {
    "tests/test_x.py", "docs/x.md", "benchmarks/x.py", "infra/x.yaml", "data/shard-0.tar", "runs/x/report.json",
    "mlruns/0/meta.yaml", "mlflow.db", "mlflow.db-journal", ".venv/lib/x.py", ".venv-oldest/lib/x.py", ".git/HEAD",
    ".env", ".env.local", "key.pem", ".pytest_cache/x", ".ruff_cache/x", ".hypothesis/x", ".coverage",
    "pipelines/__pycache__/x.pyc", "packages/memvp-core/src/memvp_core.egg-info/PKG-INFO", "htmlcov/index.html",
}  # fmt: skip


def tracked() -> list[str]:
    """Files that git knows and that are there."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [name for name in listed.split("\0") if name and (ROOT / name).is_file()]


def package(folder: Path, *, to: Path) -> zipfile.ZipFile:
    """The zip file that Ray would send, made by Ray's own code."""
    create_package(str(folder), to, include_gitignore=True, excludes=RAY_LEAVES_OUT)
    return zipfile.ZipFile(to)


@pytest.fixture(scope="module")
def upload(tmp_path_factory: pytest.TempPathFactory) -> zipfile.ZipFile:
    """That of a checkout: the files git knows, without what else may lie in this one."""
    checkout = tmp_path_factory.mktemp("checkout")
    for name in tracked():
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(ROOT / name, checkout / name)
    for name in NOT_NEEDED:
        (checkout / name).parent.mkdir(parents=True, exist_ok=True)
        (checkout / name).write_bytes(b"x" * 1000)
    return package(checkout, to=checkout.parent / "upload.zip")


def test_upload_is_small(upload: zipfile.ZipFile) -> None:
    assert sum(entry.file_size for entry in upload.infolist()) < MOST_BYTES


def test_nothing_else_is_sent(upload: zipfile.ZipFile) -> None:
    assert sorted(NOT_NEEDED & set(upload.namelist())) == []
    tops = {name.split("/")[0] for name in upload.namelist() if "/" in name}
    assert tops == {"packages", "pipelines"}


def test_all_that_a_job_reads_is_sent(upload: zipfile.ZipFile) -> None:
    needed = {name for name in tracked() if name.startswith(("pipelines/", "packages/"))}
    assert len(needed) > 100
    assert sorted(needed - set(upload.namelist())) == []
