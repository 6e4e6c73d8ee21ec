"""One connection to the server: commands are sent as they come, replies are given to their callers in the same order.

The client library makes the connection (URL, TLS, password, database); then its transport is read here without a task in between, which
halves the time of a round trip.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import Sequence
from typing import Any, NamedTuple

import hiredis
import redis.exceptions as redis_errors
from redis.asyncio.connection import AbstractConnection

from mloc.services.log.event_log import LogUnavailable

WATCH_SEC = 0.5
READ_BYTES = 256 * 1024  # of a reply at a time
NOT_YET = object()

Argument = bytes | str | int
Command = tuple[Argument, ...]
Reply = Any  # what hiredis makes of it; errors are values: redis ResponseErrors
BROKEN = (redis_errors.ConnectionError, redis_errors.TimeoutError, OSError)
NO_REDIS = redis_errors.InvalidResponse  # what answers speaks another protocol


class Awaited(NamedTuple):
    reply: asyncio.Future[Reply]
    deadline: float  # of the running loop's clock


class Link(asyncio.BufferedProtocol):
    """Any number of callers send at a time; a reply that does not come in time ends the connection."""

    def __init__(self, connection: AbstractConnection, reply_timeout_sec: float) -> None:
        self.run_id = ""
        self._connection = connection  # kept, since it closes the transport when it goes
        self._reply_timeout_sec = reply_timeout_sec
        self._awaited: deque[Awaited] = deque()
        self._transport: asyncio.WriteTransport | None = None
        self._parser: Any = None
        self._received = memoryview(bytearray(READ_BYTES))
        self._broken = ""

    async def open(self) -> None:
        """Raises redis's ConnectionError and TimeoutError, also while the server loads its data."""
        connection = self._connection
        try:
            async with asyncio.timeout(self._reply_timeout_sec):
                await connection.connect()  # type: ignore[no-untyped-call]
                await connection.send_command("PING", check_health=False)  # refused while it loads, which INFO is not
                await connection.read_response()
                await connection.send_command("INFO", "server", check_health=False)
                self.run_id = _run_id(await connection.read_response())
        except BaseException:
            await connection.disconnect(nowait=True)
            raise
        self._parser = hiredis.Reader(
            protocolError=redis_errors.InvalidResponse, replyError=connection._parser.parse_error, notEnoughData=NOT_YET
        )
        assert connection._writer is not None
        self._transport = connection._writer.transport
        self._transport.set_protocol(self)
        asyncio.get_running_loop().call_later(WATCH_SEC, self._watch)

    @property
    def is_open(self) -> bool:
        return self._transport is not None and not self._broken and not self._transport.is_closing()

    @property
    def is_idle(self) -> bool:
        return self.is_open and not self._awaited

    async def call(self, *command: bytes | str | int) -> Reply:
        """Raises LogUnavailable; an error that the server answers is given back as a value."""
        return (await self.calls([command]))[0]

    async def calls(self, commands: Sequence[Command], *, blocks_sec: float = 0.0) -> list[Reply]:
        """Replies to commands that are sent together; `blocks_sec` is how long the server may take on purpose."""
        if not self.is_open:
            raise LogUnavailable(self._broken or "the connection to the event log is closed")
        assert self._transport is not None
        loop = asyncio.get_running_loop()
        deadline = loop.time() + blocks_sec + self._reply_timeout_sec
        packed = [hiredis.pack_command(command) for command in commands]  # type: ignore[arg-type]  # its stub says one argument
        replies: list[asyncio.Future[Reply]] = [loop.create_future() for _ in commands]
        self._awaited.extend(Awaited(reply, deadline) for reply in replies)
        self._transport.write(packed[0] if len(packed) == 1 else b"".join(packed))
        results = [await reply for reply in replies]
        for result in results:
            if isinstance(result, LogUnavailable):
                raise result
        return results

    def close(self, reason: str = "the connection to the event log was closed") -> None:
        """Callers that still wait get LogUnavailable with `reason`."""
        self._broken = self._broken or reason
        if self._transport is not None:
            self._transport.abort()
            self._connection._close()  # type: ignore[no-untyped-call]  # else it warns that it was forgotten
        awaited, self._awaited = self._awaited, deque()
        for waiting in awaited:
            if not waiting.reply.done():
                waiting.reply.set_result(LogUnavailable(self._broken))

    # --- called by the transport ---

    def get_buffer(self, sizehint: int) -> memoryview:
        """One buffer for the life of the link, instead of a new one for each read."""
        return self._received

    def buffer_updated(self, nbytes: int) -> None:
        parser, awaited = self._parser, self._awaited
        parser.feed(self._received, 0, nbytes)
        try:
            while (reply := parser.gets()) is not NOT_YET:
                if isinstance(reply, redis_errors.ConnectionError):  # the server loads its data, or has too many clients
                    return self.close(f"the server of the event log does not serve us now: {reply}")
                waiting = awaited.popleft().reply
                if not waiting.done():  # else its caller has left
                    waiting.set_result(reply)
                if isinstance(reply, redis_errors.ReadOnlyError):
                    return self.close("the server is a replica now and takes no writes; looking for the primary")
        except (redis_errors.InvalidResponse, IndexError) as error:
            self.close(f"what the server at the other end says is no answer: {error}")

    def connection_lost(self, exc: Exception | None) -> None:
        self.close(f"the connection to the event log broke: {exc or 'closed by the server'}")

    def _watch(self) -> None:
        """A server that stands still, or a network that swallows packets, closes no connection."""
        if not self.is_open:
            return
        loop = asyncio.get_running_loop()
        if self._awaited and self._awaited[0].deadline < loop.time():
            self.close(f"the event log did not answer for {self._reply_timeout_sec:g} s")
        else:
            loop.call_later(WATCH_SEC, self._watch)


def _run_id(info: bytes) -> str:
    for line in info.splitlines():
        if line.startswith(b"run_id:"):
            return line.removeprefix(b"run_id:").decode()
    raise redis_errors.ConnectionError("the server does not say its run id")
