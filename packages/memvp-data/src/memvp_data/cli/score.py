"""`python -m memvp_data score <dataset> <predictions>`: the scores of a predictions file, printed and as JSON."""

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from memvp_data.files.atomic import atomic_write
from memvp_data.metrics.bootstrap import RESAMPLES, SEED
from memvp_data.metrics.pairing import ScoreError, read_predictions
from memvp_data.metrics.suite import METRICS, Report, score
from memvp_data.samples import SampleError, read_samples


def add_score_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `score` to the command line."""
    parser = commands.add_parser("score", help="score a predictions file with the metric of a dataset")
    parser.add_argument("dataset", help=f"one of {', '.join(METRICS)}", metavar="dataset")
    parser.add_argument("predictions", help='JSON Lines of {"question_id", "text"}')
    parser.add_argument("--samples", required=True, help="samples table (Parquet) that was asked")
    parser.add_argument("--compare", help="another predictions file over the same samples: paired test against it")
    parser.add_argument("--out", help="write the scores to this JSON file as well")
    parser.add_argument("--resamples", type=int, default=RESAMPLES, help="of the bootstrap (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=SEED, help="of the bootstrap (default: %(default)s)")
    parser.set_defaults(run=_score)


def _score(chosen: argparse.Namespace) -> int:
    try:
        report = score(
            chosen.dataset,
            read_predictions(chosen.predictions),
            read_samples(chosen.samples),
            other=read_predictions(chosen.compare) if chosen.compare else None,
            resamples=chosen.resamples,
            seed=chosen.seed,
        )
        if chosen.out:
            write_report(chosen.out, report)
    except (ScoreError, SampleError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(as_text(report))
    return 0


def write_report(path: Path | str, report: Report) -> None:
    """The report as JSON: there whole or not at all."""
    with atomic_write(Path(path)) as file:
        file.write(json.dumps(report.as_json(), indent=2, ensure_ascii=False, allow_nan=False).encode() + b"\n")


def as_text(report: Report) -> str:
    """The report as a plain table."""
    head = (
        f"{report.dataset}: {report.n:,} predictions about {report.num_images:,} images, "
        f"{100 * report.unparsable:.2f} % without a readable answer"
    )
    foot = f"intervals: 95 %, {report.resamples:,} bootstrap resamples of images, seed {report.seed}"
    return "\n".join([head, "", *_aligned(_rows(report)), "", foot, *(f"note: {note}" for note in report.notes)])


def _rows(report: Report) -> list[list[str]]:
    rows = [["score", "value", "95 % interval", "n"]]
    if report.differences:
        rows[0] += ["difference", "95 % interval", "p"]
    for name, found in report.scores.items():
        row = [name, f"{found.value:.2f}", f"{found.low:.2f} to {found.high:.2f}", f"{found.n:,}"]
        if difference := report.differences.get(name):
            bounds = f"{difference.low:+.2f} to {difference.high:+.2f}"
            row += [f"{difference.value:+.2f}", bounds, f"{difference.p:.3f}"]
        rows.append(row)
    return rows


def _aligned(rows: Sequence[Sequence[str]]) -> list[str]:
    """Names to the left, numbers to the right."""
    widths = [max(map(len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for name, *numbers in rows:
        cells = [name.ljust(widths[0]), *(cell.rjust(width) for cell, width in zip(numbers, widths[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return lines
