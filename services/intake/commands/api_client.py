"""Requests to the API of an MLOC elsewhere: repeated where that is harmless, and every failure as a line that tells what to do.

What was surely not taken (no connection, 429, 503) is sent again; a lost answer only where repeating the request changes nothing.
"""

from __future__ import annotations

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Mapping
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlsplit

import aiohttp
import msgspec
from msgspec import Struct

from mloc.core.language.errors import LanguageError, Problem
from mloc.services.intake.commands.source import MaybeTaken, Unreachable
from mloc.services.intake.task_names import UnknownTask
from mloc.services.intake.task_query import QueryError
from mloc.services.intake.task_requests import RequestRefused
from mloc.services.log.event_log import BacklogFull, KeyConflict
from mloc.services.settings import SettingsError

if TYPE_CHECKING:
    from mloc.services.artifacts.client import Transfer

CONNECT_PATIENCE_SEC = 10.0  # while nobody listens: a restart takes seconds
BUSY_PATIENCE_SEC = 90.0  # while it says 429 or 503
FIRST_PAUSE_SEC, LONGEST_PAUSE_SEC = 0.25, 10.0
_TIMEOUT = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=120)


class Answer(Struct, frozen=True):
    status: int
    headers: Mapping[str, str]
    body: bytes

    def json(self) -> Any:
        """None where the body is no JSON."""
        try:
            return msgspec.json.decode(self.body)
        except msgspec.DecodeError:
            return None


def api_root(url: str) -> str:
    """The URL as requests start with it. Raises SettingsError."""
    parts = urlsplit(url if "://" in url else f"//{url}")
    if parts.scheme not in ("http", "https") or not parts.hostname:
        hint = f"; did you mean http://{url}?" if parts.netloc and "://" not in url else ""
        raise SettingsError(f"the API's URL takes http://host:port or https://host, not {url!r}{hint}")
    if parts.username or parts.password or parts.query or parts.fragment:
        raise SettingsError("the API's URL takes no user, password or query: the token is taken from ORCHESTRATOR_TOKEN")
    return f"{parts.scheme}://{parts.netloc}{parts.path.rstrip('/').removesuffix('/api/v1')}"


