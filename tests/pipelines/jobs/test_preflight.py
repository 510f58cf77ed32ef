"""What is refused before anything is started, each with one sentence that names the thing."""

import socket
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from pipelines.config.errors import RecipeError
from pipelines.config.instruct import JobConfig
from pipelines.jobs.kinds import INSTRUCT
from pipelines.jobs.preflight import check_gate, check_sources, check_tracking, tracking_address

Recipe = Callable[..., JobConfig]


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def test_dead_server_is_named_at_once() -> None:
    uri = f"http://127.0.0.1:{free_port()}"
    started = time.monotonic()
    with pytest.raises(RecipeError, match=rf"MLflow server at {uri} does not answer .*tracking.uri"):
        check_tracking(uri)
    assert time.monotonic() - started < 30  # MLflow alone would try again for minutes


@pytest.mark.parametrize(("status", "is_fine"), [(200, True), (401, True), (404, False), (503, False)])
def test_server_that_answers(status: int, is_fine: bool) -> None:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(status)
            self.end_headers()

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    uri = f"http://127.0.0.1:{server.server_port}"
    try:
        if is_fine:
            check_tracking(uri)
        else:
            with pytest.raises(RecipeError, match=f"HTTP {status}"):
                check_tracking(uri)
    finally:
        server.shutdown()
        server.server_close()


def test_folder_is_no_tracking_store(tmp_path: Path) -> None:
    with pytest.raises(RecipeError, match="is a folder"):
        check_tracking(str(tmp_path))


def test_file_that_is_no_database(tmp_path: Path) -> None:
    path = tmp_path / "mlflow.db"
    path.write_text("not a database")
    with pytest.raises(RecipeError, match="is not an SQLite database"):
        check_tracking(f"sqlite:///{path}")


def test_address_rule(recipe: Recipe, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert tracking_address(recipe("smoke"), storage=Path("/s")) == "sqlite:////s/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://b")
    assert tracking_address(recipe("smoke"), storage=Path("/s")) == "http://b"
    assert tracking_address(recipe("smoke", "--tracking.uri=http://a"), storage=Path("/s")) == "http://a"


def test_missing_files_are_named_with_their_setting(recipe: Recipe, tmp_path: Path) -> None:
    config = recipe("llava15_vicuna7b", f"--data.root={tmp_path}")
    with pytest.raises(RecipeError, match=r"data.stage1.conversations: no file .*blip_laion_cc_sbu_558k.json"):
        check_sources(config, INSTRUCT.steps(config))
    for name in ("blip_laion_cc_sbu_558k.json", "llava_v1_5_mix665k.json"):
        (tmp_path / name).write_text("[]")
    with pytest.raises(RecipeError, match=r"data.test.image.questions: no file .*llava_pope_test.jsonl"):
        check_sources(config, INSTRUCT.steps(config))
    (tmp_path / "eval/pope").mkdir(parents=True)
    for name in ("llava_pope_test.jsonl", "answers.jsonl"):
        (tmp_path / "eval/pope" / name).write_text("")
    with pytest.raises(RecipeError, match=r"data.stage1.images: no folder .*LLaVA-Pretrain/images"):
        check_sources(config, INSTRUCT.steps(config))


def test_missing_root(recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match=r"data.root: no folder /nowhere"):
        check_sources(
            recipe("llava15_vicuna7b", "--data.root=/nowhere"),
            INSTRUCT.steps(recipe("llava15_vicuna7b", "--data.root=/nowhere")),
        )


@pytest.mark.parametrize("name", ["image", "unseen", "text_only"])
def test_gate_looks_at_a_slice_that_is_scored(recipe: Recipe, name: str) -> None:
    check_gate(recipe("smoke"))
    check_gate(recipe("smoke", f"--tracking.gate.slice={name}"))


@pytest.mark.parametrize("name", ["described", "imgae"])
def test_gate_on_a_slice_that_is_not_scored_is_refused(recipe: Recipe, name: str) -> None:
    with pytest.raises(RecipeError, match=f"one of image, unseen, text_only, got '{name}'"):
        check_gate(recipe("smoke", f"--tracking.gate.slice={name}"))


def test_gate_of_a_job_without_questions(recipe: Recipe) -> None:
    with pytest.raises(RecipeError, match="got 'image'"):
        check_gate(recipe("smoke", "--data.test=null", "--tracking.gate.slice=image"))
