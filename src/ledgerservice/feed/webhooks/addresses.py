"""Where a request may go: public addresses, unless the settings allow others.

Whoever registers an endpoint chooses a place that this service connects to, from inside its
network. So the addresses of a host are checked when it is registered, and again by the connection
itself, which goes to the checked address: a name may resolve to something else the second time.
"""

import asyncio
import ipaddress
import socket
import threading
from collections.abc import Awaitable, Callable
from contextlib import suppress
from contextvars import ContextVar
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Any

import httpx

from ledgerservice.errors import LedgerError
from ledgerservice.settings import Settings

MAX_URL_CHARACTERS = 2_048
RESOLVE_S = 5.0
RESOLVERS = 16
"""Threads of one ledger that look up names, which may hang. The names of others do not wait."""

PORTS = {"http": 80, "https": 443}

Resolve = Callable[[str, int], Awaitable[list[str]]]
"""The addresses of a host, as texts. Raises OSError."""


class UrlRefused(LedgerError):
    """The URL is not one that webhooks may be sent to."""


class HostUnknown(UrlRefused):
    """The URL is not one that webhooks can be sent to now."""


# What the registries of IANA list as special, and the versions of Python do not agree on; and the
# address at which Azure has its metadata.
_SPECIAL_4 = [
    IPv4Network(text)
    for text in ("192.0.0.0/24", "192.88.99.0/24", "168.63.129.16/32", "255.255.255.255/32")
]
# Of IPv6 only this block is in use for hosts.
_HOSTS_6 = IPv6Network("2000::/3")
# Teredo, benchmarks, ORCHID, documentation and 6to4, whose addresses lead to one of IPv4.
_SPECIAL_6 = [
    IPv6Network(text)
    for text in ("2001::/23", "2001:db8::/32", "2002::/16", "3fff::/20", "2620:4f:8000::/48")
]
_NAT64 = IPv6Network("64:ff9b::/96")


def is_public(text: str) -> bool:
    """Whether an address can be reached by everybody, and is not one of this network."""
    address = _plain(ipaddress.ip_address(text.partition("%")[0]))
    if not address.is_global or address.is_multicast or address.is_reserved:
        return False
    if isinstance(address, IPv4Address):
        return not any(address in network for network in _SPECIAL_4)
    return address in _HOSTS_6 and not any(address in network for network in _SPECIAL_6)


def is_loopback(text: str) -> bool:
    """Whether an address is of this machine."""
    return _plain(ipaddress.ip_address(text.partition("%")[0])).is_loopback


def _plain(address: IPv4Address | IPv6Address) -> IPv4Address | IPv6Address:
    """The address of IPv4 that one of IPv6 stands for: mapped, or through NAT64."""
    if isinstance(address, IPv6Address):
        if address.ipv4_mapped is not None:
            return address.ipv4_mapped
        if address in _NAT64:
            return IPv4Address(int(address) & 0xFFFF_FFFF)
    return address


LEDGER: ContextVar[int] = ContextVar("ledger", default=0)
"""For which ledger the running task looks up names."""


class Resolver:
    """Looks up names by the system's resolver, which also reads 0x7f.1 and 2130706433.

    It cannot be interrupted, so each look-up has a thread, which is left alone when nobody waits
    for it any more, also by the end of the process. A ledger has RESOLVERS of them.
    """

    def __init__(self) -> None:
        self._free: dict[int, asyncio.Semaphore] = {}

    async def __call__(self, host: str, port: int) -> list[str]:
        """The addresses of a host, as texts. Raises OSError or UnicodeError."""
        free = self._free.setdefault(LEDGER.get(), asyncio.Semaphore(RESOLVERS))
        await free.acquire()
        infos: asyncio.Future[list[Any]] = asyncio.get_running_loop().create_future()
        arguments = infos, free, host, port
        try:
            threading.Thread(target=_look_up, args=arguments, name="resolve", daemon=True).start()
        except RuntimeError as error:
            free.release()
            raise OSError("no thread can be started") from error
        return list(dict.fromkeys(str(place[0]) for *_, place in await infos))


def _look_up(
    infos: asyncio.Future[list[Any]], free: asyncio.Semaphore, host: str, port: int
) -> None:
    outcome: list[Any] | Exception
    try:
        outcome = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
    except Exception as error:  # noqa: BLE001  (whatever it is, it is raised where it is awaited)
        outcome = error

    def answer() -> None:
        free.release()
        if not infos.done():
            if isinstance(outcome, Exception):
                infos.set_exception(outcome)
            else:
                infos.set_result(outcome)

    with suppress(RuntimeError):  # the loop has ended
        infos.get_loop().call_soon_threadsafe(answer)


class Guard:
    """Decides where requests may go."""

    def __init__(self, settings: Settings, resolve: Resolve | None = None) -> None:
        self._private = settings.webhooks_private
        self._plaintext = settings.webhooks_plaintext
        self._resolve = resolve or Resolver()

    async def check(self, text: str) -> None:
        """Raises UrlRefused for a URL that nothing is sent to."""
        url = parsed(text)
        await self.addresses_of(url.scheme, url.host, url.port or PORTS[url.scheme])

    async def addresses_of(self, scheme: str, host: str, port: int) -> list[str]:
        """The addresses of a host, all of which may be connected to. Raises UrlRefused."""
        try:
            async with asyncio.timeout(RESOLVE_S):
                addresses = await self._resolve(host, port)
        except (OSError, UnicodeError):  # TimeoutError is an OSError
            addresses = []
        if not addresses:
            raise HostUnknown("Its host has no address.")
        if not self._private and not all(map(is_public, addresses)):
            raise UrlRefused("Its host has an address that is not public.")
        if scheme == "http" and not self._plaintext and not all(map(is_loopback, addresses)):
            raise UrlRefused("It must begin with https://.")
        return addresses


def parsed(text: str) -> httpx.URL:
    """A URL as requests are sent to it. Raises UrlRefused."""
    if not 1 <= len(text) <= MAX_URL_CHARACTERS or not all("!" <= c <= "~" for c in text):
        raise UrlRefused(f"It must be 1 to {MAX_URL_CHARACTERS} printable ASCII characters.")
    try:
        url = httpx.URL(text)
    except (httpx.InvalidURL, ValueError):
        raise UrlRefused("It is not a valid URL.") from None
    if url.scheme not in PORTS or not url.host:
        raise UrlRefused("It must begin with https:// and have a host.")
    if url.userinfo or "@" in text.partition("//")[2].partition("/")[0]:
        raise UrlRefused("It must not have a user or a password.")
    if url.fragment or "\\" in text:
        raise UrlRefused("It must not have a fragment or a backslash.")
    if url.port is not None and not 1 <= url.port <= 65_535:
        raise UrlRefused("Its port must be 1 to 65535.")
    return url
