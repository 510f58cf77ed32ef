"""Damaged checkpoints, put aside as `damaged-<name>` and written down in `quarantine.json` beside them.

Only the driver does this, before it starts workers and after they are done: several workers may be reading at once.
"""

import json
import logging
import shutil
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from memvp_data.files.atomic import atomic_write, sync_folder
from memvp_train.checkpoints.state import DamageError, newest_first, verify

QUARANTINE_FILE = "quarantine.json"
_KEPT = 2
_log = logging.getLogger(__name__)


def put_damaged_aside(folder: Path) -> list[str]:
    """Verify every checkpoint in `folder` and rename the damaged ones; returns what was wrong with each.

    The newest two damaged ones stay on disk; the record names all.
    """
    reasons = []
    for checkpoint in newest_first(folder):
        try:
            verify(checkpoint)
        except DamageError as error:
            reasons.append(str(error))
            _put_aside(checkpoint, reason=str(error))
    return reasons


def quarantined(folder: Path) -> list[dict[str, Any]]:
    """Every checkpoint that was ever found damaged in `folder`: its name, what was wrong, when it was found."""
    try:
        return json.loads((folder / QUARANTINE_FILE).read_bytes())
    except (OSError, ValueError):
        return []


def _put_aside(checkpoint: Path, *, reason: str) -> None:
    folder = checkpoint.parent
    found = datetime.now(UTC).isoformat(timespec="seconds")
    entries = [*quarantined(folder), {"checkpoint": checkpoint.name, "reason": reason, "found": found}]
    with atomic_write(folder / QUARANTINE_FILE) as file:
        file.write(json.dumps(entries, indent=1).encode())
    aside = folder / f"damaged-{len(entries):04d}-{checkpoint.name}"
    checkpoint.rename(aside)
    sync_folder(folder)
    for old in sorted(folder.glob("damaged-*"))[:-_KEPT]:
        shutil.rmtree(old)
    _log.warning("%s; it was put aside as %s and the one before it is used", reason, aside.name)
