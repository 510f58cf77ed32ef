"""Maps over items in processes on this machine: the calls of maps.py without Ray."""

import copy
from collections.abc import Callable, Sequence
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

from memvp_train.launch.actor_pool import ActorDied, ActorPool
from memvp_train.launch.processes import begin_process, serve_processes
from memvp_train.launch.supervision import LaunchError


def map_processes(
    make: Callable[[], Callable[[Any], Any]],
    items: Sequence[Any],
    *,
    num_actors: int,
    on_done: Callable[[int], None] = lambda place: None,
) -> list[Any]:
    """Every item given to one of several processes, each with a function of its own from `make`, which keeps its state.

    Results are in the order of the items; `on_done` gets the place of each item as it finishes. A process that dies is
    replaced and its item tried again, three times at most. What the function raises is raised here. `make`, items and
    results are pickled on their way.
    """
    try:
        return ActorPool(_Processes(make)).run(items, num_actors=num_actors, on_done=on_done)
    except ActorDied as error:
        raise LaunchError(
            f"processes died at the same item again and again ({error}); if memory is short, set "
            "launch.local_processes lower"
        ) from error


def map_shard_processes(
    fn: Callable[[Any], Any],
    items: Sequence[Any],
    *,
    num_processes: int,
    on_done: Callable[[int], None] = lambda done: None,
) -> list[Any]:
    """`fn` of every item in so many processes; `on_done` gets the number of finished items."""
    done = 0

    def count(place: int) -> None:
        nonlocal done
        done += 1
        on_done(done)

    return map_processes(partial(_given, fn), items, num_actors=num_processes, on_done=count)


def _given(fn: Callable[[Any], Any]) -> Callable[[Any], Any]:
    return fn


class _Processes:
    """An actor is a process and the line to it; a call is the line, on which the answer comes."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]]) -> None:
        self._make, self._context = make, serve_processes()

    def start(self) -> tuple[Any, Connection]:
        line, other_end = self._context.Pipe()
        process = self._context.Process(target=_actor_main, args=(self._make, other_end), daemon=True)
        process.start()
        other_end.close()  # so that the line ends with the process
        return (process, line), line

    def give(self, actor: Any, item: Any, /) -> Connection:
        _, line = actor
        line.send(item)
        return line

    def first_ended(self, calls: list[Any], /) -> Any:
        return wait(calls)[0]

    def say_waiting(self, num_actors: int, /) -> None:
        """Never: processes wait for no room."""

    def result(self, call: Connection, /) -> Any:
        try:
            result, error = call.recv()
        except (EOFError, ConnectionError) as ended:
            raise ActorDied("ended from outside") from ended
        if error is not None:
            raise error
        return result

    def end(self, actor: Any, /) -> None:
        process, line = actor
        process.kill()
        process.join()
        line.close()


def _actor_main(make: Callable[[], Callable[[Any], Any]], line: Connection) -> None:
    begin_process()
    line.send((None, None))
    fn: Callable[[Any], Any] | None = None
    while True:
        try:
            item = line.recv()
        except EOFError:
            return
        try:
            fn = fn or make()
            answer = fn(item), None
        except Exception as error:
            answer = None, _sendable(error)
        line.send(answer)


def _sendable(error: Exception) -> Exception:
    """Itself where it survives the trip."""
    try:
        copy.copy(error)  # made anew from its arguments, as at the other end
    except Exception:
        return RuntimeError(f"{type(error).__name__}: {error}")
    return error
