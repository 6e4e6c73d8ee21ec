"""Connections to the server, with one reconnect loop for all of them.

    connections = Connections(url)
    link = await connections.commands()                      # shared: commands are sent as they come, replies come in their order
    async with connections.reading() as link: …              # one's own, for a read that blocks

The client library's own retries are off, since it repeats a command whose reply was lost; here a call in flight fails with LogUnavailable
when its connection breaks, and the caller repeats it, knowing that it may have taken effect. A call that finds no connection waits for one,
at most `patience_sec`, while the loop tries again with growing pauses.
"""

from __future__ import annotations

import asyncio
import contextlib
import random
from collections.abc import AsyncIterator

import redis.exceptions as redis_errors
from redis.asyncio import ConnectionPool
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from mloc.services.log.event_log import LogRefused, LogUnavailable
from mloc.services.log.redis_link import BROKEN, NO_REDIS, Link
from mloc.services.server.address import shown_url

SHORTEST_PAUSE_SEC, LONGEST_PAUSE_SEC = 0.05, 1.0
IDLE_LINKS = 8

REFUSED = (redis_errors.AuthenticationError, redis_errors.AuthorizationError)


class Connections:
    """The links of one log object: one for commands, and as many for blocking reads as there are at a time."""

    def __init__(self, url: str, *, patience_sec: float, reply_timeout_sec: float, name: str) -> None:
        self._shown = shown_url(url)
        self._patience_sec = patience_sec
        self._reply_timeout_sec = reply_timeout_sec
        self._pool: ConnectionPool = ConnectionPool.from_url(url)
        self._pool.connection_kwargs.update(
            protocol=2, decode_responses=False, socket_timeout=None, socket_connect_timeout=reply_timeout_sec, health_check_interval=0,
            retry=Retry(NoBackoff(), 0), retry_on_error=[], client_name=name,
        )  # fmt: skip
        self._commands: Link | None = None
        self._opening: asyncio.Task[Link] | None = None
        self._idle: list[Link] = []
        self._closed = False

    async def commands(self) -> Link:
        """The open link for commands, shared by all callers. Raises LogUnavailable."""
        link = self._commands
        if link is not None and link.is_open:
            return link
        if self._opening is None:
            self._opening = asyncio.create_task(self._open())
            self._opening.add_done_callback(self._opened)
        return await asyncio.shield(self._opening)

    @contextlib.asynccontextmanager
    async def reading(self) -> AsyncIterator[Link]:
        """A link of the caller's own. Raises LogUnavailable."""
        while self._idle and not self._idle[-1].is_idle:
            self._idle.pop()
        link = self._idle.pop() if self._idle else await self._open()
        try:
            yield link
        finally:
            if link.is_idle and len(self._idle) < IDLE_LINKS and not self._closed:
                self._idle.append(link)
            else:  # the caller left before the reply: nobody else shall wait behind it
                link.close()

    async def close(self) -> None:
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        for link in (self._commands, *self._idle):
            if link is not None:
                link.close()
        self._idle.clear()

    def _opened(self, opening: asyncio.Task[Link]) -> None:
        self._opening = None
        if not opening.cancelled() and opening.exception() is None:
            self._commands = opening.result()

    async def _open(self) -> Link:
        """The reconnect loop. Raises LogUnavailable; LogRefused where the server does not let us in."""
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + self._patience_sec, SHORTEST_PAUSE_SEC
        while not self._closed:
            link = Link(self._pool.make_connection(), self._reply_timeout_sec)  # type: ignore[no-untyped-call]
            try:
                await link.open()
                return link
            except redis_errors.ResponseError as error:
                raise LogRefused(f"the server at {self._shown} does not let us in: {error}") from error
            except NO_REDIS as error:
                raise LogUnavailable(f"what answers at {self._shown} is neither Redis nor Valkey ({error}): correct REDIS_URL") from error
            except BROKEN as error:
                if isinstance(error, REFUSED) or isinstance(error.__cause__, REFUSED):  # the library wraps some
                    raise LogRefused(f"the server at {self._shown} refuses user or password ({error}): correct REDIS_URL") from error
                if loop.time() + pause > until:
                    raise LogUnavailable(_unreachable(self._shown, error)) from error
            await asyncio.sleep(random.uniform(SHORTEST_PAUSE_SEC, pause))
            pause = min(pause * 2, LONGEST_PAUSE_SEC)
        raise LogUnavailable("the event log was closed")


def _unreachable(shown: str, error: Exception) -> str:
    if isinstance(error, redis_errors.BusyLoadingError):
        return f"the server at {shown} still loads the event log: try again in a while"
    reason = str(error) or "no answer in time"
    return f"the event log at {shown} cannot be reached ({reason}): does the server run? `mloc up` starts one; REDIS_URL names another"
