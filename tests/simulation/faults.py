"""What can go wrong around one process: it crashes at any await, stands still, is cut off, its messages are lost or arrive twice."""

from __future__ import annotations

import asyncio
from random import Random
from typing import Any

from mloc.services.log.event_log import Entry, InboxEntry, LogUnavailable
from mloc.services.log.memory_log import MemoryLog
from mloc.services.log.memory_server import MemoryServer


class Chances:
    """Probabilities of one history; 0 everywhere once it is to come to rest."""

    def __init__(self, random: Random) -> None:
        self.crash = random.choice([0.0, 0.0005, 0.002, 0.005])
        self.lost = random.choice([0.0, 0.005, 0.03])
        self.repeated = random.choice([0.0, 0.01, 0.05])
        self.stall = random.choice([0.0, 0.02, 0.1])  # a leader stands still just before a commit, about as long as its lease lasts
        self.latency_sec = random.choice([0.0002, 0.002, 0.02])

    def rest(self) -> None:
        self.crash = self.lost = self.repeated = self.stall = 0.0


class Life:
    """One life of a process. After its end none of its coroutines goes on, like after a kill -9."""

    def __init__(self, name: str, loop: asyncio.AbstractEventLoop, random: Random, chances: Chances) -> None:
        self.name = name
        self.alive = True
        self.paused_until = 0.0
        self.cut_off_until = 0.0
        self.random = random
        self.chances = chances
        self._loop = loop

    async def gate(self) -> None:
        """Every await of the process passes here: dead processes stay, paused ones wait."""
        if self.alive and self.random.random() < self.chances.crash:
            self.alive = False
        while self.alive and self._loop.time() < self.paused_until:
            await asyncio.sleep(self.paused_until - self._loop.time())
        if not self.alive:
            await self._loop.create_future()

    async def network(self, moment: str, call: str) -> None:
        """The hook of the log in memory: a request on its way there, or a reply on its way back."""
        if call == "commit" and moment == "request" and self.chance(self.chances.stall):
            self.paused_until = self._loop.time() + self.random.uniform(1.5, 2.6)
        await self.gate()
        await asyncio.sleep(self.random.expovariate(1 / self.chances.latency_sec))
        await self.gate()
        if self._loop.time() < self.cut_off_until or self.random.random() < self.chances.lost:
            raise LogUnavailable(f"the {moment} of {call} was lost")

    def chance(self, probability: float) -> bool:
        return self.random.random() < probability


class LifeClock:
    """The shell's Clock for one life."""

    def __init__(self, life: Life, loop: asyncio.AbstractEventLoop) -> None:
        self._life = life
        self._loop = loop

    def monotonic(self) -> float:
        return self._loop.time()

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(max(seconds, 0.0))
        await self._life.gate()


class FaultyLog(MemoryLog):
    """A client whose reads come in batches of any size and whose writes may arrive twice."""

    def __init__(self, server: MemoryServer, life: Life) -> None:
        super().__init__(server, life.network)
        self._life = life

    async def read(self, after: str, count: int = 256, block_ms: int = 0) -> list[Entry]:
        return await super().read(after, self._life.random.choice([1, 2, 3, 7, count]), block_ms)

    async def _write(self, script: str, *arguments: Any, goes_on: bool = False, looks: bool = False, wakes: Any = ()) -> Any:
        if script != "lease" and self._life.chance(self._life.chances.repeated):
            await self._asked(script, goes_on=goes_on, looks=looks)
            self._server.write(script, *arguments, wakes=wakes)
        return await super()._write(script, *arguments, goes_on=goes_on, looks=looks, wakes=wakes)

    def _deliver(self, worker: str, incarnation: int, count: int) -> list[InboxEntry]:
        if self._life.chance(self._life.chances.repeated):
            super()._deliver(worker, incarnation, count)  # taken by a connection that died
        return super()._deliver(worker, incarnation, count)
