"""Short ways to write questions and predictions in the tests of the metrics."""

from memvp_data.metrics.pairing import Answered, pair
from memvp_data.samples import Sample, Turn


def asked(name: str, *answers: str, image: str = "", text: str = "?", **fields: str) -> Sample:
    return Sample(name, (image,) if image else (), (Turn("user", text),), answers=answers, fields=fields)


def row(name: str, text: str) -> dict[str, str]:
    return {"question_id": name, "text": text}


def rows(texts: dict[str, str]) -> list[dict[str, str]]:
    return [row(name, text) for name, text in texts.items()]


def answered(*pairs: tuple[Sample, str]) -> list[Answered]:
    return pair([row(sample.id, text) for sample, text in pairs], [sample for sample, _ in pairs])
