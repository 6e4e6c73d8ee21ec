"""Where callbacks may go: checked by the address that is connected to, so that a name which changes its address opens nothing."""

from __future__ import annotations

import asyncio
import socket
from concurrent.futures import ThreadPoolExecutor
from fnmatch import fnmatchcase
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network, ip_address, ip_network
from urllib.parse import urlsplit

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult

Address = IPv4Address | IPv6Address


class HostRefused(Exception):
    """The operator did not allow this host; says what to set."""


class AllowedHosts:
    """`allowed`: names, `*.example.org`, networks; anything where there are none. Link-local addresses, where clouds keep their machines'
    credentials, never."""

    def __init__(self, allowed: tuple[str, ...]) -> None:
        self._networks = [network for text in allowed if (network := network_of(text)) is not None]
        self._names = [text.lower() for text in allowed if network_of(text) is None]

    def check(self, url: str) -> None:
        """Refuse what can be refused by the URL alone. Raises HostRefused; ValueError for what is no URL."""
        host = urlsplit(url).hostname or ""
        if (address := _address(host)) is not None and not self._allows(host, address):
            raise HostRefused(self._why(host))
        if address is None and not self._networks and self._names and not self._is_named(host):
            raise HostRefused(self._why(host))

    def pick(self, host: str, found: list[ResolveResult]) -> list[ResolveResult]:
        """The addresses of a name that may be connected to. Raises HostRefused where there is none."""
        picked = [one for one in found if (address := _address(one["host"])) is not None and self._allows(host, address)]
        if found and not picked:
            raise HostRefused(self._why(host))
        return picked

    def _allows(self, host: str, address: Address) -> bool:
        mapped = getattr(address, "ipv4_mapped", None)
        address = mapped if mapped is not None else address
        if address.is_link_local:
            return False
        if not self._names and not self._networks:
            return True
        return self._is_named(host) or any(address in network for network in self._networks if network.version == address.version)

    def _is_named(self, host: str) -> bool:
        return any(fnmatchcase(host.lower(), name) for name in self._names)

    def _why(self, host: str) -> str:
        listed = ", ".join([*self._names, *map(str, self._networks)])
        return f"{host} is not among CALLBACK_ALLOWED_HOSTS ({listed})" if listed else f"{host} is a link-local address, which is never called"


class GuardedResolver(AbstractResolver):
    """Looks names up in threads of its own: a name server that hangs holds up nothing else."""

    def __init__(self, hosts: AllowedHosts) -> None:
        self._hosts = hosts
        self._threads = ThreadPoolExecutor(4, "callback-names")

    async def resolve(self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_UNSPEC) -> list[ResolveResult]:
        looked_up = await asyncio.get_running_loop().run_in_executor(
            self._threads, lambda: socket.getaddrinfo(host, port, family=family, type=socket.SOCK_STREAM)
        )
        found = [
            ResolveResult(
                hostname=host, host=str(place[0]), port=port, family=found_family, proto=proto, flags=socket.AI_NUMERICHOST | socket.AI_NUMERICSERV
            )
            for found_family, _, proto, _, place in looked_up
        ]
        return self._hosts.pick(host, found)

    async def close(self) -> None:
        self._threads.shutdown(wait=False, cancel_futures=True)


ANYWHERE = AllowedHosts(())


def new_session(hosts: AllowedHosts, timeout: aiohttp.ClientTimeout | None = None) -> aiohttp.ClientSession:
    """A session that connects to these hosts only, and keeps no cookies. Who uses it follows no redirects: they could lead anywhere."""
    connector = aiohttp.TCPConnector(limit=0, resolver=GuardedResolver(hosts), keepalive_timeout=15)
    limits = timeout or aiohttp.ClientTimeout()
    return aiohttp.ClientSession(connector=connector, timeout=limits, trust_env=False, cookie_jar=aiohttp.DummyCookieJar())


def network_of(text: str) -> IPv4Network | IPv6Network | None:
    try:
        return ip_network(text, strict=False)
    except ValueError:
        return None


def _address(text: str) -> Address | None:
    try:
        return ip_address(text.partition("%")[0])
    except ValueError:
        return None
