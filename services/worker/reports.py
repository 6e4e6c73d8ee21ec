"""What the worker says of its attempts and engines: events with its name, its present incarnation and the next number, into the outbox.

An attempt's last report removes its inbox entry and, unless it is a light one, is in the ledger before it is sent. No report shows a secret.
"""

from __future__ import annotations

import hashlib
from typing import Any

from mloc.core.events import (
    AttemptFailed,
    AttemptStopped,
    AttemptSucceeded,
    CheckpointSaved,
    EngineReady,
    EngineSlept,
    EngineWoke,
    Error,
    HeldAttempt,
    RowsCompleted,
    raw,
)
from mloc.core.host_frames import CheckpointDone, EngineLoaded, RowsDone, Succeeded
from mloc.services.worker.attempt import Attempt, AttemptKey
from mloc.services.worker.outbox import Outbox
from mloc.services.worker.scrubbing import scrub_bytes, scrub_text

INSTANT_SEC = 0.05  # an engine that is ready at once was loaded before, under another key
WORTH_A_SYNC_MS = 1000.0  # what took less is rather done again after a power cut than synced each time


class Reports:
    def __init__(self, outbox: Outbox) -> None:
        self._outbox = outbox

    # --- on the way ---

    def rows(self, attempt: Attempt, frame: RowsDone) -> None:
        event = RowsCompleted(**self._names(attempt.key), part=frame.part, rows=frame.rows, sha256=frame.sha256)
        self._outbox.put(event, precious=True)

    def checkpoint(self, attempt: Attempt, frame: CheckpointDone) -> None:
        event = CheckpointSaved(**self._names(attempt.key), step=frame.step, path=frame.path, sha256=frame.sha256)
        self._outbox.put(event, precious=True)

    def engine(self, frame: EngineLoaded, devices: tuple[int, ...]) -> None:
        """What has become of an engine in a host with these devices."""
        outbox = self._outbox
        whose: dict[str, Any] = {"worker": outbox.worker, "incarnation": outbox.incarnation, "engine": frame.engine, "seconds": frame.seconds}
        if frame.woke:
            outbox.put(EngineWoke(**whose, takes_several=frame.takes_several))
        elif frame.loaded:
            load_sec = frame.seconds if frame.seconds > INSTANT_SEC else 0.0
            outbox.put(EngineReady(**whose, devices=devices, load_sec=load_sec, takes_several=frame.takes_several))
        else:
            outbox.put(EngineSlept(**whose, asleep=frame.asleep))

    # --- last ones ---

    def succeeded(self, attempt: Attempt, frame: Succeeded) -> None:
        outbox = self._outbox
        result, sha256, size_bytes = frame.result, frame.sha256, frame.size_bytes
        if attempt.secrets and result:
            result = scrub_bytes(result, attempt.secrets)
            sha256, size_bytes = hashlib.sha256(result).hexdigest(), len(result)
        event = AttemptSucceeded(
            task=frame.task, attempt=frame.attempt, worker=outbox.worker, incarnation=outbox.incarnation, seq=outbox.next_seq,
            result=raw(result), sha256=sha256, size_bytes=size_bytes, files=frame.files, duration_ms=frame.duration_ms, usage=frame.usage,
        )  # fmt: skip
        self._put_last(attempt, event)

    def failed(self, attempt: Attempt, error: Error, duration_ms: float) -> None:
        if attempt.secrets:
            error = Error(error.type, scrub_text(error.message, attempt.secrets), error.retryable)
        self._put_last(attempt, AttemptFailed(**self._names(attempt.key), error=error, duration_ms=duration_ms))

    def stopped(self, attempt: Attempt, reason: str) -> None:
        self._put_last(attempt, AttemptStopped(**self._names(attempt.key), reason=reason))

    def stopped_unknown(self, key: AttemptKey, reason: str) -> None:
        """The answer to the stop of an attempt that this worker does not have."""
        self._outbox.put(AttemptStopped(**self._names(key), reason=reason), held=HeldAttempt(*key))

    def _put_last(self, attempt: Attempt, event: AttemptSucceeded | AttemptFailed | AttemptStopped) -> None:
        own_inbox = attempt.incarnation == self._outbox.incarnation  # the inbox of a former incarnation is gone, and the entry with it
        cheap = not isinstance(event, AttemptStopped) and event.duration_ms < WORTH_A_SYNC_MS
        self._outbox.put(event, attempt.entry_id if own_inbox else "", held=attempt.held(), precious=not attempt.dispatch.light, cheap=cheap)

    def _names(self, key: AttemptKey) -> dict[str, Any]:
        outbox = self._outbox
        return {"task": key[0], "attempt": key[1], "worker": outbox.worker, "incarnation": outbox.incarnation, "seq": outbox.next_seq}
