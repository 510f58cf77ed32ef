"""Maps over items on Ray: tasks over shards, and actors that keep what was loaded."""

import logging
from collections.abc import Callable, Sequence
from typing import Any, TypeVar

import ray
import ray.train
import torch
from ray.exceptions import RayActorError, RayTaskError

from memvp_train.launch.actor_pool import ActorDied, ActorPool
from memvp_train.launch.cluster import SECONDS_BETWEEN, check_room, waiting_for
from memvp_train.launch.resources import Resources
from memvp_train.launch.supervision import LaunchError, last_line

Item = TypeVar("Item")
Result = TypeVar("Result")
_log = logging.getLogger(__name__)


def map_shards(
    fn: Callable[[Item], Result],
    items: Sequence[Item],
    *,
    cpus_per_task: int = 1,
    gpus_per_task: float = 0,
    on_done: Callable[[int], None] = lambda done: None,
) -> list[Result]:
    """`fn` of every item as Ray tasks, results in the order of the items; needs an open `ray_session`.

    `on_done` gets the number of finished items. A `ValueError` of a task is raised here as itself.
    """
    if items:
        _await_room(Resources(cpus_per_task, gpus_per_task), num_tasks=len(items))
    task = ray.remote(fn).options(num_cpus=cpus_per_task, num_gpus=gpus_per_task, max_retries=3)
    pending = references = [task.remote(item) for item in items]
    try:
        while pending:
            finished, pending = ray.wait(pending, num_returns=1)
            ray.get(finished)
            on_done(len(references) - len(pending))
        return ray.get(references)
    except RayTaskError as error:
        cause = getattr(error, "cause", None)
        for reference in pending:
            ray.cancel(reference)
        if isinstance(cause, ValueError):
            raise cause from None
        raise


def _await_room(wanted: Resources, *, num_tasks: int) -> None:
    """Returns when there is room for one task, so that the wait for it is told from work."""
    check_room(wanted, of="task")
    first = ray.remote(_nothing).options(num_cpus=wanted.cpus, num_gpus=wanted.gpus).remote()
    while not ray.wait([first], timeout=SECONDS_BETWEEN)[0]:
        _log.warning("%s", waiting_for(wanted, count=num_tasks, of="task"))


def _nothing() -> None:
    """The task that finds out whether there is room."""


def map_actors(
    make: Callable[[], Callable[[Item], Result]],
    items: Sequence[Item],
    *,
    num_actors: int,
    cpus_per_actor: int = 1,
    gpus_per_actor: float = 0,
    on_done: Callable[[int], None] = lambda place: None,
) -> list[Result]:
    """Every item given to one of several actors, each with a function of its own from `make`, which keeps its state.

    For work with something large to load first. Results are in the order of the items; `on_done` gets the place of
    each item as it finishes. An actor that dies is replaced and its item tried again, three times at most. A
    `ValueError` in an actor is raised here as itself. Needs an open `ray_session`.
    """
    actors = _RayActors(make, wanted=Resources(cpus_per_actor, gpus_per_actor))
    try:
        return ActorPool(actors).run(items, num_actors=num_actors, on_done=on_done)
    except RayTaskError as error:
        cause = getattr(error, "cause", None)
        if isinstance(cause, ValueError):
            raise cause from None
        raise
    except ActorDied as error:
        raise LaunchError(f"actors died at the same item again and again ({error}); give them more memory") from error


class _Actor:
    """Makes its function at the first item, so that what goes wrong there is told as the fault of that item."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]], *, num_threads: int) -> None:
        torch.set_num_threads(num_threads)
        self._make, self._fn = make, None

    def start(self) -> None:
        """Returns when the actor has its resources."""

    def run(self, item: Any) -> Any:
        if self._fn is None:
            self._fn = self._make()
        return self._fn(item)


class _RayActors:
    """Ray's calls for an ActorPool."""

    def __init__(self, make: Callable[[], Callable[[Any], Any]], *, wanted: Resources) -> None:
        check_room(wanted, of="actor")  # Ray would wait for it without end
        kind: Any = ray.remote(_Actor).options(num_cpus=wanted.cpus, num_gpus=wanted.gpus)
        self._wanted = wanted
        self._make = lambda: kind.remote(make, num_threads=int(wanted.cpus))

    def start(self) -> tuple[Any, Any]:
        actor = self._make()
        return actor, actor.start.remote()

    def give(self, actor: Any, item: Any, /) -> Any:
        return actor.run.remote(item)

    def first_ended(self, calls: list[Any], /) -> Any:
        return next(iter(ray.wait(calls, num_returns=1, timeout=SECONDS_BETWEEN)[0]), None)

    def say_waiting(self, num_actors: int, /) -> None:
        _log.warning("%s", waiting_for(self._wanted, count=num_actors, of="actor"))

    def result(self, call: Any, /) -> Any:
        try:
            return ray.get(call)
        except RayActorError as error:
            raise ActorDied(last_line(error).partition(". ")[0]) from error

    def end(self, actor: Any, /) -> None:
        ray.kill(actor)
