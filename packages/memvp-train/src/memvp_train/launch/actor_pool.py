"""Items for a few actors, the next one to whichever is free; one that dies is replaced and its item tried again."""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

_RETRIES = 3


class ActorDied(Exception):
    """What an actor was asked for will not come."""


class ActorCalls(Protocol):
    """How actors are called: Ray's calls, in maps.py."""

    def start(self) -> tuple[Any, Any]:
        """A new actor, and a call that ends when it has its resources."""
        ...

    def give(self, actor: Any, item: Any, /) -> Any:
        """The call that works on an item."""
        ...

    def first_ended(self, calls: list[Any], /) -> Any:
        """One of these calls that has ended; waits for it, None after a while."""
        ...

    def say_waiting(self, num_actors: int, /) -> None:
        """Tell that so many actors have no resources yet, and nobody works."""
        ...

    def result(self, call: Any, /) -> Any:
        """What an ended call gave. Raises `ActorDied`, or what the actor raised."""
        ...

    def end(self, actor: Any, /) -> None:
        """Stop an actor."""
        ...


class ActorPool:
    """An actor that the cluster has no room for, yet, never holds an item: it gets one when it has started."""

    def __init__(self, actors: ActorCalls) -> None:
        self._actors = actors
        self._at_work: dict[Any, tuple[Any, int | None]] = {}
        self._free: list[Any] = []

    def run(self, items: Sequence[Any], *, num_actors: int, on_done: Callable[[int], None]) -> list[Any]:
        """Results in the order of the items; `on_done` gets the place of each as it ends. Actors end with the work."""
        results: list[Any] = [None] * len(items)
        waiting = deque(range(len(items)))
        try:
            for _ in range(min(num_actors, len(items))):
                self._add()
            for place, result in self._ended(items, waiting=waiting):
                results[place] = result
                on_done(place)
        finally:
            for actor in [*self._free, *(actor for actor, _ in self._at_work.values())]:
                self._actors.end(actor)
        return results

    def _ended(self, items: Sequence[Any], *, waiting: deque[int]) -> Iterator[tuple[int, Any]]:
        """(place, result) of every item."""
        deaths, missing = Counter[int | None](), len(items)
        while missing:
            while self._free and waiting:
                actor, place = self._free.pop(), waiting.popleft()
                self._at_work[self._actors.give(actor, items[place])] = (actor, place)
            call = self._first_ended()
            actor, place = self._at_work.pop(call)
            try:
                result = self._actors.result(call)
            except ActorDied:
                deaths[place] += 1
                if deaths[place] > _RETRIES:
                    raise
                waiting.extendleft([] if place is None else [place])
                self._add()
                continue
            self._free.append(actor)
            if place is not None:
                missing -= 1
                yield place, result

    def _first_ended(self) -> Any:
        while (call := self._actors.first_ended(list(self._at_work))) is None:
            if all(place is None for _, place in self._at_work.values()):
                self._actors.say_waiting(len(self._at_work))
        return call

    def _add(self) -> None:
        actor, call = self._actors.start()
        self._at_work[call] = (actor, None)
