"""A recipe and overrides become a JobConfig; every mistake becomes one sentence that names the setting."""

import re
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

from pipelines.config.errors import RecipeError
from pipelines.config.instruct import JobConfig
from pipelines.config.plain import as_settings, describe_settings, flat_settings
from pipelines.jobs.command_line import read_arguments, read_settings
from pipelines.jobs.kinds import COMPARISON, FINETUNE, INSTRUCT, JobKind

Recipe = Callable[..., JobConfig]

BAD_OVERRIDES = {
    "--stage1.learning_rat=3": ["'stage1.learning_rat'", "did you mean 'stage1.learning_rate'"],
    "--stage1.learning-rate=3": ["'stage1.learning-rate'", "did you mean 'stage1.learning_rate'"],
    "--learning_rate=3": ["'stage1.learning_rate' or 'stage2.learning_rate'"],
    "--stage2.lora.rnk=4": ["'stage2.lora.rnk'", "did you mean 'stage2.lora.rank'"],
    "--data.test.image.question=f": ["did you mean 'data.test.image.questions'"],
    "--stage1.learning_rate=fast": ["'stage1.learning_rate' expects a number, got fast"],
    "--stage2.lora.rank=four": ["'stage2.lora.rank' expects a whole number, got four"],
    "--launch.precision=fp8": ["'launch.precision' expects one of 'fp32', 'bf16', 'fp16', got fp8"],
    "--stage1.betas=[1,2,3]": ["'stage1.betas' expects a list of 2, each a number"],
    "--stage1=5": ["'stage1' expects a group of settings"],
    "--memvp.num_slots=0": ["memvp: num_slots must be a positive whole number, got 0"],
    "--stage1.num_epochs=1": ["stage1: exactly one of num_steps and num_epochs"],
    "--stage1.global_batch_size=7": ["stage1: global_batch_size 7"],
    "--data.root=/x": ["data.root", "data.toyworld"],
    "--name=../up": ["name must be", "'../up'"],
    "stray": ["unexpected argument 'stray'"],
}


@pytest.mark.parametrize(("override", "phrases"), BAD_OVERRIDES.items(), ids=list(BAD_OVERRIDES))
def test_bad_override_is_one_sentence(recipe: Recipe, override: str, phrases: list[str]) -> None:
    with pytest.raises(RecipeError) as caught:
        recipe("smoke", override)
    assert "\n" not in str(caught.value)
    for phrase in phrases:
        assert phrase in str(caught.value)


def _with_yaml(folder: Path, text: str) -> Path:
    path = folder / "recipe.yaml"
    path.write_text(text, encoding="utf-8")
    return path


@pytest.mark.parametrize(
    ("text", "phrase"),
    [
        ("name: [unclosed", "is not YAML"),
        ("- a\n- b\n", "must hold settings"),
        ("name: x\nstage1: {lerning_rate: 1}\n", "did you mean 'stage1.learning_rate'"),
        ("name: x\n", "the recipe lacks the setting"),
    ],
)
def test_bad_recipe_is_one_sentence(tmp_path: Path, text: str, phrase: str) -> None:
    with pytest.raises(RecipeError, match=phrase) as caught:
        read_settings(INSTRUCT, ["--config", str(_with_yaml(tmp_path, text))])
    assert "\n" not in str(caught.value)


def test_missing_recipe_names_the_shipped_ones() -> None:
    with pytest.raises(RecipeError, match=r"recipe not found: nope.yaml.*toyworld.yaml"):
        read_settings(INSTRUCT, ["--config", "nope.yaml"])


def test_no_recipe_at_all() -> None:
    with pytest.raises(RecipeError, match="no recipe given"):
        read_settings(INSTRUCT, [])


def test_later_overrides_win_and_reach_nested_groups(recipe: Recipe) -> None:
    job = recipe("smoke", "--stage2.lora.rank=3", "--stage2.lora.rank=5", "--stage1.betas=[0.8,0.9]")
    assert job.stage2.lora is not None
    assert job.stage2.lora.rank == 5
    assert job.stage1.betas == (0.8, 0.9)


def test_free_mapping_takes_any_name(recipe: Recipe) -> None:
    assert recipe("smoke", "--language.overrides.num_hidden_layers=2").language.overrides == {"num_hidden_layers": 2}


def test_group_can_be_switched_off(recipe: Recipe) -> None:
    assert recipe("smoke", "--stage2.lora=null").stage2.lora is None


@pytest.mark.parametrize("name", ["toyworld", "smoke", "llava15_vicuna7b"])
def test_resolved_settings_are_a_recipe_again(recipe: Recipe, tmp_path: Path, name: str) -> None:
    job = recipe(name)
    path = _with_yaml(tmp_path, describe_settings(as_settings(job)))
    assert read_settings(INSTRUCT, ["--config", str(path)]) == job


@pytest.mark.parametrize("name", ["toyworld", "smoke", "llava15_vicuna7b"])
def test_shipped_recipe_begins_with_its_command(repository: Path, name: str) -> None:
    text = (repository / f"pipelines/recipes/{name}.yaml").read_text(encoding="utf-8")
    assert f"--config pipelines/recipes/{name}.yaml" in text.split("name:")[0]
    assert yaml.safe_load(text)["name"] == name


def test_flat_settings_name_what_the_command_line_takes(recipe: Recipe) -> None:
    flat = flat_settings(as_settings(recipe("smoke")))
    assert flat["stage2.lora.rank"] == 2
    assert flat["data.toyworld.seed"] == 0


@pytest.mark.parametrize("kind", [INSTRUCT, FINETUNE, COMPARISON], ids=lambda kind: kind.script)
def test_help_has_a_line_for_every_setting_by_group(kind: JobKind, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        read_arguments(kind, ["--help"])
    assert ended.value.code == 0
    shown = capsys.readouterr().out
    assert "<class" not in shown
    for option in ("--dry-run", "--until STEP", "--from STEP", "--only STEP", "--config CONFIG"):
        assert option in shown
    undescribed = re.findall(r"--([\w.]+) [^\s(]+\s+\((?:type|required)", shown)
    assert undescribed == []
