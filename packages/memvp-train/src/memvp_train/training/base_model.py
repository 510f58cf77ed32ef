"""Which language model a stage trains on, noted where its weights are: the adapter is written without them."""

import json
from pathlib import Path
from typing import Any

from memvp_core import MemVPModel
from memvp_data.files.atomic import atomic_write

_FILE = "base_model.json"


def note_base(model: MemVPModel, *, out: Path) -> None:
    """Write it down in the folder of the stage; before ZeRO-3 cuts the weights into pieces."""
    with atomic_write(out / _FILE) as file:
        file.write(json.dumps(model.base_description()).encode())


def noted_base(out: Path) -> dict[str, Any] | None:
    """What was noted; None in a folder of before."""
    path = out / _FILE
    return json.loads(path.read_bytes()) if path.is_file() else None
