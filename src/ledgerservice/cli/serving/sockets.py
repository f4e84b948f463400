"""The sockets that the service listens on."""

import errno
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ledgerservice.errors import CannotListen
from ledgerservice.settings import Settings

BACKLOG = 2_048
IS_SPREAD = sys.platform == "linux"
"""Whether the kernel spreads the connections to an address over all sockets that listen there."""


@contextmanager
def bound(settings: Settings) -> Iterator[list[socket.socket]]:
    """A socket for each address of the host, which does not listen yet. Raises CannotListen."""
    sockets: list[socket.socket] = []
    try:
        sockets.extend(_bind(address, settings) for address in _addresses(settings))
        yield sockets
    finally:
        for listener in sockets:
            listener.close()


Address = tuple[int, Any]
"""A family and an address of it, as `socket` has them."""


def _addresses(settings: Settings) -> list[Address]:
    try:
        infos = socket.getaddrinfo(
            settings.host, settings.port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except OSError as error:
        raise _cannot_listen(error, settings) from error
    return list(dict.fromkeys((family, address) for family, _, _, _, address in infos))


def _bind(address: Address, settings: Settings) -> socket.socket:
    try:
        return _bound_to(*address)
    except OSError as error:
        raise _cannot_listen(error, settings) from error


def _bound_to(family: int, place: Any, *, is_shared: bool = False) -> socket.socket:
    listener = socket.socket(family)
    try:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if is_shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        listener.bind(place)
    except OSError:
        listener.close()
        raise
    return listener


def listen(sockets: list[socket.socket], settings: Settings) -> None:
    """Open the port. Another program that started meanwhile may have bound it too."""
    try:
        for listener in sockets:
            listener.listen(BACKLOG)
    except OSError as error:
        raise _cannot_listen(error, settings) from error


def _cannot_listen(error: OSError, settings: Settings) -> CannotListen:
    if error.errno == errno.EADDRINUSE:
        return CannotListen(
            f"Port {settings.port} on {settings.host} is in use. Stop the program that uses it, or "
            "choose another port with --port or LEDGER_PORT."
        )
    return CannotListen(
        f"Port {settings.port} on {settings.host}: {error.strerror}. Choose another address with "
        "--host or LEDGER_HOST, or another port with --port or LEDGER_PORT."
    )


class Spread:
    """A bound socket. A process that it is sent to listens at its address with a socket of its own.

    The kernel spreads the connections evenly over these sockets. Of processes with one socket, the
    first that wakes up takes nearly all connections that are opened together.
    """

    def __init__(self, bound: socket.socket) -> None:
        self._address = bound.family, bound.getsockname()
        bound.close()  # nobody else listens there: it was bound alone
        self._reserved = _bound_to(*self._address, is_shared=True)

    def __reduce__(self) -> tuple[Callable[..., socket.socket], Address]:
        return _listening_at, self._address


def _listening_at(family: int, place: Any) -> socket.socket:
    listener = _bound_to(family, place, is_shared=True)
    listener.listen(BACKLOG)
    return listener
