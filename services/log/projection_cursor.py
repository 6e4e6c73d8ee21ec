"""The cursor of a projection that appends nothing: held under a lease, so that no second one does the same work, and moved by empty commits."""

from __future__ import annotations

from mloc.core import log_ids
from mloc.services.clock import Clock
from mloc.services.log.event_log import AlreadyCommitted, EventLog, Lease

RENEW_SEC = 0.5


class ProjectionCursor:
    """One of this name in the log. Calls raise LogUnavailable; those after `take` also ServerChanged, and Fenced where another has taken it."""

    def __init__(self, log: EventLog, clock: Clock, name: str, holder: str) -> None:
        self._log = log
        self._clock = clock
        self._name = name
        self._holder = holder
        self._epoch = self._commit_no = 0
        self._position = log_ids.START
        self._renew_at = 0.0

    async def take(self) -> Lease:
        """Raises LeaseHeld while another has it."""
        lease = await self._log.lease(self._name, self._holder)
        self._epoch, self._commit_no, self._position = lease.epoch, lease.commit_no, log_ids.START
        self._renew_at = self._clock.monotonic() + RENEW_SEC
        return lease

    async def renew_when_due(self) -> int | None:
        """To be called again and again; gives the server's time, ms, where it was due."""
        now = self._clock.monotonic()
        if now < self._renew_at:
            return None
        self._renew_at = now + RENEW_SEC
        return await self._log.renew(self._name, self._epoch)

    async def move(self, position: str) -> None:
        """Everything up to there is in what the projection makes: the log need not keep it for this one."""
        if position in (self._position, log_ids.START):
            return
        try:
            await self._log.commit(self._name, self._epoch, self._commit_no, position, [])
        except AlreadyCommitted as error:  # the reply of an earlier move, perhaps to another position, was lost: the next one gets there
            self._commit_no = error.commit_no
            return
        self._commit_no += 1
        self._position = position

    async def release(self) -> None:
        """At its good end: another one need not wait for the lease to run out."""
        await self._log.release(self._name, self._epoch)
