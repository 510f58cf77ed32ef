"""Where a loader stands: a few numbers that a checkpoint keeps, refused when they belong to another run."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from typing import Any


class ResumeError(ValueError):
    """A saved place belongs to other data, another seed or another batch size."""


@dataclass(frozen=True)
class LoaderState:
    """A place in the stream of global batches; world size and number of workers are not part of it."""

    step: int
    """The next step to take, from 0."""
    seed: int
    """Seed of the order."""
    global_batch_size: int
    """Samples of a step over all ranks."""
    num_samples: int
    """Samples of an epoch."""
    order: str
    """How the samples are ordered: "shuffled" or "by image, 8" (run length)."""
    data: str
    """Digest of the samples."""

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> "LoaderState":
        """Read `to_dict`'s values back. Raises `ResumeError` if they are not those."""
        expected = {field.name: type(getattr(_EXAMPLE, field.name)) for field in fields(cls)}
        if set(values) != set(expected) or any(type(values[name]) is not kind for name, kind in expected.items()):
            raise ResumeError(f"a loader's place has the fields {', '.join(expected)}, got {dict(values)!r}")
        return cls(**values)

    def resumed_by(self, now: "LoaderState") -> int:
        """The step to go on with, when the loader that goes on stands at `now`.

        Raises `ResumeError` naming each difference, for the stream would not be the same one.
        """
        saved, present = asdict(self), asdict(now)
        changes = [
            f"{name} was {saved[name]!r}, is {present[name]!r}" for name in saved if _differs(name, saved, present)
        ]
        if changes:
            raise ResumeError(
                f"cannot go on at step {self.step} with another stream of samples: {'; '.join(changes)}; "
                "put it back, or start at step 0"
            )
        return self.step


_EXAMPLE = LoaderState(0, 0, 1, 1, "", "")


def _differs(name: str, saved: Mapping[str, Any], present: Mapping[str, Any]) -> bool:
    return name != "step" and saved[name] != present[name]
