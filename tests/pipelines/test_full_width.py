"""The large recipes through their entry points: three steps at full width, killed after the first, and continued.

Width, patches, precision and ZeRO stage are the recipe's; depth (two layers), vocabulary and weights are not. Two gloo
workers on the CPU.
"""

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pipelines.workflow.run_folder import read_json
from tests.e2e.e2e_jobs import ROOT, job_environment, run_command, wait_for
from tests.pipelines.published_models import add_tokenizer, write_shape
from tests.pipelines.test_recipes import RECIPES, TASKS, read

SMALL: dict[str, Any] = {"num_hidden_layers": 2, "vocab_size": 76}
WORLD = {
    "num_train_images": 8, "num_validation_images": 1, "num_test_images": 2, "num_unseen_images": 1,
    "num_text_only": 4, "num_text_only_test": 2, "questions_per_image": 2,
}  # fmt: skip
LAUNCH = {"num_workers": 2, "use_gpu": "false", "cpus_per_worker": 1, "loader_processes": 0, "zero_stage": 3}


def stage_overrides(stage: str) -> list[str]:
    values = {
        "num_epochs": "null", "num_steps": 3, "global_batch_size": 4, "micro_batch_size": 2, "checkpoint_every": 1,
        "log_every": 1,
    }  # fmt: skip
    return [f"--{stage}.{name}={value}" for name, value in values.items()]


def overrides(name: str, folder: Path) -> list[str]:
    """Settings that make the recipe three steps of itself."""
    config = read(name)
    language = write_shape(config.language.path, folder, **SMALL)
    add_tokenizer(language)
    tower = write_shape(config.vision.path, folder, num_hidden_layers=3)
    models = {"language.path": language, "language.random_init": "true", "vision.path": tower}
    world = (
        {"toyworld.num_images": 4} if "tune" in TASKS[name].counts else {f"toyworld.{k}": v for k, v in WORLD.items()}
    )
    settings = {**models, "vision.random_init": "true", "vision.batch_size": 4, "data.root": "null"}
    settings |= {f"data.{key}": value for key, value in world.items()}
    settings |= {f"launch.{key}": value for key, value in LAUNCH.items()}
    stages = ["stage"] if "tune" in TASKS[name].counts else ["stage1", "stage2"]
    found = [f"--{key}={value}" for key, value in settings.items()]
    found += [setting for stage in stages for setting in stage_overrides(stage)]
    if "stage1" in TASKS[name].counts:
        files = {"questions": "test/questions.jsonl", "answers": "test/answers.jsonl", "images": "images"}
        found += [f"--data.test.image.{key}={value}" for key, value in files.items()]
        found += ["--data.stage1.images=images", "--data.stage2.images=images", "--evaluate.num_pictures=1"]
        # The toy world's tokenizer brings no chat template.
        found += ["--stage2.template=vicuna_v1"]
    return found


@pytest.mark.slow
@pytest.mark.timeout(9000)
@pytest.mark.parametrize("name", ["llava15_vicuna7b", "llama7b_scienceqa", "llama13b_scienceqa", "qwen3_siglip2"])
def test_three_steps_killed_after_the_first(name: str, tmp_path: Path) -> None:
    script = f"pipelines/{TASKS[name].kind.script}"
    storage = tmp_path / "runs"
    command = [sys.executable, script, "--config", str(RECIPES / f"{name}.yaml"), f"--storage={storage}"]
    command += overrides(name, tmp_path)
    last = [*TASKS[name].counts][-1]

    def checkpoints() -> list[Path]:
        return list(storage.glob(f"{name}/{last}/*/train/step-*/state.json"))

    with open(tmp_path / "log", "w") as log:
        job = subprocess.Popen(command, cwd=ROOT, env=job_environment(), stdout=log, stderr=log, start_new_session=True)
        wait_for(checkpoints, what="a first checkpoint", seconds=4000, process=job)
        os.killpg(job.pid, signal.SIGKILL)
        job.wait()
    done = run_command(command, folder=storage / name, seconds=4000)
    assert done.code == 0, done.err[-4000:]
    (curve,) = storage.glob(f"{name}/{last}/*/metrics.jsonl")
    rows = [line for line in curve.read_text().splitlines() if '"loss"' in line]
    assert len(rows) == 3
    report: Any = read_json(storage / name / "report.json")
    answered = report["rows"]["stage2"] if "rows" in report else next(iter(report["benchmarks"].values()))["tuned"]
    assert answered["n"] > 0
