"""What a set of samples holds, counted while it passes: what is blank, there twice or without an image is said."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field

from memvp_data.samples import Sample

_MOST_REMEMBERED = 2_000_000


@dataclass
class Contents:
    """Counts of the samples that have passed `watched`."""

    samples: int = 0
    """All of them."""
    without_image: int = 0
    """Those that are text only."""
    blank_questions: int = 0
    """Those in which a user says nothing."""
    blank_answers: int = 0
    """Those that teach to say nothing."""
    repeated: int = 0
    """Those that were there before under another id: the same images, words and answers. Among the first two million
    different ones, so that memory stays bounded."""
    _seen: set[int] = field(default_factory=set[int], repr=False)

    def watched(self, samples: Iterable[Sample]) -> Iterator[Sample]:
        """The samples themselves, counted."""
        for sample in samples:
            self.add(sample)
            yield sample

    def add(self, sample: Sample) -> None:
        """Count one."""
        self.samples += 1
        self.without_image += not sample.image_ids
        blank = {turn.role for turn in sample.turns if not turn.text.strip()}
        self.blank_questions += "user" in blank
        self.blank_answers += "assistant" in blank
        # A hash of 64 bits stands for the content.
        content = hash((sample.image_ids, sample.turns, sample.answers))
        self.repeated += content in self._seen
        if len(self._seen) < _MOST_REMEMBERED:
            self._seen.add(content)

    def oddities(self) -> str:
        """What a user would want to look at, in a few words; "" if there is nothing."""
        found = {
            "with a blank question": self.blank_questions,
            "with a blank answer to learn": self.blank_answers,
            "there again under another id": self.repeated,
        }
        return ", ".join(f"{count:,} {words}" for words, count in found.items() if count)
