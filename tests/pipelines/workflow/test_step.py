"""A step is re-used only if code, settings, inputs and outputs are what they were: each changed alone runs it again."""

import dataclasses
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from pipelines.config.instruct import JobConfig
from pipelines.steps.table import instruct_steps
from pipelines.workflow.step import (
    FinishedStep,
    Step,
    StepContext,
    StepOutcome,
    find_finished,
    run_step,
    step_folder,
    step_key,
)

CALLS: list[str] = []
MODULE = "a_step_for_tests"


@pytest.fixture
def source(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A module on disk that is the step's code."""
    folder = tmp_path / "code"
    folder.mkdir()
    path = folder / f"{MODULE}.py"
    path.write_text("VALUE = 1\n")
    monkeypatch.syspath_prepend(str(folder))
    CALLS.clear()
    yield path
    sys.modules.pop(MODULE, None)


def write_number(context: StepContext) -> StepOutcome:
    """The work: one file that depends on a setting."""
    CALLS.append(context.folder.name)
    out = context.folder / "number.txt"
    out.write_text(str(context.config.stage1.seed))
    return StepOutcome(outputs=(out,), summary={"number": context.config.stage1.seed})


def make_step(**changes: Any) -> Step:
    step = Step(
        name="number",
        title="number",
        code=(MODULE,),
        libraries=("numpy",),
        settings=lambda config: {"seed": config.stage1.seed},
        needs={},
        run=("unused:unused",),
    )
    return dataclasses.replace(step, **changes)


def finish(
    step: Step, config: JobConfig, run_folder: Path, inputs: dict[str, FinishedStep] | None = None
) -> FinishedStep:
    """What the job does with a step, without MLflow."""
    inputs = inputs or {}
    key = step_key(step, config=config, inputs=inputs)
    found, _ = find_finished(step, run_folder=run_folder, key=key, depth="full")
    if found is not None:
        return found
    folder = step_folder(run_folder, step=step.name, key=key)
    context = StepContext(config, folder, inputs, progress=None, services=None)  # type: ignore[arg-type]
    return run_step(step, context=context, key=key)


@pytest.fixture
def step(monkeypatch: pytest.MonkeyPatch, source: Path) -> Step:
    module = type(sys)("runner_for_tests")
    module.write_number = write_number  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "runner_for_tests", module)
    return make_step(run=("runner_for_tests:write_number",))


@pytest.fixture
def config(recipe: Callable[..., JobConfig]) -> JobConfig:
    return recipe("smoke")


def test_same_everything_is_reused(step: Step, config: JobConfig, tmp_path: Path) -> None:
    first = finish(step, config, tmp_path)
    second = finish(step, config, tmp_path)
    assert (first.reused, second.reused) == (False, True)
    assert second.record == first.record
    assert len(CALLS) == 1


def test_changed_source_line_runs_again(step: Step, config: JobConfig, tmp_path: Path, source: Path) -> None:
    finish(step, config, tmp_path)
    source.write_text("VALUE = 2\n")
    assert not finish(step, config, tmp_path).reused


def test_changed_setting_runs_again_and_the_old_result_stays(
    step: Step, config: JobConfig, tmp_path: Path, recipe: Callable[..., JobConfig]
) -> None:
    finish(step, config, tmp_path)
    assert not finish(step, recipe("smoke", "--stage1.seed=1"), tmp_path).reused
    assert finish(step, config, tmp_path).reused


def test_setting_the_step_does_not_read_changes_nothing(
    step: Step, config: JobConfig, tmp_path: Path, recipe: Callable[..., JobConfig]
) -> None:
    finish(step, config, tmp_path)
    assert finish(step, recipe("smoke", "--stage2.seed=1"), tmp_path).reused


@pytest.mark.parametrize(
    "damage", [lambda path: path.write_text("9"), lambda path: path.unlink(), lambda path: path.write_text("longer")]
)
def test_damaged_output_runs_again(
    step: Step, config: JobConfig, tmp_path: Path, damage: Callable[[Path], object]
) -> None:
    done = finish(step, config, tmp_path)
    damage(done.folder / "number.txt")
    again = finish(step, config, tmp_path)
    assert not again.reused
    assert again.record.digest == done.record.digest


def test_torn_record_counts_as_unfinished(step: Step, config: JobConfig, tmp_path: Path) -> None:
    done = finish(step, config, tmp_path)
    (done.folder / "step.json").write_text('{"step": "num')
    assert not finish(step, config, tmp_path).reused


def test_next_step_depends_on_what_was_made_not_on_how(
    step: Step, config: JobConfig, tmp_path: Path, source: Path, recipe: Callable[..., JobConfig]
) -> None:
    following = dataclasses.replace(step, name="following", needs={"number": "number"}, code=("json",))
    finish(following, config, tmp_path, {"number": finish(step, config, tmp_path)})
    source.write_text("VALUE = 2\n")
    remade = finish(step, config, tmp_path)
    assert not remade.reused
    assert finish(following, config, tmp_path, {"number": remade}).reused
    other = finish(step, recipe("smoke", "--stage1.seed=7"), tmp_path)
    assert not finish(following, config, tmp_path, {"number": other}).reused


def test_step_that_fails_leaves_no_record(step: Step, config: JobConfig, tmp_path: Path) -> None:
    broken = dataclasses.replace(step, run=("runner_for_tests:missing",))
    with pytest.raises(AttributeError):
        finish(broken, config, tmp_path)
    assert not list(tmp_path.rglob("step.json"))


def test_steps_are_in_order(config: JobConfig) -> None:
    seen: set[str] = set()
    for step in instruct_steps(config):
        assert set(step.needs.values()) <= seen
        seen.add(step.name)
    assert [step.name for step in instruct_steps(config)] == [
        "build_shards",
        "extract_features",
        "stage1",
        "stage2",
        "evaluate",
        "register",
    ]


def test_data_files_that_change_change_the_key(recipe: Callable[..., JobConfig], tmp_path: Path) -> None:
    for name in ("one.json", "two.json", "images/a.jpg"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b"[]")
    config = recipe(
        "smoke", f"--data.root={tmp_path}", "--data.toyworld=null", "--data.test=null",
        "--data.stage1.conversations=one.json", "--data.stage2.conversations=two.json",
    )  # fmt: skip
    keys = [step_key(instruct_steps(config)[0], config=config, inputs={})]
    (tmp_path / "one.json").write_bytes(b"[ ]")
    keys.append(step_key(instruct_steps(config)[0], config=config, inputs={}))
    (tmp_path / "images/a.jpg").write_bytes(b"[ ]")
    keys.append(step_key(instruct_steps(config)[0], config=config, inputs={}))
    assert len(set(keys)) == 3
