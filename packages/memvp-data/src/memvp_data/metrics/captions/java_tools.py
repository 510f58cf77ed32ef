"""The two Java programs that pycocoevalcap ships (extra `captions`): where they are, and one run of them over lines.

Called directly and not through the package's wrappers, which write into its own folder, follow the locale's encoding
and leave processes behind.
"""

import shutil
import subprocess
from importlib.util import find_spec
from pathlib import Path

from memvp_data.metrics.pairing import ScoreError

TOKENIZER = "tokenizer/stanford-corenlp-3.4.1.jar"
METEOR = "meteor/meteor-1.5.jar"
_PATIENCE = 1800  # seconds for one run; 30,000 captions take one minute


def find_jar(name: str) -> Path | None:
    """The jar, None without Java or without pycocoevalcap."""
    spec = find_spec("pycocoevalcap")
    folders = list(spec.submodule_search_locations or ()) if spec else []
    jars = [Path(folder) / name for folder in folders]
    return next((jar for jar in jars if jar.is_file()), None) if shutil.which("java") else None


def why_missing() -> str:
    """What to do when `find_jar` finds none."""
    if not shutil.which("java"):
        return "there is no java on the PATH; install a Java runtime (Debian: default-jre-headless)"
    return "pycocoevalcap is not installed; pip install 'memvp-data[captions]'"


def run_java(arguments: list[str], *, lines: list[str]) -> list[str]:
    """Feed lines to a Java program and return what it answers, line by line."""
    command = ["java", "-Dfile.encoding=UTF-8", "-Dstdout.encoding=UTF-8", *arguments]
    text = "".join(f"{line}\n" for line in lines)
    try:
        done = subprocess.run(
            command, input=text.encode(errors="replace"), capture_output=True, timeout=_PATIENCE, check=True
        )
    except (OSError, subprocess.SubprocessError) as error:
        said = (getattr(error, "stderr", b"") or b"").decode(errors="replace").strip().splitlines()[-1:]
        raise ScoreError(
            f"{' '.join(command[:4])} ... failed ({error}; {' '.join(said)}); check that it runs"
        ) from None
    return done.stdout.decode(errors="replace").split("\n")[:-1]
