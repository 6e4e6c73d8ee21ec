"""The aggregator's side of a result writer: started when first needed, started again when it dies, asked one thing after the other."""

from __future__ import annotations

import asyncio
import contextlib
import sys
from pathlib import Path
from typing import Protocol

import structlog

from mloc.services.results.orders import LENGTH_BYTES, Failed, Order, Reply, decode_reply, message


class ResultWriter(Protocol):
    """Who carries out orders on result files."""

    async def ask(self, order: Order) -> Reply:
        """Carry out an order. Every order may be repeated; Failed says why it was not carried out."""

    async def close(self) -> None: ...


class WriterProcess:
    """A writer in a process of its own."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._child: asyncio.subprocess.Process | None = None
        self._turn = asyncio.Lock()

    async def ask(self, order: Order) -> Reply:
        async with self._turn:
            try:
                child = await self._running()
                assert child.stdin is not None
                assert child.stdout is not None
                child.stdin.write(message(order))
                await child.stdin.drain()
                length = int.from_bytes(await child.stdout.readexactly(LENGTH_BYTES), "big")
                return decode_reply(await child.stdout.readexactly(length))
            except (OSError, asyncio.IncompleteReadError) as error:
                await self._bury()
                return Failed(f"the result writer ended ({type(error).__name__}); it is started again")
            except asyncio.CancelledError:  # a reply may be half read
                self._kill()
                raise

    async def close(self) -> None:
        """Let it finish what it does."""
        child, self._child = self._child, None
        if child is not None and child.stdin is not None:
            child.stdin.close()
            await child.wait()

    async def _running(self) -> asyncio.subprocess.Process:
        if self._child is None or self._child.returncode is not None:
            self._child = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "mloc.services.results.writer", str(self._root.resolve()),
                stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE,
            )  # fmt: skip
            structlog.get_logger().debug("a result writer runs", pid=self._child.pid, folder=str(self._root))
        return self._child

    async def _bury(self) -> None:
        self._kill()
        child, self._child = self._child, None
        if child is not None:
            await child.wait()

    def _kill(self) -> None:
        if self._child is not None:
            with contextlib.suppress(ProcessLookupError):
                self._child.kill()
