"""The tokens of a whole samples table in one safetensors file: made once before training, read by every worker.

So no worker needs a tokenizer or repeats the tokenising after a restart, and memory is mapped, not copied.
"""

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from memvp_data.dataloader.token_table import TokenTable, TokenTableError, TokenTableWriter
from memvp_data.samples import read_samples
from memvp_data.text import encode_answers
from memvp_train.config import StageRun
from memvp_train.models.language import build_tokenizer

TABLES = {"samples": "encoded.safetensors", "validation": "validation.safetensors"}
"""Files in the stage's folder, by the table of the run that they are of."""
_COUNTS = ("num_dropped", "num_shortened", "num_prompts_cut")


class EncodedError(ValueError):
    """An encoded table is missing, damaged, or was made from something else."""


@dataclass(frozen=True)
class EncodedCounts:
    """What became of the samples."""

    num_samples: int
    """Samples in the table."""
    num_dropped: int
    """Samples left out because `max_length` cut off every label."""
    num_shortened: int = 0
    """Samples in the table of whose labels `max_length` cut off some."""
    num_prompts_cut: int = 0
    """Samples in the table out of whose prompt tokens were taken for `max_length`."""


def encoded_table(
    run: StageRun,
    *,
    of: Literal["samples", "validation"],
    settings: Mapping[str, Any],
    encoder_decoder: bool,
    on_sample: Callable[[int], None] = lambda done: None,
) -> "EncodedTable":
    """The tokens of a samples table of a stage, made now unless they lie in its folder.

    `settings` are those that decide the stage's result, and name the table; the rest is as in `write_encoded`.
    """
    path, key = Path(run.out) / TABLES[of], _key(settings, of=of)
    try:
        return EncodedTable(path, key=key)
    except EncodedError:
        tokenizer = build_tokenizer(run.language)
    write_encoded(
        Path(getattr(run, of)),
        out=path,
        tokenizer=tokenizer,
        template=run.stage.template,
        max_length=run.stage.max_length,
        key=key,
        encoder_decoder=encoder_decoder,
        progress=on_sample,
    )
    return EncodedTable(path, key=key)


def _key(settings: Mapping[str, Any], *, of: str) -> str:
    named = {"language": settings["language"], of: settings[of]}
    named |= {name: settings["stage"][name] for name in ("template", "max_length")}
    return hashlib.sha256(json.dumps(named, sort_keys=True).encode()).hexdigest()


def write_encoded(
    samples: Path,
    *,
    out: Path,
    tokenizer: Any,
    template: str,
    max_length: int,
    key: str,
    encoder_decoder: bool = False,
    progress: Callable[[int], None] = lambda done: None,
) -> EncodedCounts:
    """Tokenise a samples table into `out` (atomic). `key` names what went in; `EncodedTable` checks it.

    `progress` gets the number of samples read so far.
    """
    settings = {"template": template, "max_length": max_length, "encoder_decoder": encoder_decoder}
    num_dropped = num_shortened = num_prompts_cut = 0
    with TokenTableWriter(out) as table:
        for done, sample in enumerate(read_samples(samples), start=1):
            answers = encode_answers(sample, tokenizer=tokenizer, **settings)
            num_dropped += not answers
            num_shortened += any(answer.num_cut_labels for answer in answers)
            num_prompts_cut += any(answer.num_cut_prompt for answer in answers)
            if answers:
                table.add(answers)
            progress(done)
        if not table.num_samples:
            raise EncodedError(
                f"{samples} leaves no sample to train on: {num_dropped} have no label in {max_length} tokens"
            )
        counts = EncodedCounts(table.num_samples, num_dropped, num_shortened, num_prompts_cut)
        metadata: dict[str, Any] = {name: getattr(counts, name) for name in _COUNTS}
        metadata |= {"key": key, "pad_token_id": _padding(tokenizer)}
        table.close({name: str(value) for name, value in metadata.items()})
    return counts


def _padding(tokenizer: Any) -> int:
    """Masked and unlabelled, so any token does; the tokenizer's own if it has one."""
    for token_id in (tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token_id is not None:
            return int(token_id)
    return 0


class EncodedTable(TokenTable):
    """The samples of `write_encoded`, by position; `with_images=False` hands them out as text only.

    Raises `EncodedError` if the file is not the one that `key` names.
    """

    def __init__(self, path: Path, *, key: str, with_images: bool = True) -> None:
        try:
            super().__init__(path, with_images=with_images)
        except TokenTableError as error:
            raise EncodedError(f"{error}; encoded samples are made again") from None
        if self.metadata.get("key") != key:
            raise EncodedError(f"encoded samples {path} were made from other samples or settings; they are made again")
        self.key = key
        numbers = (int(self.metadata[name]) for name in _COUNTS)
        self.counts = EncodedCounts(len(self), *numbers)
        self.pad_token_id = int(self.metadata["pad_token_id"])

    @property
    def image_ids(self) -> set[str]:
        """Images that any sample needs."""
        return set(self.image_names())
