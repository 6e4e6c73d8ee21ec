"""Which engines a host keeps: by what they are made of, the least recently used one asleep or gone."""

from __future__ import annotations

import gc
import threading
import weakref
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from typing import Any

from mloc.core.host_frames import EngineLoaded
from mloc.executors.engines import MAX_ASLEEP, ROOM, Engines


class Loaded:
    """An engine that notes what is done with it."""

    def __init__(self, name: str, *, can_sleep: bool = True) -> None:
        self.name, self.kept_as, self.alive, self.can_sleep = name, name, True, can_sleep
        self.done: list[str] = []

    def sleep(self) -> bool:
        self.done.append("sleep")
        return self.can_sleep

    def wake(self) -> None:
        self.done.append("wake")

    def close(self) -> None:
        self.done.append("close")


class Place:
    def __init__(self, limit: int = 1) -> None:
        self.said: list[EngineLoaded] = []
        self.engines = Engines(self.said.append)
        self.loads: list[str] = []
        self._limit = limit

    def lease(self, key: str, *identities: str, stopping: Callable[[], bool] = lambda: False, **engine: Any) -> Any:
        made = identities or (key,)

        def load() -> Loaded:
            self.loads.append(made[0])
            return Loaded(made[0], **engine)

        return self.engines.lease(key, made, load, self._limit, stopping)

    def use(self, key: str, *identities: str, **engine: Any) -> Any:
        with self.lease(key, *identities, **engine) as loaded:
            return loaded

    def told(self) -> list[tuple[str, str]]:
        words = {(True, False, False): "ready", (True, True, False): "woke", (False, False, True): "asleep", (False, False, False): "gone"}
        return [(one.engine, words[one.loaded, one.woke, one.asleep]) for one in self.said]


def test_one_engine_serves_several_keys_and_is_loaded_once() -> None:
    place = Place()
    plain = place.use("base", "plain", "with room for adapters")
    room = place.use("lora", "with room for adapters")
    assert place.use("base", "plain", "with room for adapters") is room
    assert plain.done == ["sleep"]
    assert place.loads == ["plain", "with room for adapters"]
    assert place.told() == [("base", "ready"), ("base", "asleep"), ("lora", "ready"), ("base", "ready")]


def test_an_engine_with_more_room_stands_beside_the_plain_one_under_the_same_key() -> None:
    none, some, more = (f"base{ROOM}{rank}" for rank in (0, 16, 64))
    place = Place(limit=2)
    plain = place.use("base", none, some, more)
    room = place.use("base", some, more)
    assert place.use("base", none, some, more) is plain
    assert place.use("base", some, more) is room
    assert plain.done == room.done == []
    # and one of them leaves: the key is as warm as before
    place.use("other", can_sleep=False)
    assert place.told() == [("base", "ready"), ("base", "ready"), ("other", "ready")]
    place.use("third")
    assert place.told()[3:] == [("base", "asleep"), ("third", "ready")]


def test_one_that_sleeps_under_a_key_says_so_when_the_one_awake_leaves() -> None:
    some, more = f"base{ROOM}16", f"base{ROOM}64"
    place = Place()
    place.use("base", some, more)
    place.use("base", more, can_sleep=False)
    place.use("other")
    assert place.told() == [("base", "ready"), ("base", "asleep"), ("base", "ready"), ("base", "asleep"), ("other", "ready")]
    assert place.use("base", some, more).done == ["sleep", "wake"]


def test_an_engine_whose_start_settles_what_it_is_made_of_is_kept_as_that() -> None:
    none, some = f"base{ROOM}0", f"base{ROOM}16"
    place = Place()

    def load() -> Loaded:
        return Loaded(some)

    with place.engines.lease("base", [none, some], load, 1) as plain:
        pass
    assert place.use("base", some) is plain


def test_what_must_leave_the_device_sleeps_where_it_can_and_wakes_when_it_is_needed() -> None:
    place = Place()
    first = place.use("a")
    place.use("b")
    assert place.use("a") is first
    assert first.done == ["sleep", "wake"]
    assert place.told() == [("a", "ready"), ("a", "asleep"), ("b", "ready"), ("b", "asleep"), ("a", "woke")]