class ApiClient:
    """`say` gets a line when a request has to wait."""

    def __init__(self, root: str, token: str, session: aiohttp.ClientSession, say: Callable[[str], None]) -> None:
        self.root = root
        self._session = session
        self._headers = {"Authorization": f"Bearer {token}"} if token else {}
        self._say = say
        self._clock_ms = 0.0  # the API's clock less the own monotonic one
        self.patient = True  # False: a failure is the caller's to wait out

    def now_ms(self) -> int:
        """The API's time as its last answer told it, to a second."""
        return int(self._clock_ms + time.monotonic() * 1000)

    async def get(self, path: str, query: Mapping[str, str] | list[tuple[str, str]] = {}) -> Any:  # noqa: B006 - never written to
        """The JSON of an answer; errors as `_failure` says, and Unreachable."""
        return _decoded(self.root, await self.send("GET", path, query=query))

    async def post(self, path: str, body: bytes, headers: Mapping[str, str], *, repeatable: bool) -> Any:
        """As `get`; MaybeTaken where the answer was lost and the request is not one to be repeated."""
        return _decoded(self.root, await self.send("POST", path, body=body, headers=headers, repeatable=repeatable))

    async def send(
        self, method: str, path: str, *, query: Mapping[str, str] | list[tuple[str, str]] = {}, body: bytes | None = None,  # noqa: B006
        headers: Mapping[str, str] = {}, repeatable: bool = True,
    ) -> Answer:  # fmt: skip
        """One answer, whatever its status, after as many tries as patience allows. Raises Unreachable, MaybeTaken."""
        waiting = _Waiting(self._say)
        while True:
            try:
                answer = await self._once(method, path, query, body, headers)
            except aiohttp.ClientConnectorCertificateError as error:
                raise Unreachable(f"the certificate of {self.root} cannot be trusted: {error.certificate_error}") from error
            except aiohttp.ClientSSLError as error:
                raise Unreachable(f"no secure connection to {self.root} ({_reason(error)}): is it https at all?") from error
            except aiohttp.InvalidURL as error:
                raise SettingsError(f"{self.root} is no URL of an API") from error
            except (aiohttp.ClientError, TimeoutError, OSError) as error:
                was_sent = not isinstance(error, aiohttp.ClientConnectorError)
                if was_sent and not repeatable:
                    raise MaybeTaken(f"the answer of {self.root} was lost ({_reason(error)})") from error
                if not self.patient or not await waiting.again(f"{self.root} cannot be reached ({_reason(error)})", CONNECT_PATIENCE_SEC):
                    raise Unreachable(
                        f"{self.root} cannot be reached ({_reason(error)}): is the API running there, and is the URL right (--url, ORCHESTRATOR_URL)?"
                    ) from error
                continue
            if answer.status in (429, 503) and self.patient:
                why = f"{self.root} is busy ({_message(answer) or answer.status})"
                if await waiting.again(why, BUSY_PATIENCE_SEC, _seconds(answer.headers.get("Retry-After", ""))):
                    continue
            return answer

    @contextlib.asynccontextmanager
    async def download(self, path: str) -> AsyncIterator[AsyncIterator[bytes]]:
        """The body of an answer in pieces. Raises UnknownTask for 404, Unreachable."""
        try:
            async with self._session.get(self.root + path, headers=self._headers, timeout=_TIMEOUT, allow_redirects=False) as answer:
                if answer.status != 200:
                    failed = Answer(answer.status, answer.headers, await answer.read())
                    raise _failure(self.root, failed, failed.json())
                yield answer.content.iter_chunked(1 << 18)
        except (aiohttp.ClientError, TimeoutError) as error:
            raise Unreachable(f"the download from {self.root} broke off ({_reason(error)}): try again") from error

    @contextlib.asynccontextmanager
    async def stream(self, path: str, query: Mapping[str, str]) -> AsyncIterator[AsyncIterator[bytes]]:
        """The lines of a stream of events, for as long as it lasts. Raises Unreachable, also where the API has no such stream."""
        headers = {**self._headers, "Accept": "text/event-stream"}
        try:
            async with self._session.get(self.root + path, params=query, headers=headers, timeout=_TIMEOUT, allow_redirects=False) as answer:
                if answer.status != 200 or not answer.headers.get("Content-Type", "").startswith("text/event-stream"):
                    is_refused = answer.status < 500 and answer.status != 429
                    raise Unreachable(f"{self.root} streams no events (HTTP {answer.status})", is_refused=is_refused)
                yield aiter(answer.content)
        except (aiohttp.ClientError, TimeoutError, ValueError) as error:  # ValueError: a line longer than the reader takes
            raise Unreachable(f"the stream of {self.root} broke off ({_reason(error)})") from error

    def transfer(self) -> Transfer:
        """For files, which go on where they were when a connection breaks."""
        from mloc.services.artifacts.client import Transfer

        return Transfer(self._session, headers=self._headers, patience_sec=BUSY_PATIENCE_SEC)

    async def _once(
        self, method: str, path: str, query: Mapping[str, str] | list[tuple[str, str]], body: bytes | None, headers: Mapping[str, str]
    ) -> Answer:
        sent = {**headers, **self._headers}
        request = self._session.request(
            method, self.root + path, params=query, data=body, headers=sent, timeout=_TIMEOUT, allow_redirects=False
        )  # fmt: skip
        async with request as answer:
            with contextlib.suppress(KeyError, ValueError):
                self._clock_ms = parsedate_to_datetime(answer.headers["Date"]).timestamp() * 1000 - time.monotonic() * 1000
            return Answer(answer.status, answer.headers, await answer.read())


