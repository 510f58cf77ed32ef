"""`--until`, `--from`, `--only` choose steps by name, and what cannot be meant is refused by name."""

import pytest

from pipelines.config.errors import RecipeError
from pipelines.jobs.command_line import read_arguments
from pipelines.jobs.kinds import FINETUNE, INSTRUCT
from pipelines.jobs.options import Options

SMOKE = ["--config", "pipelines/recipes/smoke.yaml"]
NAMES = ["build_shards", "extract_features", "stage1", "stage2", "evaluate", "register"]


def wanted(*arguments: str) -> tuple[list[str], set[str]]:
    """Steps of the smoke recipe up to the last one wanted, and those that may not run."""
    config, options = read_arguments(INSTRUCT, [*SMOKE, *arguments])
    steps, kept = options.wanted(INSTRUCT.steps(config))
    return [step.name for step in steps], set(kept)


def test_without_options_every_step_may_run() -> None:
    assert wanted() == (NAMES, set())


@pytest.mark.parametrize("written", [["--until=stage1"], ["--until", "stage1"]])
def test_until(written: list[str]) -> None:
    assert wanted(*written) == (NAMES[:3], set())


def test_from() -> None:
    assert wanted("--from=stage2") == (NAMES, set(NAMES[:3]))


def test_only_is_both() -> None:
    assert wanted("--only=stage1") == wanted("--from=stage1", "--until=stage1") == (NAMES[:3], set(NAMES[:2]))


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--until=stage3"], "--until 'stage3' is no step of this job; steps: build_shards, extract_features"),
        (["--only=tune"], "'tune' is no step of this job"),
        (["--from=stage2", "--until=stage1"], "--until stage1 comes before --from stage2"),
        (["--only=stage1", "--from=stage1"], "--only is --from and --until in one"),
        (["--dry-run", "yes"], "unexpected argument 'yes'"),
    ],
)
def test_what_cannot_be_meant(arguments: list[str], sentence: str) -> None:
    with pytest.raises(RecipeError) as refused:
        wanted(*arguments)
    assert sentence in str(refused.value)


def test_options_are_no_settings() -> None:
    with_options, options = read_arguments(INSTRUCT, [*SMOKE, "--dry-run", "--until=stage1"])
    assert options == Options(dry_run=True, until="stage1")
    assert with_options == read_arguments(INSTRUCT, SMOKE)[0]


def test_a_live_tower_stores_no_features() -> None:
    steps = {
        name: [step.name for step in FINETUNE.steps(read_arguments(FINETUNE, ["--config", path])[0])]
        for name, path in (
            ("live", "pipelines/recipes/llama7b_scienceqa.yaml"),
            ("stored", "pipelines/recipes/bart_gqa.yaml"),
        )
    }
    assert steps["live"] == ["build_shards", "tune", "answers", "register"]
    assert steps["stored"] == ["build_shards", "extract_features", "tune", "answers", "register"]