def test_only_so_many_sleep_and_what_cannot_sleep_is_closed() -> None:
    place = Place()
    engines = [place.use(f"e{number}") for number in range(MAX_ASLEEP + 2)]
    assert [engine.done for engine in engines] == [["sleep", "close"], *[["sleep"]] * MAX_ASLEEP, []]
    other = Place()
    gone = other.use("a", can_sleep=False)
    other.use("b")
    assert gone.done == ["sleep", "close"]
    assert other.told() == [("a", "ready"), ("a", "gone"), ("b", "ready")]


def test_the_least_recently_used_one_leaves() -> None:
    place = Place(limit=2)
    for key in ("a", "b", "a", "c"):
        place.use(key, can_sleep=False)
    assert place.told()[-2:] == [("b", "gone"), ("c", "ready")]


def test_an_engine_in_use_stays_and_another_waits_for_its_place() -> None:
    place = Place()
    first = place.lease("a")
    engine = first.__enter__()
    asked = threading.Event()

    def stopping() -> bool:
        asked.set()
        return False

    with ThreadPoolExecutor(1) as others:
        waiting = others.submit(place.use, "b", stopping=stopping)
        assert asked.wait(30)
        assert (engine.done, place.loads) == ([], ["a"])
        first.__exit__(None, None, None)
        assert waiting.result(30).name == "b"
    assert place.loads == ["a", "b"]


def test_who_waits_for_another_engine_is_not_overtaken_by_later_ones_that_want_the_one_in_use() -> None:
    place = Place()
    first = place.lease("a")
    first.__enter__()
    asked, order = {name: threading.Event() for name in ("b", "a")}, list[str]()

    def use(name: str) -> None:
        with place.lease(name, stopping=lambda: asked[name].set() is not None) as engine:
            order.append(engine.name)

    with ThreadPoolExecutor(2) as others:
        ended = []
        for name in ("b", "a"):
            ended.append(others.submit(use, name))
            assert asked[name].wait(30)
        assert order == []
        first.__exit__(None, None, None)
        for one in ended:
            one.result(30)
    assert order == ["b", "a"]


def test_a_task_with_a_place_of_its_own_on_the_device_loads_beside_an_engine_in_use() -> None:
    place = Place()
    with place.lease("a") as first, place.engines.lease("b", ["b"], lambda: Loaded("b"), 1, has_place=True) as second:
        assert (first.name, second.name, first.done) == ("a", "b", [])


def test_who_is_to_stop_while_it_waits_gets_no_engine() -> None:
    place = Place()
    with place.lease("a"):
        assert place.use("b", stopping=lambda: True) is None
    assert place.loads == ["a"]


def test_a_dead_engine_is_taken_away_after_its_task_and_loaded_anew() -> None:
    place = Place()
    with suppress(RuntimeError), place.lease("a") as engine:
        engine.alive = False
        raise RuntimeError("it died")
    assert engine.done == ["close"]
    assert place.use("a") is not engine
    assert place.told() == [("a", "ready"), ("a", "gone"), ("a", "ready")]


def test_an_engine_made_of_other_files_under_the_same_key_replaces_the_old_one() -> None:
    place = Place(limit=2)
    old = place.use("a", "a of yesterday")
    place.use("a", "a of today")
    assert old.done == ["close"]
    assert place.told() == [("a", "ready"), ("a", "gone"), ("a", "ready")]


def test_imported_libraries_take_no_room() -> None:
    place = Place()
    with place.engines.lease("libraries", ["libraries"], lambda: None, 1):
        pass
    place.use("a")
    assert place.told() == [("libraries", "ready"), ("a", "ready")]


def test_what_is_loaded_is_looked_through_no_more_and_freed_when_it_leaves() -> None:
    place = Place()
    gc.unfreeze()
    with place.lease("first", can_sleep=False) as loaded:
        loaded.itself = loaded  # only the collector frees it
        left = weakref.ref(loaded)
    del loaded
    assert gc.get_freeze_count() > 0
    place.use("second")
    assert left() is None
    gc.unfreeze()
