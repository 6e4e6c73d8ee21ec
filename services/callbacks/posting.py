"""One try to tell one receiver: the request, and what its answer means."""

from __future__ import annotations

import email.utils
import time
from collections.abc import Mapping

import aiohttp
from msgspec import Struct
from multidict import CIMultiDict
from yarl import URL

from mloc.services.callbacks.hosts import AllowedHosts, HostRefused
from mloc.services.callbacks.letters import Letter
from mloc.services.transfers.transfer_errors import shown_url

CONNECT_SEC = 10.0
LARGE_BYTES, LARGE_SEC = 8 << 20, 600.0  # from this size on a letter may take this long, where the task states no time
SHOWN_BYTES = 300  # of an answer that says no
_WORTH_REPEATING = frozenset({408, 421, 423, 425, 429})  # and all from 500 on


class Place(Struct, frozen=True):
    """Where to, with secrets as themselves."""

    url: str
    method: str
    headers: Mapping[str, str]
    timeout_sec: float  # 0: by the letter's size


class Tried(Struct, frozen=True):
    """`error` is empty where it was taken. `wish_ms` is how long the receiver wants to be left alone."""

    status: int = 0
    error: str = ""
    is_final: bool = False
    wish_ms: int = 0


async def post(session: aiohttp.ClientSession, hosts: AllowedHosts, to: Place, letter: Letter, timeout_sec: float) -> Tried:
    """Redirects are not followed: they would carry the headers, and the result, to where nobody asked for it. Raises OSError for a file."""
    size = letter.size_bytes()
    limit = to.timeout_sec or (max(timeout_sec, LARGE_SEC) if size > LARGE_BYTES else timeout_sec)
    try:
        hosts.check(to.url)
        async with session.request(
            to.method, to.url, data=letter.pieces() if letter.file else letter.start, headers=_headers(to, size),
            allow_redirects=False, timeout=aiohttp.ClientTimeout(total=limit, sock_connect=CONNECT_SEC),
        ) as answer:  # fmt: skip
            return await _meaning(to, answer)
    except HostRefused as error:
        return Tried(error=str(error), is_final=True)
    except TimeoutError:
        return Tried(error=f"{shown_url(to.url)} did not answer within {limit:g} s")
    except (aiohttp.InvalidURL, ValueError) as error:
        return Tried(error=f"{shown_url(to.url)} cannot be called: {error}", is_final=True)
    except aiohttp.ClientError as error:
        if isinstance(error.__cause__, HostRefused):
            return Tried(error=str(error.__cause__), is_final=True)
        return Tried(error=f"{shown_url(to.url)} cannot be reached: {error or type(error).__name__}")


def in_address(url: str) -> tuple[str, ...]:
    """User and password of an address as they go out, which a receiver may quote."""
    try:
        auth = aiohttp.helpers.strip_auth_from_url(URL(url))[1]
        return () if auth is None else (auth.encode().partition(" ")[2],)
    except ValueError:  # it cannot be called either
        return ()


def _headers(to: Place, size_bytes: int) -> CIMultiDict[str]:
    """What the task states goes over our own words, however it is written."""
    headers = CIMultiDict({"Content-Type": "application/json", "User-Agent": "mloc"})
    headers.update(to.headers)
    headers["Content-Length"] = str(size_bytes)
    return headers


async def _meaning(to: Place, answer: aiohttp.ClientResponse) -> Tried:
    status = answer.status
    if 200 <= status < 300:
        return Tried(status)
    said = f"{shown_url(to.url)} answered {status} {answer.reason or ''}".rstrip()
    if 300 <= status < 400:
        return Tried(status, f"{said}: redirects are not followed, state the final address", is_final=True)
    if words := await _words(answer):
        said += f": {words}"
    return Tried(status, said, is_final=status < 500 and status not in _WORTH_REPEATING, wish_ms=_wish_ms(answer.headers.get("Retry-After", "")))


async def _words(answer: aiohttp.ClientResponse) -> str:
    try:
        return " ".join((await answer.content.read(SHOWN_BYTES)).decode(errors="replace").split())
    except (aiohttp.ClientError, TimeoutError):
        return ""


def _wish_ms(text: str) -> int:
    """Retry-After: seconds, or a date; 0 for neither."""
    if text.strip().isdigit():
        return int(text) * 1000
    try:
        return max(0, int((email.utils.parsedate_to_datetime(text).timestamp() - time.time()) * 1000))
    except (ValueError, TypeError):
        return 0
