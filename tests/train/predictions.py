"""Questions of the tiny world for an adapter that was never trained, and a process that dies while it answers them."""

import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

from memvp_core import MemVPConfig, get_memvp_model
from memvp_train.inference.generate import AnswerSettings
from memvp_train.inference.predict import ShardAnswerer
from memvp_train.inference.prediction_job import PredictionJob
from memvp_train.models.language import build_language_model


def untrained_job(tiny: Any, folder: Path) -> PredictionJob:
    """Five shards of questions; the adapter lies in `folder`."""
    model = get_memvp_model(build_language_model(tiny.language), MemVPConfig.from_dict(tiny.memvp))
    model.save_pretrained(folder / "adapter")
    return PredictionJob(
        language=tiny.language,
        adapter=str(folder / "adapter"),
        samples=str(tiny.samples),
        settings=AnswerSettings(template="toyworld", max_new_tokens=3, batch_size=2),
        features=str(tiny.features),
        samples_per_shard=5,
    )


def fragile_answerer(killed: Path | None) -> Callable[[Any], None]:
    """Dies at the item that starts at 10: once, where it can leave `killed` behind; without a path, always."""
    answerer = ShardAnswerer()

    def run(item: Any) -> None:
        if item["start"] == 10 and (killed is None or not killed.exists()):
            if killed is not None:
                killed.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        answerer(item)

    return run
