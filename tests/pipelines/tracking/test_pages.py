"""What MLflow's pages are told: columns of the list, the way to the report, where a run came from."""

import json
import sys

import pytest

from pipelines.tracking.pages import note, source_tags, view_route, view_tag


def test_a_view_has_the_jobs_with_their_figures_and_the_route_asks_for_it() -> None:
    key, value = view_tag("toyworld", numbers=[f"accuracy/{number}" for number in range(20)])
    view = json.loads(value)
    assert key == "mlflow.sharedViewState.toyworld"
    assert view["selectedColumns"] == [f"metrics.`accuracy/{number}`" for number in range(8)]
    assert "memvp.run_key" in view["searchFilter"]
    route = view_route("toyworld", experiment="7")
    assert route == "#/experiments/7/runs?viewStateShareKey=toyworld&workflowType=machine_learning"


@pytest.mark.parametrize("longest", [200, 8000])
def test_a_note_leads_to_the_report_and_never_cuts_a_line(longest: int) -> None:
    lines = [f"| row {number} | 1.0 |" for number in range(50)]
    text = note("\n".join(lines) + "\n", experiment="7", run_id="abc", longest=longest)
    assert text.startswith("[report.html](#/experiments/7/runs/abc/artifacts/report.html)")
    assert len(text) <= longest
    shown = [line for line in text.splitlines() if line.startswith("|")]
    assert shown == lines[: len(shown)]
    assert (len(shown) == 50) == (longest == 8000)


def test_source_is_the_script(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", ["/some/where/instruct_tune.py"])
    monkeypatch.delenv("RAY_JOB_CONFIG_JSON_ENV_VAR", raising=False)
    tags = source_tags()
    assert (tags["mlflow.source.name"], tags["mlflow.source.type"]) == ("instruct_tune.py", "LOCAL")
    monkeypatch.setenv("RAY_JOB_CONFIG_JSON_ENV_VAR", "{}")
    assert source_tags()["mlflow.source.type"] == "JOB"


def test_a_user_without_a_name_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    def nobody() -> str:
        raise KeyError("getpwuid(): uid not found: 1234")

    monkeypatch.setattr("getpass.getuser", nobody)
    assert "mlflow.user" not in source_tags()
