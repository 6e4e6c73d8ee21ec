"""The engines that a host keeps warm between tasks: loaded once, used again, the least recently used one put to sleep or dropped first.

What a warm engine is made of (its identity) decides whether it serves a task; the key is the name under which placement knows it, and one
engine may have several, as one key may stand for two engines with different `ROOM`. An engine may bring `sleep`, `wake` and `close`, `alive`, which
says whether it can still be used, `kept_as`, its identity where only its start settles that, and `takes_several`: tasks use it at the same time,
each on a thread of its own. Any other serves one after the other.
"""

from __future__ import annotations

import gc
import sys
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any

from mloc.core.host_frames import EngineLoaded

MAX_ENGINES = 2
MAX_ENGINES_ON_DEVICE = 1  # weights of two models rarely fit beside each other there
MAX_ASLEEP = 2  # in main memory
ROOM = " room for adapters of rank "
"""Identities that are the same but for what follows are of the same files and settings: one of these engines does not make the other stale."""

LOOK_SEC = 0.1  # for how long a task that waits does not ask whether it is to stop


class _Kept:
    """An engine, the keys that stand for it, and how many tasks it serves now."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.keys: list[str] = []
        self.users = 0
        self.turn = threading.Lock()  # of the one task that uses it, where it does not take several
        self.asleep = False

    @property
    def takes_several(self) -> bool:
        return bool(getattr(self.engine, "takes_several", False))

    @property
    def usable(self) -> bool:
        return bool(getattr(self.engine, "alive", True))


class Engines:
    """Identity → engine. An engine that is None stands for imported libraries: it takes no room and never leaves."""

    def __init__(self, send: Callable[[EngineLoaded], None]) -> None:
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._waiting: list[object] = []  # for a place, in the order in which they came
        self._send = send
        self._changed = threading.Condition()

    @contextmanager
    def lease(
        self, key: str, identities: Sequence[str], load: Callable[[], Any], limit: int, stopping: Callable[[], bool] = lambda: False,
        *, has_place: bool = False,
    ) -> Iterator[Any]:  # fmt: skip
        """An engine for one task. Any of `identities` serves it; `load` makes the first of them, after room was made for it.

        Waits while others use as many engines as there may be, unless it `has_place` beside them, or the one that it needs where that takes
        one task at a time. Gives None where `stopping` came true before.
        """
        with self._changed:
            if not has_place:
                self._await_place(identities, limit, stopping)
            kept = None if stopping() else self._warm(key, identities, load, limit)
            if kept is not None:
                kept.users += 1
        if kept is None:
            yield None
            return
        several = kept.engine is None or kept.takes_several
        mine = several or _taken(kept.turn, stopping)
        try:
            yield kept.engine if mine else None
        finally:
            if mine and not several:
                kept.turn.release()
            self._leave(kept)

    def _await_place(self, identities: Sequence[str], limit: int, stopping: Callable[[], bool]) -> None:
        """Each in its turn: whose engine is in use would else keep one that came before from another for as long as more of them come."""
        turn = object()
        self._waiting.append(turn)
        try:
            while (self._waiting[0] is not turn or self._is_full(identities, limit)) and not stopping():
                self._changed.wait(LOOK_SEC)
        finally:
            self._waiting.remove(turn)
            self._changed.notify_all()

    def _leave(self, kept: _Kept) -> None:
        with self._changed:
            kept.users -= 1
            if not kept.users and kept.engine is not None and not (kept.usable and kept.keys):
                self._drop(kept)
            self._changed.notify_all()

    def _is_full(self, identities: Sequence[str], limit: int) -> bool:
        """Whether another engine would have to be on the device, and those that are there are in use."""
        if any(one in self._kept and self._kept[one].usable and not self._kept[one].asleep for one in identities):
            return False
        return sum(bool(kept.users) and kept.engine is not None for kept in self._kept.values()) >= limit

    def _warm(self, key: str, identities: Sequence[str], load: Callable[[], Any], limit: int) -> _Kept:
        for kept in [kept for kept in self._kept.values() if not kept.usable and not kept.users]:
            self._drop(kept)
        there = [one for one in identities if one in self._kept and self._kept[one].usable]
        identity = min(there, key=lambda one: self._kept[one].asleep, default=None)
        same = identities[0].partition(ROOM)[0]
        for other, kept in list(self._kept.items()):
            if key in kept.keys and other != identity and other.partition(ROOM)[0] != same:  # what is behind the key has changed
                self._forget(key, kept)
        if identity is None:
            return self._load(key, identities[0], load, limit)
        kept = self._kept[identity]
        self._kept.move_to_end(identity)
        began = time.monotonic()
        if kept.asleep:
            self._make_room(limit - 1)
            kept.engine.wake()
            kept.asleep = False
            seconds = _since(began)
            for one in kept.keys:
                self._send(EngineLoaded(one, seconds, woke=True, takes_several=kept.takes_several))
        if key not in kept.keys:
            kept.keys.append(key)
            self._send(EngineLoaded(key, _since(began), takes_several=kept.takes_several))
        return kept

    def _load(self, key: str, identity: str, load: Callable[[], Any], limit: int) -> _Kept:
        self._make_room(limit - 1)
        began = time.monotonic()
        engine = load()
        seconds = _since(began)
        gc.collect()
        gc.freeze()  # libraries are millions of objects: to look through them again and again takes as long as a thousand rows do in the host
        identity = getattr(engine, "kept_as", identity)
        if (dead := self._kept.pop(identity, None)) is not None:  # some of its tasks have not left it yet
            self._say_gone(dead, 0.0)
        kept = self._kept[identity] = _Kept(engine)
        kept.keys.append(key)
        self._send(EngineLoaded(key, seconds, takes_several=kept.takes_several))
        return kept

    def _make_room(self, keep: int) -> None:
        awake = [kept for kept in self._kept.values() if kept.engine is not None and not kept.asleep]
        for kept in [kept for kept in awake if not kept.users][: max(0, len(awake) - keep)]:
            if not self._put_to_sleep(kept):
                self._drop(kept)
        asleep = [kept for kept in self._kept.values() if kept.asleep]
        for kept in asleep[: max(0, len(asleep) - MAX_ASLEEP)]:
            self._drop(kept)

    def _put_to_sleep(self, kept: _Kept) -> bool:
        """Off the device, with its weights in main memory; not every engine can."""
        began = time.monotonic()
        if not hasattr(kept.engine, "sleep") or not kept.engine.sleep():
            return False
        kept.asleep = True
        seconds = _since(began)
        for key in kept.keys:
            if not self._stands_for_another(key, kept, awake=True):
                self._send(EngineLoaded(key, seconds, loaded=False, asleep=True))
        return True

    def _stands_for_another(self, key: str, kept: _Kept, *, awake: bool = False) -> bool:
        """Whether placement finds an engine under the key all the same."""
        return any(key in other.keys and not (awake and other.asleep) for other in self._kept.values() if other is not kept)

    def _forget(self, key: str, kept: _Kept) -> None:
        kept.keys.remove(key)
        self._send(EngineLoaded(key, 0.0, loaded=False))
        if not kept.keys and not kept.users and kept.engine is not None:
            self._drop(kept)

    def _drop(self, kept: _Kept) -> None:
        for identity in [one for one, other in self._kept.items() if other is kept]:
            del self._kept[identity]
        began = time.monotonic()
        if hasattr(kept.engine, "close"):
            with suppress(Exception):  # it leaves, whatever it says
                kept.engine.close()
        kept.engine = None
        gc.unfreeze()
        gc.collect()
        if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        self._say_gone(kept, _since(began))

    def _say_gone(self, kept: _Kept, seconds: float) -> None:
        for key in kept.keys:
            if not self._stands_for_another(key, kept):
                self._send(EngineLoaded(key, seconds, loaded=False))
            elif not kept.asleep and not self._stands_for_another(key, kept, awake=True):
                self._send(EngineLoaded(key, seconds, loaded=False, asleep=True))
        kept.keys.clear()


def _taken(turn: threading.Lock, stopping: Callable[[], bool]) -> bool:
    while not turn.acquire(timeout=LOOK_SEC):
        if stopping():
            return False
    return True


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)
