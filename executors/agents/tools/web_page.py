"""Fetching a page for an agent: only from hosts that are allowed, never from this machine's own network, bounded in size and time.

A name is resolved once and every address is looked at; the connection goes to the address that was looked at, so that a name which changes
its mind leads nowhere. Each redirect is a new request under the same rules.
"""

from __future__ import annotations

import fnmatch
import http.client
import ipaddress
import socket
import ssl
import time
from collections.abc import Mapping
from urllib.parse import SplitResult, urljoin, urlsplit

from msgspec import Struct

from mloc.executors.html_text import html_text

PORTS = {"http": 80, "https": 443}
REDIRECTS = (301, 302, 303, 307, 308)
CHUNK = 65536


class Refused(Exception):
    """The page may not be fetched; the message says why."""


class Rules(Struct, frozen=True, kw_only=True):
    """`hosts`: names, `*.name` or `name:port`; none: every public host on the usual ports. `private`: those hosts may be private."""

    hosts: tuple[str, ...] = ()
    private: bool = False
    timeout: float = 15.0
    max_bytes: int = 1 << 20
    redirects: int = 5
    headers: Mapping[str, str] = {}


class Page(Struct, frozen=True):
    """What came back, as text. `is_cut`: there was more."""

    url: str
    status: int
    kind: str
    text: str
    is_cut: bool = False


def fetch(url: str, rules: Rules) -> Page:
    """Raises Refused, and OSError or http.client.HTTPException where the host does not answer as it should."""
    deadline = time.monotonic() + rules.timeout
    first = _allowed(url, rules)
    for _ in range(rules.redirects + 1):
        place = _allowed(url, rules)
        is_first_host = (place.scheme, place.netloc) == (first.scheme, first.netloc)
        answer = _request(place, rules.headers if is_first_host else {}, rules, deadline)
        if isinstance(answer, Page):
            return answer
        try:
            url = urljoin(url, answer)
        except ValueError as error:
            raise Refused(f"it leads to {answer[:200]!r}, which is no address: {error}") from error
    raise Refused(f"more than {rules.redirects} redirects; the last leads to {url}")


def readable(page: Page) -> str:
    """The page's text, without the marks of HTML."""
    return html_text(page.text) if "html" in page.kind else page.text


def _allowed(url: str, rules: Rules) -> SplitResult:
    try:
        place = urlsplit(url)
        port = place.port or PORTS.get(place.scheme, 0)
    except ValueError as error:
        raise Refused(f"{url} is no address: {error}") from error
    if place.scheme not in PORTS or not place.hostname:
        raise Refused(f"{url[:200]} is not an http or https address")
    if place.username is not None or place.password is not None:
        raise Refused("an address with a user or a password in it is not fetched")
    if any(ord(character) <= 32 for character in url):
        raise Refused("an address has no blanks or control characters in it")
    host = place.hostname
    named = (host, f"{host}:{port}") if port in PORTS.values() else (f"{host}:{port}",)
    if rules.hosts and not any(fnmatch.fnmatchcase(one, pattern.lower()) for one in named for pattern in rules.hosts):
        raise Refused(f"{host}{'' if port in PORTS.values() else f':{port}'} is not among the allowed hosts: {', '.join(rules.hosts)}")
    if not rules.hosts and port not in PORTS.values():
        raise Refused(f"port {port} is not fetched from; only {' and '.join(map(str, PORTS.values()))} are")
    return place


def _request(place: SplitResult, headers: Mapping[str, str], rules: Rules, deadline: float) -> Page | str:
    """The page, or where it leads."""
    assert place.hostname is not None
    port = place.port or PORTS[place.scheme]
    connection = _connected(place.scheme, place.hostname, _address(place.hostname, port, rules), port, _left(deadline))
    try:
        path = (place.path or "/") + (f"?{place.query}" if place.query else "")
        connection.request("GET", path, headers={"User-Agent": "mloc-agent", "Accept": "text/*, application/json", **headers})
        answer = connection.getresponse()
        if answer.status in REDIRECTS and (location := answer.getheader("Location")):
            return location
        body = _body(connection, answer, rules, deadline)
        kind = answer.headers.get_content_type()
        text = body[: rules.max_bytes].decode(answer.headers.get_content_charset() or "utf-8", "replace")
        return Page(place.geturl(), answer.status, kind, text, len(body) > rules.max_bytes)
    except LookupError as error:
        raise Refused(f"the page is written in an unknown way: {error}") from error
    finally:
        connection.close()


def _address(host: str, port: int, rules: Rules) -> str:
    """One address of the host, when all of them may be connected to."""
    try:
        found = list(dict.fromkeys(str(one[4][0]) for one in socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)))
    except (OSError, UnicodeError) as error:
        raise Refused(f"the host {host} cannot be found: {error}") from error
    for address in found:
        if not _is_public(address) and not (rules.private and rules.hosts):
            raise Refused(f"{host} is at {address}, which is not a public address")
    return found[0]


def _is_public(address: str) -> bool:
    seen = ipaddress.ip_address(address.partition("%")[0])
    if isinstance(seen, ipaddress.IPv6Address):
        inner = seen.ipv4_mapped or seen.sixtofour or (seen.teredo[1] if seen.teredo else None)
        if inner is not None:
            return _is_public(str(inner))
        if seen in ipaddress.ip_network("64:ff9b::/96"):
            return _is_public(str(ipaddress.IPv4Address(int(seen) & 0xFFFFFFFF)))
    return seen.is_global and not seen.is_multicast


def _connected(scheme: str, host: str, address: str, port: int, timeout: float) -> http.client.HTTPConnection:
    """A connection to that very address, with the host's name in the request and in the certificate."""
    connected = socket.create_connection((address, port), timeout)
    try:
        if scheme == "https":
            connected = ssl.create_default_context().wrap_socket(connected, server_hostname=host)
    except BaseException:
        connected.close()
        raise
    connection = http.client.HTTPConnection(host, port, timeout=timeout)
    connection.sock = connected
    return connection


def _body(connection: http.client.HTTPConnection, answer: http.client.HTTPResponse, rules: Rules, deadline: float) -> bytes:
    body = bytearray()
    while len(body) <= rules.max_bytes:
        left = _left(deadline)
        if connection.sock is not None:
            connection.sock.settimeout(left)
        chunk = answer.read1(CHUNK)
        if not chunk:
            break
        body += chunk
    return bytes(body)


def _left(deadline: float) -> float:
    left = deadline - time.monotonic()
    if left <= 0:
        raise TimeoutError("the page took too long")
    return left
