"""The last heartbeat of each worker, for who shows workers."""

from __future__ import annotations

from mloc.services.log.event_log import EventLog, Heartbeat

WINDOW_MS = 10 * 60 * 1000  # heartbeats older than this are trimmed anyway
FRESH_MS = 500


class Heartbeats:
    """Reads what came since the last look, at most every half second."""

    def __init__(self, log: EventLog) -> None:
        self._log = log
        self._after = ""
        self._read_at_ms = 0
        self.latest: dict[str, tuple[int, Heartbeat]] = {}  # worker → (time in ms, heartbeat)

    async def look(self) -> int:
        """Bring `latest` up to date; gives the server's clock, ms. Raises LogUnavailable."""
        now_ms = await self._log.now_ms()
        if now_ms - self._read_at_ms < FRESH_MS:
            return now_ms
        after = self._after or f"{max(0, now_ms - WINDOW_MS)}-0"
        while beats := await self._log.read_heartbeats(after):
            for id, beat in beats:
                self.latest[beat.worker] = (int(id.partition("-")[0]), beat)
            after = beats[-1][0]
        self._after, self._read_at_ms = after, now_ms
        self.latest = {worker: seen for worker, seen in self.latest.items() if seen[0] > now_ms - WINDOW_MS}
        return now_ms
