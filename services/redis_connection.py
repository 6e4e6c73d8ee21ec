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
from collections import deque
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import hiredis
import redis.exceptions as redis_errors
from redis.asyncio import ConnectionPool
from redis.asyncio.connection import AbstractConnection
from redis.asyncio.retry import Retry
from redis.backoff import NoBackoff

from mloc.services.event_log import LogUnavailable
from mloc.services.server_address import shown_url

SHORTEST_PAUSE_SEC, LONGEST_PAUSE_SEC = 0.05, 1.0
WATCH_SEC = 0.5
IDLE_LINKS = 8

Command = tuple[bytes | str | int, ...]
Reply = Any  # what hiredis makes of it; errors are values: redis ResponseErrors
REFUSED = (redis_errors.AuthenticationError, redis_errors.AuthorizationError)
BROKEN = (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError)


class Awaited(NamedTuple):
    reply: asyncio.Future[Reply]
    deadline: float  # of the running loop's clock


class Link:
    """One connection. Any number of callers send at a time; a reply that does not come in time ends the connection."""

    def __init__(self, connection: AbstractConnection, reply_timeout_sec: float) -> None:
        self.run_id = ""
        self._connection = connection
        self._reply_timeout_sec = reply_timeout_sec
        self._awaited: deque[Awaited] = deque()
        self._reading: asyncio.Task[None] | None = None
        self._broken = ""

    async def open(self) -> None:
        """Raises redis's ConnectionError and TimeoutError, also while the server loads its data."""
        connection = self._connection
        try:
            async with asyncio.timeout(self._reply_timeout_sec):
                await connection.connect()  # type: ignore[no-untyped-call]
                await connection.send_command("INFO", "server", check_health=False)
                info = await connection.read_response()
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self.run_id = _run_id(info)
        self._reading = asyncio.create_task(self._read_replies())
        asyncio.get_running_loop().call_later(WATCH_SEC, self._watch)

    @property
    def is_open(self) -> bool:
        return self._reading is not None and not self._reading.done() and not self._broken

    async def call(self, *command: bytes | str | int) -> Reply:
        """Raises LogUnavailable; an error that the server answers is given back as a value."""
        return (await self.calls([command]))[0]

    async def calls(self, commands: Sequence[Command], *, blocks_sec: float = 0.0) -> list[Reply]:
        """Replies to commands that are sent together; `blocks_sec` is how long the server may take on purpose."""
        if not self.is_open:
            raise LogUnavailable(self._broken or "the connection to the event log is closed")
        loop = asyncio.get_running_loop()
        deadline = loop.time() + blocks_sec + self._reply_timeout_sec
        replies: list[asyncio.Future[Reply]] = [loop.create_future() for _ in commands]
        self._awaited.extend(Awaited(reply, deadline) for reply in replies)
        try:
            packed = [hiredis.pack_command(command) for command in commands]  # type: ignore[arg-type]  # its stub says one argument
            await self._connection.send_packed_command(packed, check_health=False)  # written before it waits, so in order
            results = [await reply for reply in replies]
        except BROKEN as error:
            self._break(str(error))
            raise LogUnavailable(f"the connection to the event log broke: {error}") from error
        for result in results:
            if isinstance(result, LogUnavailable):
                raise result
        return results

    def is_idle(self) -> bool:
        return self.is_open and not self._awaited

    async def close(self) -> None:
        self._break("the connection to the event log was closed")
        if self._reading is not None:
            await asyncio.wait([self._reading])

    def _break(self, reason: str) -> None:
        self._broken = self._broken or reason
        if self._reading is not None:
            self._reading.cancel()

    async def _read_replies(self) -> None:
        connection, awaited = self._connection, self._awaited
        try:
            while True:
                try:
                    reply = await connection.read_response(disconnect_on_error=False)
                except redis_errors.ResponseError as error:
                    reply = error
                waiting = awaited.popleft()
                if not waiting.reply.done():  # else its caller has left
                    waiting.reply.set_result(reply)
                if isinstance(reply, redis_errors.ReadOnlyError):
                    self._broken = "the server is a replica now and takes no writes; looking for the primary"
                    return
        except BROKEN as error:
            self._broken = self._broken or f"the connection to the event log broke: {error}"
        finally:
            self._broken = self._broken or "the connection to the event log was closed"
            for waiting in awaited:
                if not waiting.reply.done():
                    waiting.reply.set_result(LogUnavailable(self._broken))
            awaited.clear()
            await connection.disconnect(nowait=True)

    def _watch(self) -> None:
        """A server that stands still, or a network that swallows packets, closes no connection."""
        if not self.is_open:
            return
        loop = asyncio.get_running_loop()
        if self._awaited and self._awaited[0].deadline < loop.time():
            self._break(f"the event log did not answer for {self._reply_timeout_sec:g} s")
        else:
            loop.call_later(WATCH_SEC, self._watch)


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
        while self._idle and not self._idle[-1].is_idle():
            self._idle.pop()
        link = self._idle.pop() if self._idle else await self._open()
        try:
            yield link
        finally:
            if link.is_idle() and len(self._idle) < IDLE_LINKS and not self._closed:
                self._idle.append(link)
            else:  # the caller left before the reply: nobody else shall wait behind it
                await link.close()

    async def close(self) -> None:
        self._closed = True
        if self._opening is not None:
            self._opening.cancel()
            await asyncio.wait([self._opening])
        for link in (self._commands, *self._idle):
            if link is not None:
                await link.close()
        self._idle.clear()

    def _opened(self, opening: asyncio.Task[Link]) -> None:
        self._opening = None
        if not opening.cancelled() and opening.exception() is None:
            self._commands = opening.result()

    async def _open(self) -> Link:
        """The reconnect loop."""
        loop = asyncio.get_running_loop()
        until, pause = loop.time() + self._patience_sec, SHORTEST_PAUSE_SEC
        while not self._closed:
            link = Link(self._pool.make_connection(), self._reply_timeout_sec)  # type: ignore[no-untyped-call]
            try:
                await link.open()
                return link
            except redis_errors.ResponseError as error:
                raise LogUnavailable(f"the server at {self._shown} does not let us in: {error}") from error
            except BROKEN as error:
                if isinstance(error, REFUSED) or isinstance(error.__cause__, REFUSED):  # the library wraps some
                    raise LogUnavailable(f"the server at {self._shown} refuses user or password ({error}): correct REDIS_URL") from error
                if loop.time() + pause > until:
                    raise LogUnavailable(_unreachable(self._shown, error)) from error
            await asyncio.sleep(random.uniform(SHORTEST_PAUSE_SEC, pause))
            pause = min(pause * 2, LONGEST_PAUSE_SEC)
        raise LogUnavailable("the event log was closed")


def _unreachable(shown: str, error: Exception) -> str:
    if isinstance(error, redis_errors.BusyLoadingError):
        return f"the server at {shown} still loads the event log: try again in a while"
    return f"the event log at {shown} cannot be reached ({error}): does the server run? `mloc up` starts one; REDIS_URL names another"


def _run_id(info: bytes) -> str:
    for line in info.splitlines():
        if line.startswith(b"run_id:"):
            return line.removeprefix(b"run_id:").decode()
    raise redis_errors.ConnectionError("the server does not say its run id")
