"""The engines that a host keeps warm between tasks: loaded once, used again, the least recently used one dropped first."""

from __future__ import annotations

import gc
import sys
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any

from mloc.core.host_frames import EngineLoaded

MAX_ENGINES = 2
MAX_ENGINES_ON_DEVICE = 1  # weights of two models rarely fit beside each other there


class Engines:
    """Engine key → engine. An engine that is None stands for imported libraries: it takes no room and never leaves."""

    def __init__(self, send: Callable[[EngineLoaded], None]) -> None:
        self._engines: OrderedDict[str, Any] = OrderedDict()
        self._made_of: dict[str, str] = {}
        self._send = send

    def warm(self, key: str, load: Callable[[], Any], limit: int, made_of: str = "") -> Any:
        """The engine of that key; `load` makes it where it is not there yet, after room was made for it. One that was `made_of` other
        files (what is behind a URL may change) is not used again."""
        if key in self._engines and self._made_of[key] != made_of:
            self._leave(key)
        if key in self._engines:
            self._engines.move_to_end(key)
            return self._engines[key]
        self._make_room(limit - 1)
        began = time.monotonic()
        engine = load()
        self._engines[key] = engine
        self._made_of[key] = made_of
        self._send(EngineLoaded(key, round(time.monotonic() - began, 3)))
        return engine

    def _make_room(self, keep: int) -> None:
        leaving = [key for key, engine in self._engines.items() if engine is not None]
        for key in leaving[: max(0, len(leaving) - keep)]:
            self._leave(key)

    def _leave(self, key: str) -> None:
        del self._engines[key]
        gc.collect()
        if (torch := sys.modules.get("torch")) is not None and torch.cuda.is_available():
            torch.cuda.empty_cache()
        self._send(EngineLoaded(key, 0.0, loaded=False))
