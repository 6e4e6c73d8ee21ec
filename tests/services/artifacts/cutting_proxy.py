"""A connection to a server that breaks off, in either direction, after so many bytes as the caller draws for each."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Callable


class CuttingProxy:
    """`budget` gives the bytes that the next connection may carry; -1 for no end. `cuts` counts those that broke."""

    def __init__(self, port: int, budget: Callable[[], int]) -> None:
        self._port, self._budget = port, budget
        self.cuts = 0
        self.port = 0

    @contextlib.asynccontextmanager
    async def running(self) -> AsyncIterator[CuttingProxy]:
        server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.port = server.sockets[0].getsockname()[1]
        async with server:
            yield self

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there, to_there = await asyncio.open_connection("127.0.0.1", self._port)
        left = [self._budget()]
        ways = [asyncio.create_task(self._carry(reader, to_there, left)), asyncio.create_task(self._carry(there, writer, left))]
        await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
        for way in ways:
            way.cancel()
        for end in (writer, to_there):
            end.transport.abort()
        await asyncio.gather(*ways, return_exceptions=True)

    async def _carry(self, source: asyncio.StreamReader, target: asyncio.StreamWriter, left: list[int]) -> None:
        while piece := await source.read(1 << 16):
            if left[0] >= 0:
                piece = piece[: left[0]]
                left[0] -= len(piece)
            target.write(piece)
            await target.drain()
            if left[0] == 0:
                self.cuts += 1
                return
