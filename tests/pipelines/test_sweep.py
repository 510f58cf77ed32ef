"""A sweep varies one setting, shares what runs have in common, and adds up as the table says."""

import json
import shutil
import statistics
from pathlib import Path
from typing import Any

import pytest

from pipelines.jobs.kinds import FINETUNE, INSTRUCT
from pipelines.sweep import main, read_sweep

RECIPE = """
name: {name}
data: {{dataset: gqa, train: train, tests: [testdev], toyworld: {{num_images: 8}}}}
language: {{path: toyworld/language}}
vision: {{path: toyworld/vision, layer: -2, tokens: patches, preprocessing: toyworld_96}}
memvp: {{vision_hidden_size: 128, num_slots: 40, projector_hidden_sizes: [8]}}
stage: {{num_steps: 2, global_batch_size: 4, micro_batch_size: 4, template: toyworld, max_length: 64}}
answers: {{max_new_tokens: 2, shown: [own]}}
launch: {{num_workers: 0}}
"""


def test_a_seed_goes_to_every_stage() -> None:
    sweep = read_sweep(["--config=a.yaml", "--over=tiny.yaml", "--seeds=0,1", "--memvp.num_slots=9"])
    assert sweep.values == ("0", "1")
    both = ["--config=a.yaml", "--config=tiny.yaml", "--memvp.num_slots=9"]
    assert sweep.arguments(INSTRUCT, "a.yaml", "1") == [*both, "--stage1.seed=1", "--stage2.seed=1"]
    assert sweep.arguments(FINETUNE, "a.yaml", "0") == [*both, "--stage.seed=0"]


def test_any_setting_can_vary() -> None:
    sweep = read_sweep(["--config=a.yaml", "--vary", "stage2.lora.rank=1,4"])
    assert (sweep.setting, sweep.values) == ("stage2.lora.rank", ("1", "4"))
    assert sweep.arguments(INSTRUCT, "a.yaml", "4") == ["--config=a.yaml", "--stage2.lora.rank=4"]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory, empty_database: Path) -> tuple[Path, dict[str, Any]]:
    folder = tmp_path_factory.mktemp("sweep")
    shutil.copy(empty_database, folder / "mlflow.db")
    recipes = []
    for name in ("one", "two"):
        (folder / f"{name}.yaml").write_text(RECIPE.format(name=name))
        recipes.append(f"--config={folder / name}.yaml")
    assert main([*recipes, "--seeds=0,1", f"--storage={folder}"]) == 0
    return folder, json.loads((folder / "sweep-one-two.json").read_text())


def test_mean_and_spread_are_over_the_seeds(result: tuple[Path, dict[str, Any]]) -> None:
    lines = [line["scores"] for line in result[1]["lines"]]
    scores = [name for name in lines[0] if not name.endswith("trained")]
    assert scores == ["one: gqa, testdev", "two: gqa, testdev"]
    for name in scores:
        values = [line[name] for line in lines]
        assert result[1]["mean"][name] == pytest.approx(statistics.fmean(values))
        assert result[1]["spread"][name] == pytest.approx(statistics.stdev(values))
    assert result[1]["average"] == [pytest.approx(statistics.fmean(line[name] for name in scores)) for line in lines]


def test_seeds_share_data_and_features(result: tuple[Path, dict[str, Any]]) -> None:
    for step, number in (("build_shards", 1), ("extract_features", 1), ("tune", 2)):
        assert len(list(result[0].glob(f"one/{step}/*/step.json"))) == number


def test_a_value_that_is_none_is_refused_before_the_first_run(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "one.yaml").write_text(RECIPE.format(name="one"))
    arguments = [f"--config={tmp_path / 'one.yaml'}", "--vary=stage.num_steps=2,few", f"--storage={tmp_path}"]
    assert main(arguments) == 2
    assert "'stage.num_steps' expects a whole number or null, got few" in capsys.readouterr().err
    assert not (tmp_path / "one").exists()


def test_a_recipe_without_a_stage_is_refused(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--config=pipelines/recipes/compare.yaml", "--seeds=0"]) == 2
    assert "unknown setting 'adapters'" in capsys.readouterr().err
