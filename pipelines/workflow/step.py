"""What a step is, when a finished one is re-used, and how one is run.

A step's key is the hash of its code, the settings it reads and the digests of its inputs. Its folder is named by the
key, so work under other settings never mixes with it, and an interrupted step finds its own half-done work again.
`step.json` is written last: a folder without it is unfinished.
"""

import importlib
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from memvp_data.files.hashing import hash_file
from pipelines.console.progress import StepProgress
from pipelines.workflow.digests import code_digest, digest_json, library_versions
from pipelines.workflow.run_folder import read_json, write_json

RECORD_NAME = "step.json"
_SCHEMA_VERSION = 1


@dataclass(frozen=True)
class StepRecord:
    """A finished step, as step.json holds it."""

    step: str
    """name"""
    key: str
    """hash of code, settings and inputs"""
    outputs: dict[str, dict[str, Any]]
    """path below the step's folder -> {"sha256", "bytes"}"""
    summary: dict[str, Any]
    """what later steps and the report need: plain JSON"""
    seconds: float
    """wall time of the attempt that finished"""

    @property
    def digest(self) -> str:
        """Identity of what the step made; the input of the next one."""
        return digest_json({name: entry["sha256"] for name, entry in self.outputs.items()})


@dataclass(frozen=True)
class FinishedStep:
    """A finished step and where it is."""

    record: StepRecord
    """what was made"""
    folder: Path
    """where it is"""
    reused: bool
    """made by an earlier submission"""


@dataclass(frozen=True)
class StepContext:
    """What a step's function may use."""

    config: Any
    """settings of the job"""
    folder: Path
    """the step's own folder; outputs and half-done work live here"""
    inputs: Mapping[str, FinishedStep]
    """the earlier steps it needs, by what they are to it"""
    progress: StepProgress
    """the step's bar"""
    services: Any
    """Ray session, tracking: see services.Services"""
    about: Mapping[str, str] = field(default_factory=dict)
    """as in the step"""


@dataclass(frozen=True)
class StepOutcome:
    """What a step's function gives back."""

    outputs: tuple[Path, ...]
    """files and folders that must still be sound for the step to be re-used"""
    summary: dict[str, Any]
    """plain JSON"""


@dataclass(frozen=True)
class Step:
    """One row of the job's table."""

    name: str
    """name of the folder and of the MLflow child run"""
    title: str
    """the progress bar's label"""
    code: tuple[str, ...]
    """modules whose source the result depends on"""
    libraries: tuple[str, ...]
    """distributions whose version the result depends on"""
    settings: Callable[[Any], dict[str, Any]]
    """the settings it reads, plain JSON; identities of outside files belong here too"""
    needs: Mapping[str, str]
    """what an earlier step is to this one -> its name; usually the same"""
    run: tuple[str, ...]
    """"module:function" of (StepContext) -> StepOutcome, imported when it runs; several run one after the other"""
    log: str | None = None
    """"module:function" of what it tells MLflow, imported likewise; None: nothing beside its seconds"""
    about: Mapping[str, str] = field(default_factory=dict)
    """what tells steps with one function apart: {"stage": "stage2"}, {"benchmark": "pope"}"""

    def inputs(self, finished: Mapping[str, FinishedStep]) -> dict[str, FinishedStep]:
        """The finished steps it needs, by what they are to it."""
        return {role: finished[name] for role, name in self.needs.items()}


def step_key(step: Step, *, config: Any, inputs: Mapping[str, FinishedStep]) -> str:
    """SHA-256 of all that the step's result depends on; `inputs` as `Step.inputs` gives them."""
    return digest_json(
        {
            "schema": _SCHEMA_VERSION,
            "step": step.name,
            "code": code_digest(step.code),
            "libraries": library_versions(step.libraries),
            "settings": step.settings(config),
            "inputs": {role: inputs[role].record.digest for role in step.needs},
        }
    )


def find_finished(
    step: Step, *, run_folder: Path, key: str, depth: Literal["full", "size"]
) -> tuple[FinishedStep | None, str]:
    """The finished step to re-use, or None; and why not, where there was one."""
    folder = step_folder(run_folder, step=step.name, key=key)
    content = read_json(folder / RECORD_NAME)
    if content is None:
        return None, ""
    record = StepRecord(**content)
    fault = first_fault(record, folder=folder, depth=depth)
    if fault is not None:
        return None, fault
    return FinishedStep(record, folder, reused=True), ""


def first_fault(record: StepRecord, *, folder: Path, depth: Literal["full", "size"]) -> str | None:
    """The first output that is missing or changed, as a phrase; None when all are sound."""
    for name, entry in record.outputs.items():
        path = folder / name
        if not path.is_file():
            return f"{path} is missing"
        if path.stat().st_size != entry["bytes"] or (depth == "full" and hash_file(path) != entry["sha256"]):
            return f"{path} was changed"
    return None


def run_step(step: Step, *, context: StepContext, key: str) -> FinishedStep:
    """Run the step's function and commit its record."""
    context.folder.mkdir(parents=True, exist_ok=True)
    (context.folder / RECORD_NAME).unlink(missing_ok=True)
    started = time.monotonic()
    outcomes: list[StepOutcome] = [imported(part)(context) for part in step.run]
    record = StepRecord(
        step=step.name,
        key=key,
        outputs=_describe_outputs([path for one in outcomes for path in one.outputs], folder=context.folder),
        summary={name: value for one in outcomes for name, value in one.summary.items()},
        seconds=round(time.monotonic() - started, 3),
    )
    write_json(context.folder / RECORD_NAME, vars(record))
    return FinishedStep(record, context.folder, reused=False)


def imported(place: str) -> Any:
    """What "module:name" names; for what is too heavy to import before it is needed."""
    module, _, name = place.partition(":")
    return getattr(importlib.import_module(module), name)


def step_folder(run_folder: Path, *, step: str, key: str) -> Path:
    """<run>/<step>/<first 12 digits of the key>; a step's name may hold slashes."""
    return run_folder / step / key[:12]


def _describe_outputs(outputs: Sequence[Path], *, folder: Path) -> dict[str, dict[str, Any]]:
    described = {}
    for file in sorted(_files(outputs)):
        digest = _hash_in_manifest(file) or hash_file(file)
        described[str(file.relative_to(folder))] = {"sha256": digest, "bytes": file.stat().st_size}
    return described


def _files(outputs: Sequence[Path]) -> Iterator[Path]:
    for output in outputs:
        yield from (file for file in (output.rglob("*") if output.is_dir() else (output,)) if file.is_file())


def _hash_in_manifest(file: Path) -> str | None:
    """A shard's hash was taken while it was written; a terabyte of features need not be read again for it."""
    if file.suffix != ".tar":
        return None
    shards = (read_json(file.parent / "manifest.json") or {}).get("shards", [])
    return next((shard["sha256"] for shard in shards if shard["name"] == file.name), None)