class _Waiting:
    """Pauses between the tries of one request: twice as long each time, or as long as the server asks."""

    def __init__(self, say: Callable[[str], None]) -> None:
        self._say = say
        self._began = time.monotonic()
        self._pause = FIRST_PAUSE_SEC
        self._said = ""

    async def again(self, why: str, patience_sec: float, asked_sec: float = 0.0) -> bool:
        """Pause; False when patience has ended."""
        pause = max(self._pause, asked_sec)
        if time.monotonic() + pause - self._began > patience_sec:
            return False
        if self._said != why:
            self._said = why
            self._say(f"{why}; trying again for {patience_sec:.0f} s")
        await asyncio.sleep(pause)
        self._pause = min(self._pause * 2, LONGEST_PAUSE_SEC)
        return True


def segment(text: str) -> str:
    """A task's id or a file's name as a part of a path."""
    return quote(text, safe="")


def _decoded(root: str, answer: Answer) -> Any:
    value = answer.json()
    if answer.status >= 300 or not isinstance(value, dict):
        raise _failure(root, answer, value)
    return value


def _failure(root: str, answer: Answer, value: Any) -> Exception:
    """What the answer says, as the exception that the same mistake raises without an API."""
    match value:
        case {"error": {"code": str(code), "message": str(message)} as error}:
            return _told(root, answer.status, code, message, error)
        case _ if 300 <= answer.status < 400:
            return SettingsError(f"{root} has moved to {answer.headers.get('Location', 'elsewhere')}: use that URL")
        case _ if answer.status in (401, 403):
            return SettingsError(f"{root} refuses the token (HTTP {answer.status}): is the URL that of MLOC's API?")
        case _ if answer.status in (502, 503, 504):
            return Unreachable(f"what stands before the API at {root} cannot reach it (HTTP {answer.status})")
    kind = answer.headers.get("Content-Type", "nothing").partition(";")[0]
    return SettingsError(f"{root} does not answer as MLOC's API does (HTTP {answer.status}, {kind}): the URL is where `mloc intake-api` listens")


def _told(root: str, status: int, code: str, message: str, error: dict[str, Any]) -> Exception:
    hint = str(error.get("hint") or "")
    if isinstance(details := error.get("details"), list) and status in (400, 422):
        with contextlib.suppress(msgspec.ValidationError):
            return LanguageError(msgspec.convert(details, list[Problem]))
    match status, code:
        case 401 | 403, _:
            return SettingsError(f"{root} refuses the request: {message}. Set ORCHESTRATOR_TOKEN to the token of that API")
        case 404, "not_found" if message.startswith("there is nothing at"):
            return SettingsError(f"{root}: {message}: that API is older than this command, or the URL is not where `mloc intake-api` listens")
        case 404, _:
            return UnknownTask(message)
        case 409, "idempotency_conflict":
            return KeyConflict(message)
        case 409, _:
            return RequestRefused(message, hint)
        case 429, "backlog_full":
            return BacklogFull(message)
        case 429, _:
            return Unreachable(f"{root}: {message}" + (f" ({hint})" if hint else ""))
        case 400 | 422, _:
            return QueryError(message + (f" ({hint})" if hint else ""))
        case 413, _:
            return QueryError(f"{message}: {hint}" if hint else message)
        case _ if status >= 500:
            return Unreachable(f"{root}: {message}" + (f" ({hint})" if hint else ""))
    return RequestRefused(message, hint)


def _message(answer: Answer) -> str:
    match answer.json():
        case {"error": {"message": str(message)}}:
            return message
    return ""


def _seconds(text: str) -> float:
    return float(text) if text.isdecimal() and len(text) < 6 else 0.0


def _reason(error: BaseException) -> str:
    if isinstance(error, aiohttp.ClientConnectorDNSError):
        return "its name is not known"
    if isinstance(error, aiohttp.ClientConnectorError):
        return error.os_error.strerror or str(error.os_error) or "no connection"
    return str(error) or type(error).__name__
