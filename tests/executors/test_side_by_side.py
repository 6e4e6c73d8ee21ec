"""Attempts that share an engine, in one host at the same time; the engine is a light one that the tests look into."""

from __future__ import annotations

import sys
import threading
import time
import types
from collections.abc import Callable, Iterator
from typing import Any

import msgspec
import pytest
from driven_host import task

from mloc.core.host_frames import EngineLoaded, Failed, Go, Quit, RunTask, Stopped, StopTask, Succeeded, Telemetry
from mloc.core.needs.engine_key import is_shared
from mloc.executors import registry
from mloc.executors.attempt_stream import AttemptStream
from mloc.executors.contract import Context, ExecutorError, Progress, Report, Result
from mloc.executors.engine_facts import engine_key_of
from mloc.executors.host import Host

DEADLINE_SEC = 30.0
MODEL = {"source": {"type": "local", "identifier": "/m"}, "vllm": {"max_model_len": 64}}


class Engine:
    """Notes which tasks are in it, and how many there were at a time."""

    def __init__(self, takes_several: bool) -> None:
        self.takes_several = takes_several
        self.alive = True
        self.inside: set[str] = set()
        self.most = 0

    def close(self) -> None:
        self.alive = False


class Room:
    """A host on a thread of this process, and an executor that does what the task's prompt says."""

    def __init__(self, *, takes_several: bool = True) -> None:
        self.engines: list[Engine] = []
        self.may_load = threading.Event()
        self.may_load.set()
        self.loading = threading.Event()
        self.released: set[str] = set()
        self.frames: list[Any] = []
        self.streams = [AttemptStream(sys.stdout, self.frames.append)]
        self.host = Host(types.SimpleNamespace(send=self.frames.append), self.streams)
        self._takes_several = takes_several
        self.thread = threading.Thread(target=self.host.run, daemon=True)
        self.host.take(Go())
        self.thread.start()

    def load(self, asked: RunTask, context: Context) -> Engine:
        self.loading.set()
        assert self.may_load.wait(DEADLINE_SEC)
        self.engines.append(Engine(self._takes_several))
        return self.engines[-1]

    def run(self, asked: RunTask, engine: Engine, context: Context) -> Iterator[Report]:
        engine.inside.add(asked.task)
        engine.most = max(engine.most, len(engine.inside))
        print(f"{asked.task} is in", file=self.streams[0])
        try:
            yield Progress((f"hello from {asked.task}",))
            while asked.task not in self.released and not context.stopping():
                if not engine.alive:
                    raise ExecutorError("EngineDied", "it died", retryable=True)
                if asked.task.startswith("broken"):
                    raise RuntimeError("a mistake in this task alone")
                if asked.task.startswith("leaving"):
                    sys.exit(3)
                time.sleep(0.001)
        finally:
            engine.inside.discard(asked.task)
        if not context.stopping():
            yield Result({"task": asked.task})

    def give(self, *names: str) -> None:
        for name in names:
            asked = task(name, "inference", None, model=MODEL, data={"type": "list", "items": ["x"]})
            assert is_shared(engine_key_of(asked))
            self.host.take(asked)

    def stop(self, name: str) -> None:
        self.host.take(StopTask(name, 1, "a test asks", 0.0))

    def until(self, seen: Callable[[], Any]) -> None:
        deadline = time.monotonic() + DEADLINE_SEC
        while not seen():
            assert time.monotonic() < deadline, self.frames
            time.sleep(0.001)

    def inside(self) -> set[str]:
        return set().union(*(engine.inside for engine in self.engines))

    def ends(self) -> dict[str, str]:
        return {frame.task: type(frame).__name__ for frame in list(self.frames) if isinstance(frame, Succeeded | Failed | Stopped)}

    def lines_of(self, name: str) -> list[str]:
        return [line for frame in list(self.frames) if isinstance(frame, Telemetry) and frame.task == name for line in frame.lines]


@pytest.fixture
def room(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Room]]:
    rooms: list[Room] = []

    def start(**options: Any) -> Room:
        rooms.append(made := Room(**options))
        executor = types.ModuleType("side_by_side_executor")
        executor.load, executor.run = made.load, made.run  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, executor.__name__, executor)
        monkeypatch.setitem(registry.BUILT_IN, "inference", registry.Executor(executor.__name__))
        return made

    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    monkeypatch.setattr(registry, "_is_installed", lambda module: True)
    yield start
    for one in rooms:
        one.may_load.set()
        for engine in one.engines:
            engine.alive = False
        one.host.take(Quit())
        one.thread.join(DEADLINE_SEC)
        assert not one.thread.is_alive()


