"""What a command need not import to start; of finished jobs: tests/pipelines/test_benchmark_jobs.py and tests/e2e."""

from pathlib import Path

import pytest

from tests.pipelines.loaded_modules import slow_imports

SMOKE = "--config=pipelines/recipes/smoke.yaml"


@pytest.mark.parametrize("script", ["instruct_tune.py", "finetune.py", "evaluate.py", "sweep.py", "plan.py"])
def test_help_imports_nothing_slow(script: str) -> None:
    assert slow_imports(script, "--help") == set()


def test_dry_run_builds_models_and_imports_no_more(tmp_path: Path) -> None:
    assert slow_imports("instruct_tune.py", SMOKE, f"--storage={tmp_path}", "--dry-run") <= {
        "torch",
        "transformers",
        "peft",
    }
