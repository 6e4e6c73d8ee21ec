"""One attempt on its way through the worker: from the inbox entry to its last report."""

from __future__ import annotations

from typing import Literal

from msgspec import Struct

from mloc.core.answers import Dispatch
from mloc.core.events import HeldAttempt
from mloc.core.host_frames import RunTask
from mloc.services.transfers.progress_uploads import ProgressUploads

AttemptKey = tuple[str, int]  # (task id, attempt number)


class Attempt(Struct):
    """Mutable, owned by whoever has it in its table: the inbox while it waits or starts, the runs after that.

    `stop_reason` is set once it was asked to stop, in any stage. `secrets` are values that no report may show.
    """

    key: AttemptKey
    entry_id: str
    incarnation: int  # of the inbox that the entry lies in
    dispatch: Dispatch
    devices: tuple[int, ...]
    joins: bool = False  # its devices may be in use, by the engine that it wants
    stage: Literal["waiting", "starting", "preparing", "running", "delivering", "ended"] = "waiting"
    stop_reason: str | None = None
    secrets: tuple[str, ...] = ()
    started_at: float = 0.0  # monotonic seconds
    overdue: bool = False  # it was asked to stop, and the time that it had for that is over
    uploads: ProgressUploads | None = None  # of what it has so far, where its rows folder is not shared
    given: RunTask | None = None  # what its host got, where its success may have files

    @property
    def light(self) -> bool:
        return self.dispatch.light

    def held(self) -> HeldAttempt:
        """How a registration lists it while it runs."""
        return HeldAttempt(self.key[0], self.key[1], self.devices, self.dispatch.light)