def test_tasks_with_one_engine_are_in_it_at_the_same_time_and_each_ends_by_itself(room: Callable[..., Room]) -> None:
    here = room()
    here.give("a", "b", "c")
    here.until(lambda: here.inside() == {"a", "b", "c"})
    here.released.add("b")
    here.until(lambda: here.ends() == {"b": "Succeeded"})
    assert here.inside() == {"a", "c"}
    here.released |= {"a", "c"}
    here.until(lambda: len(here.ends()) == 3)
    assert len(here.engines) == 1
    assert sum(isinstance(frame, EngineLoaded) for frame in here.frames) == 1
    assert all(msgspec.json.decode(frame.result) == {"task": frame.task} for frame in here.frames if isinstance(frame, Succeeded))


def test_what_a_task_prints_and_reports_is_its_own(room: Callable[..., Room]) -> None:
    here = room()
    here.give("a", "b")
    here.until(lambda: here.inside() == {"a", "b"})
    here.released |= {"a", "b"}
    here.until(lambda: len(here.ends()) == 2)
    for name in ("a", "b"):
        assert set(here.lines_of(name)) == {f"{name} is in", f"hello from {name}"}


def test_a_stop_or_a_failure_of_one_leaves_the_others_alone(room: Callable[..., Room]) -> None:
    here = room()
    here.give("a", "b", "broken", "leaving")
    here.until(lambda: here.ends() == {"broken": "Failed", "leaving": "Failed"})
    here.stop("a")
    here.until(lambda: here.ends().get("a") == "Stopped")
    assert here.inside() == {"b"}
    here.give("c")
    here.until(lambda: here.inside() == {"b", "c"})
    here.released |= {"b", "c"}
    here.until(lambda: here.ends() == {"a": "Stopped", "broken": "Failed", "leaving": "Failed", "b": "Succeeded", "c": "Succeeded"})
    assert len(here.engines) == 1


def test_one_that_is_stopped_while_the_engine_loads_never_runs(room: Callable[..., Room]) -> None:
    here = room()
    here.may_load.clear()
    here.give("a")
    assert here.loading.wait(DEADLINE_SEC)
    here.give("b")
    here.stop("b")
    here.stop("a")
    here.give("c")
    here.may_load.set()
    here.until(lambda: here.inside() == {"c"})
    here.until(lambda: here.ends() == {"a": "Stopped", "b": "Stopped"})
    assert not here.lines_of("a")
    here.released.add("c")
    here.until(lambda: here.ends().get("c") == "Succeeded")
    assert len(here.engines) == 1


def test_the_engines_death_fails_all_that_are_in_it_and_the_next_one_loads_it_anew(room: Callable[..., Room]) -> None:
    here = room()
    here.give("a", "b")
    here.until(lambda: here.inside() == {"a", "b"})
    here.engines[0].alive = False
    here.until(lambda: here.ends() == {"a": "Failed", "b": "Failed"})
    assert all(frame.error.retryable for frame in here.frames if isinstance(frame, Failed))
    here.give("c")
    here.until(lambda: here.inside() == {"c"})
    assert len(here.engines) == 2
    here.released.add("c")
    here.until(lambda: here.ends().get("c") == "Succeeded")


def test_an_engine_that_does_not_take_several_serves_them_one_after_the_other(room: Callable[..., Room]) -> None:
    here = room(takes_several=False)
    here.released |= {"a", "b", "c"}
    here.give("a", "b", "c")
    here.until(lambda: set(here.ends().values()) == {"Succeeded"} and len(here.ends()) == 3)
    here.give("d", "e")
    here.until(lambda: len(here.inside()) == 1)
    (first,), (waiting,) = here.inside(), {"d", "e"} - here.inside()
    here.stop(waiting)
    here.until(lambda: here.ends().get(waiting) == "Stopped")
    assert here.inside() == {first}
    here.released.add(first)
    here.until(lambda: here.ends().get(first) == "Succeeded")
    assert [engine.most for engine in here.engines] == [1]
