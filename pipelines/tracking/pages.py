"""What a person sees first in MLflow's pages: where a run came from, which columns its list has, and the way there.

MLflow opens its pages for chats and shows no scores in the list of runs unless the address asks for a view that was
saved with the experiment; the names of its tags and of a view's parts are those of MLflow's own pages (3.17).
"""

import getpass
import json
import os
import sys
from collections.abc import Iterable
from pathlib import Path

EXPERIMENT_TAGS = {
    "mlflow.experimentKind": "custom_model_development",
    "mlflow.note.content": "One run for a job, its steps below it. A run's description has the table of results "
    "and leads to its report; a job's last line leads to the view of this list that shows the scores.",
}
_MOST_COLUMNS = 8


def source_tags() -> dict[str, str]:
    """Who started the run, and with what."""
    inside_ray = "RAY_JOB_CONFIG_JSON_ENV_VAR" in os.environ
    tags = {"mlflow.source.name": Path(sys.argv[0]).name, "mlflow.source.type": "JOB" if inside_ray else "LOCAL"}
    try:
        return {**tags, "mlflow.user": getpass.getuser()}
    except (KeyError, OSError):  # a container's user may have no name
        return tags


def view_tag(name: str, *, numbers: Iterable[str]) -> tuple[str, str]:
    """Tag of the experiment for a view of its runs: the jobs alone, with these figures as columns."""
    view = {
        "searchFilter": "tags.`memvp.run_key` != ''",
        "orderByKey": "attributes.start_time",
        "orderByAsc": False,
        "startTime": "ALL",
        "lifecycleFilter": "Active",
        "modelVersionFilter": "All Runs",
        "datasetsFilter": [],
        "selectedColumns": [f"metrics.`{number}`" for number in list(numbers)[:_MOST_COLUMNS]],
        "runsExpanded": {},
        "runsPinned": [],
        "runsHidden": [],
    }
    return f"mlflow.sharedViewState.{name}", json.dumps(view)


def view_route(name: str, *, experiment: str) -> str:
    """Of that view, below the server's address."""
    return f"#/experiments/{experiment}/runs?viewStateShareKey={name}&workflowType=machine_learning"


def note(markdown: str, *, experiment: str, run_id: str, longest: int) -> str:
    """Description of a run: the way to its report, then the table, cut at a line if it is too long."""
    page = f"#/experiments/{experiment}/runs/{run_id}/artifacts/report.html"
    lead = f"[report.html]({page}) has pictures and intervals.\n\n"
    room = longest - len(lead)
    whole = markdown if len(markdown) <= room else markdown[: markdown.rindex("\n", 0, room) + 1]
    return lead + whole
