"""The log's entries in order, for all of replay. The one place that knows where entries lie: an archive will come before the stream here."""

from __future__ import annotations

from collections.abc import AsyncIterator

from mloc.core import log_ids
from mloc.services.log.event_log import Entry, EventLog

BATCH = 1000


async def entries(log: EventLog, after: str = log_ids.START, until: str | None = None) -> AsyncIterator[list[Entry]]:
    """Batches of entries after id `after`, up to and including `until` (None: to the log's end as it is now). Raises LogUnavailable."""
    last = until or (await log.ends())[1]
    limit = log_ids.key(last)
    position = after
    while log_ids.before(position, last):
        batch = await log.read(position, BATCH)
        wanted = batch if batch and log_ids.key(batch[-1].id) <= limit else [entry for entry in batch if log_ids.key(entry.id) <= limit]
        if wanted:
            yield wanted
        if len(wanted) < len(batch) or not batch:
            return
        position = batch[-1].id
