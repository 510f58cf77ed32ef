"""`python -m memvp_data mmbench-submission <predictions>`: the workbook that MMBench's server takes."""

import argparse
import sys

from memvp_data.metrics.mmbench_submission import write_submission
from memvp_data.metrics.pairing import ScoreError, read_predictions
from memvp_data.samples import SampleError, read_samples


def add_submission_command(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add `mmbench-submission` to the command line."""
    parser = commands.add_parser("mmbench-submission", help="write predictions as the workbook MMBench's server takes")
    parser.add_argument("predictions", help='JSON Lines of {"question_id", "text"}')
    parser.add_argument("--samples", required=True, help="samples table (Parquet) that was asked")
    parser.add_argument("--out", required=True, help="the .xlsx file to write")
    parser.set_defaults(run=_submit)


def _submit(chosen: argparse.Namespace) -> int:
    try:
        num_rows = write_submission(chosen.out, read_predictions(chosen.predictions), read_samples(chosen.samples))
    except (ScoreError, SampleError, OSError) as error:
        print(error, file=sys.stderr)
        return 1
    print(f"{chosen.out}: {num_rows:,} rows")
    return 0
