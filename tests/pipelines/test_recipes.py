"""Every recipe resolves, trains as many parameters as it says, and runs as its trial on the toy world."""

import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from pipelines.config.benchmarks import FinetuneConfig
from pipelines.config.instruct import JobConfig
from pipelines.jobs.command_line import read_settings
from pipelines.jobs.entry import run_entry
from pipelines.jobs.kinds import COMPARISON, FINETUNE, INSTRUCT, JobKind
from pipelines.jobs.preflight import planned_parameters
from pipelines.workflow.run_folder import read_json
from tests.pipelines.published_models import shape_overrides

RECIPES = Path("pipelines/recipes")
BART, T5 = 3_784_704 + 49_152, 5_996_544 + 47_616
"""The paper's counts (its Table 1) and, which it leaves out, the norms."""


@dataclass(frozen=True)
class Recipe:
    """What a recipe promises."""

    kind: JobKind
    trial: str | None
    """recipe that makes it a trial of seconds"""
    counts: dict[str, int]
    """trainable parameters of its stages"""
    rows: tuple[int, int] | None
    """rows and width of an image's features"""


TASKS = {
    **{f"bart_{task}": Recipe(FINETUNE, "bart_task", {"tune": BART}, (49, 2048)) for task in ("vqav2", "gqa", "coco")},
    **{f"t5_{task}": Recipe(FINETUNE, "t5_task", {"tune": T5}, (49, 2048)) for task in ("vqav2", "gqa", "coco")},
    **{
        f"bart_{task}": Recipe(FINETUNE, "bart_video", {"tune": 2_605_056 + 49_152}, None)
        for task in ("tvqa", "how2qa")
    },
    # The paper's count less the embedding and the adapter that never get a gradient.
    "llama7b_scienceqa": Recipe(FINETUNE, "llama_scienceqa", {"tune": 3_846_272}, (256, 1024)),
    "llama13b_scienceqa": Recipe(FINETUNE, "llama_scienceqa", {"tune": 5_452_928}, (256, 1024)),
    "llava15_vicuna7b": Recipe(
        INSTRUCT, "llava15_instruct", {"stage1": 25_698_304, "stage2": 345_513_984}, (576, 1024)
    ),
    "qwen3_siglip2": Recipe(INSTRUCT, "qwen3_instruct", {"stage1": 6_574_080, "stage2": 146_034_688}, (196, 768)),
}
OWN = {"toyworld": INSTRUCT, "smoke": INSTRUCT, "compare": COMPARISON}


def read(name: str, *overrides: str) -> Any:
    kind = TASKS[name].kind if name in TASKS else OWN[name]
    return read_settings(kind, ["--config", str(RECIPES / f"{name}.yaml"), *overrides])


def test_every_recipe_is_here() -> None:
    assert {path.stem for path in RECIPES.glob("*.yaml")} == {*TASKS, *OWN}
    trials = {recipe.trial for recipe in TASKS.values()}
    assert {path.stem for path in (RECIPES / "tiny").glob("*.yaml")} == trials


@pytest.mark.parametrize("name", [*TASKS, *OWN])
def test_it_resolves_and_begins_with_its_command(name: str) -> None:
    config = read(name)
    assert config.name == name
    text = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8")
    kind = TASKS[name].kind if name in TASKS else OWN[name]
    opening = text.split("\nname:")[0]
    assert f"python pipelines/{kind.script}" in opening
    assert f"--config pipelines/recipes/{name}.yaml" in opening


@pytest.mark.parametrize("name", TASKS)
def test_it_trains_what_it_says(name: str, tmp_path: Path) -> None:
    plain = read(name)
    vision = None if plain.vision is None else plain.vision.path
    config = read(name, *shape_overrides(plain.language.path, vision, tmp_path))
    assert planned_parameters(config) == TASKS[name].counts
    largest = max(TASKS[name].counts.values())
    opening = (RECIPES / f"{name}.yaml").read_text(encoding="utf-8").split("\nname:")[0]
    assert f"{largest:,} trainable parameters" in opening or f"{largest:,} in stage 2" in opening


@pytest.mark.parametrize("name", [name for name, recipe in TASKS.items() if recipe.rows])
def test_its_images_fit_its_memory(name: str, tmp_path: Path) -> None:
    from memvp_train.models.vision import feature_shape

    plain = read(name)
    config = read(name, *shape_overrides(plain.language.path, plain.vision.path, tmp_path))
    shape = feature_shape(config.vision)
    assert (shape.num_rows, shape.width) == TASKS[name].rows
    assert config.memvp.vision_hidden_size == shape.width
    assert config.memvp.num_slots >= shape.num_rows


def test_tasks_are_trained_as_in_the_paper() -> None:
    for name in ("bart_vqav2", "t5_gqa", "bart_coco"):
        stage = read(name).stage
        assert (stage.learning_rate, stage.global_batch_size, stage.num_epochs) == (1e-3, 512, 20)
        assert (stage.schedule, stage.warmup_fraction, stage.max_grad_norm, stage.eps) == ("linear", 0.1, 5.0, 1e-6)
        assert read(name).memvp.num_slots == 240
    assert read("bart_tvqa").stage.global_batch_size == 64
    science = read("llama7b_scienceqa")
    assert (science.stage.learning_rate, science.stage.betas, science.stage.weight_decay) == (
        1.125e-3,
        (0.9, 0.95),
        0.02,
    )
    assert (science.vision.adapter_dim, science.vision.post_norm) == (12, True)
    assert (science.memvp.num_slots, read("llama13b_scienceqa").memvp.num_slots) == (320, 400)


# One recipe of each trial; the others differ from it in their data.
FIRST_OF_ITS_TRIAL = {recipe.trial: name for name, recipe in reversed(TASKS.items())}.values()


@pytest.mark.parametrize(
    "name", [name if name in FIRST_OF_ITS_TRIAL else pytest.param(name, marks=pytest.mark.slow) for name in TASKS]
)
def test_its_trial_runs(name: str, tmp_path: Path, empty_database: Path, capfd: pytest.CaptureFixture[str]) -> None:
    trial = RECIPES / "tiny" / f"{TASKS[name].trial}.yaml"
    shutil.copy(empty_database, tmp_path / "mlflow.db")
    arguments = ["--config", str(RECIPES / f"{name}.yaml"), "--config", str(trial), f"--storage={tmp_path}"]
    assert run_entry(TASKS[name].kind, arguments) == 0, capfd.readouterr().err
    report: Any = read_json(tmp_path / name / "report.json")
    assert report["name"] == name
    if TASKS[name].kind is FINETUNE:
        (rows,) = report["benchmarks"].values()
        assert set(rows) == {"tuned", "tuned, no image"}
        assert all(row["n"] > 0 for row in rows.values())


def test_validation_split_and_settings_go_together() -> None:
    assert isinstance(read("bart_vqav2"), FinetuneConfig)
    assert isinstance(read("qwen3_siglip2"), JobConfig)
    with pytest.raises(ValueError, match=r"data.validation .* stage.validation .* set both or none"):
        read("bart_vqav2", "--stage.validation=null")


def test_trials_are_recipes_of_their_own_kind() -> None:
    for recipe in TASKS.values():
        tree = yaml.safe_load((RECIPES / "tiny" / f"{recipe.trial}.yaml").read_text(encoding="utf-8"))
        assert tree["launch"]["num_workers"] == 0
        assert tree["language"]["random_init"] is True
