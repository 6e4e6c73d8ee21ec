"""The events of one task, read from the control log."""

from __future__ import annotations

from collections.abc import AsyncIterator
from typing import Any

import msgspec

from mloc.core import log_ids
from mloc.core.language.secrets import masked
from mloc.core.task import FINAL, Task
from mloc.services.intake.views import iso
from mloc.services.log.event_log import Entry, EventLog

AFTER_END_MS = 60_000  # stops and late reports that follow a task's end


async def history_of(log: EventLog, task: Task, after: str = "") -> AsyncIterator[Entry]:
    """Entries that name the task (or a part of it, for a pipeline), in log order. Raises LogUnavailable."""
    position = after or f"{max(0, task.submitted_ms - 1)}-0"
    until_ms = task.since_ms + AFTER_END_MS if task.phase in FINAL else None
    names = tuple(f'"task":"{id}"'.encode() for id in (task.id, *task.children))
    while entries := await log.read(position):
        for entry in entries:
            if until_ms is not None and log_ids.time_ms(entry.id) > until_ms:
                return
            if any(name in entry.payload for name in names):
                yield entry
        position = entries[-1].id


def event_view(entry: Entry) -> dict[str, Any]:
    """An entry with its id, its time and the event's fields, secrets as `***`."""
    fields = msgspec.json.decode(entry.payload)
    fields.pop("type", None)
    if "spec" in fields:
        fields["spec"] = masked({"spec": fields["spec"]})["spec"]
    return {"id": entry.id, "at": iso(log_ids.time_ms(entry.id)), "type": entry.type, **fields}
