"""The engines that a host keeps warm between tasks: loaded once, used again, the least recently used one put to sleep or dropped first.

What a warm engine is made of (its identity) decides whether it serves a task; the key is the name under which placement knows it, and one
engine may have several. An engine may bring `sleep`, `wake` and `close`, and `alive`, which says whether it can still be used.
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


class _Kept:
    """An engine, the keys that stand for it, and how many tasks it serves now."""

    def __init__(self, engine: Any) -> None:
        self.engine = engine
        self.keys: list[str] = []
        self.users = 0
        self.asleep = False

    @property
    def usable(self) -> bool:
        return bool(getattr(self.engine, "alive", True))


class Engines:
    """Identity → engine. An engine that is None stands for imported libraries: it takes no room and never leaves."""

    def __init__(self, send: Callable[[EngineLoaded], None]) -> None:
        self._kept: OrderedDict[str, _Kept] = OrderedDict()
        self._send = send
        self._lock = threading.RLock()

    @contextmanager
    def lease(self, key: str, identities: Sequence[str], load: Callable[[], Any], limit: int) -> Iterator[Any]:
        """An engine for one task. Any of `identities` serves it; `load` makes the first of them, after room was made for it."""
        with self._lock:
            kept = self._warm(key, identities, load, limit)
            kept.users += 1
        try:
            yield kept.engine
        finally:
            with self._lock:
                kept.users -= 1
                if not kept.usable and not kept.users:
                    self._drop(kept)

    def _warm(self, key: str, identities: Sequence[str], load: Callable[[], Any], limit: int) -> _Kept:
        for kept in [kept for kept in self._kept.values() if not kept.usable and not kept.users]:
            self._drop(kept)
        there = [one for one in identities if one in self._kept and self._kept[one].usable]
        identity = min(there, key=lambda one: self._kept[one].asleep, default=None)
        for other, kept in list(self._kept.items()):
            if key in kept.keys and other != identity:  # what is behind the key has changed
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
                self._send(EngineLoaded(one, seconds, woke=True))
        if key not in kept.keys:
            kept.keys.append(key)
            self._send(EngineLoaded(key, _since(began)))
        return kept

    def _load(self, key: str, identity: str, load: Callable[[], Any], limit: int) -> _Kept:
        self._make_room(limit - 1)
        began = time.monotonic()
        kept = self._kept[identity] = _Kept(load())
        kept.keys.append(key)
        self._send(EngineLoaded(key, _since(began)))
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
            self._send(EngineLoaded(key, seconds, loaded=False, asleep=True))
        return True

    def _forget(self, key: str, kept: _Kept) -> None:
        kept.keys.remove(key)
        self._send(EngineLoaded(key, 0.0, loaded=False))
        if not kept.keys and not kept.users and kept.engine is not None:
            self._drop(kept)

    def _drop(self, kept: _Kept) -> None:
        identity = next(one for one, other in self._kept.items() if other is kept)
        del self._kept[identity]
        began = time.monotonic()
        if hasattr(kept.engine, "close"):
            with suppress(Exception):  # it leaves, whatever it says
                kept.engine.close()
        kept.engine = None
        gc.collect()
        if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_initialized():
            torch.cuda.empty_cache()
        seconds = _since(began)
        for key in kept.keys:
            self._send(EngineLoaded(key, seconds, loaded=False))


def _since(began: float) -> float:
    return round(time.monotonic() - began, 3)
