"""On a worker that shares no folder: what attempts left there that did not end well goes a day later. All that a retry needs is at the API.

Only folders with the mark of such an attempt: in a folder that is shared they are others' too, and `mloc gc` knows when they can go.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import shutil
import time
from collections.abc import Callable, Set
from pathlib import Path

import structlog

from mloc.services.clock import Clock
from mloc.services.results.folders import ATTEMPTS

MARK = ".not-shared"
OLD_SEC = 24 * 3600.0
EACH_SEC = 3600.0

_log = structlog.get_logger("worker")


def mark(results_dir: Path, task: str) -> None:
    """An attempt of the task begins, and nobody else sees its folder. Blocks. Raises OSError."""
    folder = results_dir / ATTEMPTS / task
    folder.mkdir(parents=True, exist_ok=True)
    (folder / MARK).touch()


async def keep_clear(results_dir: Path, clock: Clock, running: Callable[[], Set[str]]) -> None:
    """For ever. `running` gives the tasks whose folders are in use."""
    while True:
        try:
            gone = await asyncio.to_thread(clear, results_dir, running)
            if gone:
                _log.info("removed what old attempts left", tasks=gone)
        except OSError as error:
            _log.warning("what old attempts left cannot be removed", reason=str(error))
        await clock.sleep(EACH_SEC)


def clear(results_dir: Path, running: Callable[[], Set[str]], now: float | None = None) -> int:
    """Remove what is old and not in use; gives the number of tasks. Blocks. Raises OSError."""
    before = (time.time() if now is None else now) - OLD_SEC
    gone = 0
    for folder in (results_dir / ATTEMPTS).glob("*"):
        if (folder / MARK).is_file() and _changed(folder) < before and folder.name not in running():
            shutil.rmtree(folder)
            gone += 1
    return gone


def _changed(folder: Path) -> float:
    """When anything in it changed last."""
    newest = 0.0
    for at, _, files in os.walk(folder):
        for path in (at, *(os.path.join(at, file) for file in files)):
            with contextlib.suppress(FileNotFoundError):
                newest = max(newest, os.lstat(path).st_mtime)
    return newest
