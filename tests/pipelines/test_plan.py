"""plan.py from the command line: both kinds of recipe, numbers as JSON, and what it refuses."""

import json

import pytest

from pipelines.plan import main

TOYWORLD = ["--config", "pipelines/recipes/toyworld.yaml", "--gpu", "cpu", "--gpus", "2"]


def test_json_of_a_job(capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TOYWORLD, "--json", "--tokens", "stage1=20,60,5", "--stage1.micro_batch_size=8"]) == 0
    plan = json.loads(capsys.readouterr().out)
    assert plan["texts"]["stage1"] == {"num_samples": 4000, "num_tokens": 20, "longest": 60, "num_labels": 5}
    assert (plan["features"]["num_rows"], plan["features"]["width"]) == (36, 128)
    for costs in plan["stages"].values():
        assert [one["method"] for one in costs] == ["memory", "input space", "full"]
        assert costs[0]["step_flops"] < costs[1]["step_flops"] < costs[2]["step_flops"]
        assert all(one["memory_total"] == sum(one["memory"].values()) for one in costs)
    # Twice 48 position rows of 128 for each of 4 layers, and a projector 128 -> 64 -> 128.
    assert plan["stages"]["stage1"][0]["num_trained"] == 2 * 4 * 48 * 128 + 129 * 64 + 65 * 128


def test_tables_of_a_benchmark_with_a_live_tower(capsys: pytest.CaptureFixture[str]) -> None:
    recipes = ("llama7b_scienceqa", "tiny/llama_scienceqa")
    configs = [word for name in recipes for word in ("--config", f"pipelines/recipes/{name}.yaml")]
    assert main([*configs, "--gpus", "2", "--gpu", "h100-80gb"]) == 0
    printed = capsys.readouterr().out
    assert "llama7b_scienceqa, tune: 2 x h100-80gb, ZeRO-2; GiB of each" in printed
    assert "samples of 32 text tokens on average" in printed
    assert "features: none are stored" in printed
    assert "NVIDIA H100 Tensor Core GPU data sheet" in printed


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["--gpus", "5"], "global_batch_size 32 must be a multiple of the 5 workers; try 35"),
        (["--tokens", "stage3=9"], "--tokens names 'stage3'; the stages of this recipe are stage1, stage2"),
        (["--tokens", "stage1=many"], "--tokens expects STAGE=MEAN[,LONGEST[,LEARNT]]"),
        (["--stage1.learning_speed=1"], "learning_speed"),
        (["--language.path=/nowhere"], "/nowhere"),
    ],
)
def test_refused_in_one_sentence(arguments: list[str], sentence: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*TOYWORLD, *arguments]) in (1, 2)
    error = capsys.readouterr().err
    assert sentence in error
    assert len(error.splitlines()) == 1
