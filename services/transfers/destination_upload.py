"""`output.destination` of type http: the worker sends the artifacts of a success there; the result itself is posted by the aggregator.

A file goes to `<url>/<task>/files/<name>`, its name below artifacts/. One that does not get there costs no training: the result says so.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from urllib.parse import quote

import aiohttp
from msgspec import Struct

from mloc.services.artifacts.digests import HEX_HEADER, file_sha256
from mloc.services.callbacks.hosts import ANYWHERE, AllowedHosts, HostRefused, new_session
from mloc.services.clock import Clock
from mloc.services.results.folders import ARTIFACTS
from mloc.services.transfers.attempt_files import Progress
from mloc.services.transfers.final_archives import FINAL
from mloc.services.transfers.remote_files import Say
from mloc.services.transfers.transfer_errors import shown_url

TRIES, FIRST_PAUSE_SEC = 5, 1.0
TIMEOUT_SEC = 600.0  # of one file, where the task says nothing
READ_BYTES = 1 << 20
_WORTH_REPEATING = frozenset({408, 425, 429, 500, 502, 503, 504})


class HttpDestination(Struct, frozen=True):
    """Where to, and how. `headers` may hold secrets, by now as themselves."""

    url: str
    method: str = "POST"
    headers: Mapping[str, str] = {}
    timeout_sec: float = TIMEOUT_SEC

    def file(self, task: str, name: str) -> str:
        return f"{self.url.rstrip('/')}/{quote(task, safe='')}/files/{quote(name)}"


class NotSent(Struct, frozen=True):
    name: str
    error: str


def artifacts_to_send(folder: Path) -> list[tuple[str, Path]]:
    """(name below artifacts/, file). Of weights that have an archive the archive alone; checkpoints stay."""
    root = folder / ARTIFACTS
    packed = {name for name, archive in FINAL.items() if (root / archive).is_file()}
    found = []
    for path in sorted(root.rglob("*")):
        parts = path.relative_to(root).parts
        if path.is_file() and not path.is_symlink() and parts[0] not in {*packed, "checkpoints"} and not any(part.startswith(".") for part in parts):
            found.append(("/".join(parts), path))
    return found


async def send_artifacts(
    destination: HttpDestination, task: str, folder: Path, say: Say, clock: Clock, hosts: AllowedHosts = ANYWHERE
) -> list[NotSent]:
    """Each streamed, tried again where that can help; gives those that did not get there, and why."""
    missed = []
    timeout = aiohttp.ClientTimeout(total=destination.timeout_sec, sock_connect=15)
    async with new_session(hosts, timeout) as session:
        for name, file in await asyncio.to_thread(artifacts_to_send, folder):
            try:
                hosts.check(destination.url)
                error = await _send(session, destination, destination.file(task, name), file, Progress(clock, name, say), clock)
            except HostRefused as refused:
                error = str(refused)
            if error:
                say(f"{name} could not be sent to {shown_url(destination.url)}: {error}")
                missed.append(NotSent(name, error))
    return missed


async def _send(session: aiohttp.ClientSession, to: HttpDestination, url: str, file: Path, progress: Progress, clock: Clock) -> str:
    """Why it did not get there; empty where it did."""
    sha256 = await asyncio.to_thread(file_sha256, file)
    headers = {"Content-Type": "application/octet-stream", "Content-Length": str(file.stat().st_size), HEX_HEADER: sha256, **to.headers}
    error = ""
    for number in range(TRIES):
        if number:
            await clock.sleep(FIRST_PAUSE_SEC * 2 ** (number - 1))
        try:
            async with session.request(to.method, url, data=_content(file, progress), headers=headers, allow_redirects=False) as answer:
                if answer.status < 300:
                    return ""
                error = f"{shown_url(url)} answers {answer.status} {answer.reason or ''}".strip()
                if answer.status not in _WORTH_REPEATING:
                    return error
        except (aiohttp.ClientError, TimeoutError, ConnectionError) as problem:
            error = str(problem) or type(problem).__name__
    return error


async def _content(file: Path, progress: Progress) -> AsyncIterator[bytes]:
    size, done = file.stat().st_size, 0
    with file.open("rb") as opened:
        while piece := await asyncio.to_thread(opened.read, READ_BYTES):
            yield piece
            done += len(piece)
            progress(done, size)
