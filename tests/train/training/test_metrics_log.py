"""Every step has one row, in the file and for whoever follows it."""

import threading
from pathlib import Path

from memvp_train.training.metrics_log import MetricsLog, follow_metrics, read_metrics


def _rows(first: int, last: int, *, attempt: int = 0) -> list[dict[str, float]]:
    return [{"step": step, "loss": float(attempt)} for step in range(first, last + 1)]


def test_rows_after_the_checkpoint_are_made_again(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    log = MetricsLog(path, step=0)
    log.write(_rows(1, 5))
    log = MetricsLog(path, step=3)
    log.write(_rows(4, 6, attempt=1))
    assert read_metrics(path) == _rows(1, 3) + _rows(4, 6, attempt=1)


def test_half_a_line_is_no_row(tmp_path: Path) -> None:
    path = tmp_path / "metrics.jsonl"
    MetricsLog(path, step=0).write(_rows(1, 2))
    with path.open("ab") as file:
        file.write(b'{"step": 3, "lo')
    assert [row["step"] for row in read_metrics(path)] == [1, 2]
    MetricsLog(path, step=2).write(_rows(3, 3))
    assert [row["step"] for row in read_metrics(path)] == [1, 2, 3]


def test_follower_sees_each_step_once_over_a_restart(tmp_path: Path) -> None:
    path, stop, seen = tmp_path / "metrics.jsonl", threading.Event(), list[float]()

    def follow() -> None:
        seen.extend(row["step"] for row in follow_metrics(path, stop=stop, poll_seconds=0.01))

    thread = threading.Thread(target=follow)
    thread.start()
    MetricsLog(path, step=0).write(_rows(1, 5))
    stop.wait(0.2)
    MetricsLog(path, step=3).write(_rows(4, 9, attempt=1))
    stop.set()
    thread.join()
    assert seen == list(range(1, 10))
