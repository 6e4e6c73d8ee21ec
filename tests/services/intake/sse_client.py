"""Reads Server-Sent Events as a browser does: what it got, and after which id it would go on."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from aiohttp import ClientResponse


class Got(NamedTuple):
    id: str
    event: str
    data: Any


class EventSource:
    """`last_id` follows every id line, also one without data, as the standard says."""

    def __init__(self, response: ClientResponse) -> None:
        assert response.status == 200, response.status
        assert response.content_type == "text/event-stream"
        self._response = response
        self.last_id = ""
        self.comments = 0

    async def __aiter__(self) -> AsyncIterator[Got]:
        event, data = "message", []
        async for raw in self._response.content:
            line = raw.decode().rstrip("\n")
            name, _, value = line.partition(": ")
            if not line:
                if data:
                    yield Got(self.last_id, event, json.loads("\n".join(data)))
                event, data = "message", []
            elif line.startswith(":"):
                self.comments += 1
            elif name == "id":
                self.last_id = value
            elif name == "event":
                event = value
            elif name == "data":
                data.append(value)

    async def take(self, count: int) -> list[Got]:
        """The next `count` events."""
        got: list[Got] = []
        async for one in self:
            got.append(one)
            if len(got) == count:
                break
        return got

    async def rest(self) -> list[Got]:
        """All to the end of the answer."""
        return [one async for one in self]
