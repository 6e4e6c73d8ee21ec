"""How far the result trees are written, on disk: a cursor of their own, beside what the fold of the trees must remember.

Trees are not synced one by one. After a crash of the process alone what was written is there, so it goes on at `written`. After the machine
went down it goes back to `settled`, the position of at least 40 s before: by then the kernel has written what was handed to it (Linux
writes dirty pages after 30 s). Trees that are there already are written again, which does no harm.
"""

from __future__ import annotations

import os
from collections import deque
from pathlib import Path

import msgspec
from msgspec import Struct

from mloc.core import log_ids
from mloc.services.durable_files import write_durably

SETTLED_AFTER_SEC = 40.0
_BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


class Note(Struct, frozen=True, array_like=True, gc=False):
    """What an open task's submission said that its tree needs."""

    declared: tuple[str, ...] = ()
    destination: str = ""
    seed: int | None = None
    has_telemetry: bool = False


class TreeState(Struct, omit_defaults=True):
    """`notes` also has tasks that ended after `settled`."""

    written: str = log_ids.START
    settled: str = log_ids.START
    boot_id: str = ""
    failures: int = 0  # writes and effects that failed and were tried again
    notes: dict[str, Note] = {}
    sharded: dict[str, int] = {}  # task → number of shards
    ended: dict[str, str] = {}  # task of the two above that ended → entry, oldest first


class TreeCursor:
    """The state's file, and when positions of the past are settled."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._passed: deque[tuple[float, str]] = deque()  # (monotonic seconds, position)

    def load(self) -> TreeState:
        """What was saved last, with `written` where to go on; from the start where nothing can be read."""
        state = read_state(self._path)
        if state is None:
            return TreeState(boot_id=boot_id())
        if not state.boot_id or state.boot_id != boot_id():
            state.written = state.settled
        state.boot_id = boot_id()
        return state

    def passed(self, position: str, now: float) -> str:
        """Note a position; gives the one that is settled by now, "" for none."""
        settled = ""
        if not self._passed or now - self._passed[-1][0] >= 1.0:
            self._passed.append((now, position))
        while self._passed and now - self._passed[0][0] >= SETTLED_AFTER_SEC:
            settled = self._passed.popleft()[1]
        return settled

    def save(self, encoded: bytes) -> None:
        """Raises OSError."""
        write_durably(self._path, [encoded])


def read_state(path: Path) -> TreeState | None:
    """What was saved last, for those who only look; None where nothing can be read."""
    try:
        return msgspec.json.decode(path.read_bytes(), type=TreeState)
    except (OSError, msgspec.MsgspecError):
        return None


def boot_id() -> str:
    """Which run of the machine this is; "" where the system does not say."""
    try:
        return _BOOT_ID.read_text().strip()
    except OSError:
        return ""


def cursor_path(state_dir: Path) -> Path:
    return Path(os.path.abspath(state_dir)) / "result_trees.json"
