"""Log lines of tasks as an API sends them: one stream for a task and all its parts, gone on from its last line when it breaks."""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator

import msgspec

from mloc.services.intake.commands.api_client import ApiClient, segment
from mloc.services.intake.commands.source import Unreachable, View

AGAIN_SEC = 2.0  # until a stream that broke is opened again
REST_SEC = 10.0  # for what is still on its way when a task has ended


class LogStreams:
    """Of one command. Close it."""

    def __init__(self, client: ApiClient) -> None:
        self._client = client
        self._streams: dict[str, _Stream] = {}

    async def take(self, root: str, task: str, *, is_over: bool) -> list[View] | None:
        """The lines of a task, `root` or a part of it, that have come since the last call; once `root` is over, all the rest.

        None where they are to be asked for instead, after the last that was given: the API streams no lines, or does not come to their end.
        """
        stream = self._streams.get(root)
        if stream is None:
            stream = self._streams[root] = _Stream()
            stream.reading = asyncio.create_task(self._read(root, stream))
        if is_over:
            try:
                async with asyncio.timeout(REST_SEC):
                    await stream.over.wait()
            except TimeoutError:
                stream.is_offered = False
        return stream.lines.pop(task, []) if stream.is_offered else None

    async def close(self) -> None:
        reading = [stream.reading for stream in self._streams.values() if stream.reading is not None]
        for one in reading:
            one.cancel()
        await asyncio.gather(*reading, return_exceptions=True)
        self._streams = {}

    async def _read(self, root: str, stream: _Stream) -> None:
        last = ""
        while True:
            asked = {"follow": "1", **({"last_event_id": last} if last else {})}
            try:
                async with self._client.stream(f"/api/v1/tasks/{segment(root)}/logs", asked) as came:
                    async for id, event, text in _events(came):
                        if event == "end":
                            stream.over.set()
                            return
                        if event in ("line", "metrics"):
                            view: View = msgspec.json.decode(text)
                            stream.lines[view["task_id"]].append(view)
                            last = id
            except Unreachable as error:
                if error.is_refused:
                    stream.is_offered = False
                    stream.over.set()
                    return
            await asyncio.sleep(AGAIN_SEC)


class _Stream:
    """What has come of one task's lines."""

    def __init__(self) -> None:
        self.reading: asyncio.Task[None] | None = None
        self.lines: defaultdict[str, list[View]] = defaultdict(list)
        self.over = asyncio.Event()
        self.is_offered = True


async def _events(lines: AsyncIterator[bytes]) -> AsyncIterator[tuple[str, str, bytes]]:
    """(id, event, data) of Server-Sent Events; comments and events without data are left out."""
    id = event = ""
    data = b""
    async for line in lines:
        name, _, value = line.rstrip(b"\r\n").partition(b":")
        match name:
            case b"id":
                id = value.strip().decode()
            case b"event":
                event = value.strip().decode()
            case b"data":
                data = value.strip()
            case b"" if not value:
                if data:
                    yield id, event, data
                event, data = "", b""
