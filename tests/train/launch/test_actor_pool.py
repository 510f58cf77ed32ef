"""Every item has its result in its place, whatever dies: against actors of a deck that is drawn anew for each seed."""

import random
from collections import Counter
from typing import Any

import pytest

from memvp_train.launch.actor_pool import ActorDied, ActorPool


class DrawnActors:
    """Doubles numbers. Calls end in an order drawn from a seed; some actors die, some never get room to start."""

    def __init__(self, seed: int, *, deaths: float = 0.0, room: int = 99) -> None:
        self.draw, self.deaths, self.room = random.Random(seed), deaths, room
        self.calls: list[tuple[int, Any]] = []
        self.alive: set[int] = set()
        self.given: Counter[Any] = Counter()
        self.said: list[int] = []

    def start(self) -> tuple[int, tuple[int, Any]]:
        actor = len(self.calls)
        self.alive.add(actor)
        return actor, self._called(actor, None)

    def give(self, actor: int, item: Any, /) -> tuple[int, Any]:
        assert actor in self._with_room(), "an actor that has not started holds an item"
        self.given[item] += 1
        return self._called(actor, item)

    def _called(self, actor: int, item: Any) -> tuple[int, Any]:
        self.calls.append((actor, item))
        return len(self.calls) - 1, (actor, item)

    def _with_room(self) -> list[int]:
        return sorted(self.alive)[: max(0, self.room)]

    def first_ended(self, calls: list[Any], /) -> Any:
        room = [call for call in calls if call[1][0] in self._with_room()]
        return self.draw.choice(room) if room else None

    def say_waiting(self, num_actors: int, /) -> None:
        self.said.append(num_actors)
        self.room += 1

    def result(self, call: Any, /) -> Any:
        actor, item = call[1]
        if item is not None and self.draw.random() < self.deaths:
            self.alive.remove(actor)
            raise ActorDied("killed")
        return None if item is None else 2 * item

    def end(self, actor: int, /) -> None:
        self.alive.remove(actor)


@pytest.mark.parametrize("seed", range(20))
def test_results_stand_in_the_order_of_the_items(seed: int) -> None:
    actors, done = DrawnActors(seed, deaths=0.1, room=2), list[int]()
    results = ActorPool(actors).run(range(12), num_actors=1 + seed % 4, on_done=done.append)
    assert results == [2 * item for item in range(12)]
    assert sorted(done) == list(range(12))
    assert not actors.alive
    assert not actors.said, "somebody works"


def test_wait_for_room_is_said_until_there_is_some() -> None:
    actors = DrawnActors(0, room=-2)
    assert ActorPool(actors).run(range(5), num_actors=2, on_done=lambda place: None) == [0, 2, 4, 6, 8]
    assert actors.said == [2, 2, 2]


def test_item_at_which_actors_always_die_is_given_up() -> None:
    actors = DrawnActors(0, deaths=1.0)
    with pytest.raises(ActorDied):
        ActorPool(actors).run([7], num_actors=3, on_done=lambda place: None)
    assert actors.given == {7: 4}
    assert not actors.alive


def test_nothing_to_do_starts_nothing() -> None:
    actors = DrawnActors(0)
    assert ActorPool(actors).run([], num_actors=3, on_done=lambda place: None) == []
    assert not actors.calls
