"""Which slow libraries a command has imported by its end: what decides how long it takes to start, without a clock."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SLOW_LIBRARIES = {"torch", "transformers", "peft", "ray", "deepspeed", "mlflow", "matplotlib"}
_RUN = f"""
import runpy, sys
script, *arguments = sys.argv[1:]
sys.argv = [script, *arguments]
try:
    runpy.run_path(script, run_name="__main__")
except SystemExit as end:
    assert not end.code, end.code
print("imported:", *sorted({SLOW_LIBRARIES} & set(sys.modules)))
"""


def slow_imports(script: str, *arguments: str) -> set[str]:
    """Run `pipelines/<script>` to its end in a process of its own."""
    environment = {
        name: value for name, value in os.environ.items() if name not in ("RAY_ADDRESS", "MLFLOW_TRACKING_URI")
    }
    command = [sys.executable, "-c", _RUN, f"pipelines/{script}", *arguments]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    return set(done.stdout.splitlines()[-1].removeprefix("imported:").split())
