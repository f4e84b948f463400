"""The connections of a process: how many may be open, and how long one may wait.

A connection waits, from its start or from the end of an answer, until the head of a request is
complete. If there are too many, the one that has waited longest makes room for a new one. If all of
them have a request, a few further ones are taken, on which only /health is answered.
"""

import asyncio
import resource
from time import monotonic
from typing import Any

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ledgerservice.posting.bounds import Refusals
from ledgerservice.settings import Settings
from ledgerservice.telemetry.metrics import CONNECTIONS, CONNECTIONS_REFUSED

FURTHER = 16
"""Connections beyond the limit, for /health."""
FURTHER_S = 1.0
"""Seconds in which the head of a request must be complete on one of those."""
KEPT_DESCRIPTORS = 64
"""Files, listeners, event loops, and connections to PostgreSQL other than those for reads."""
MOST_DESCRIPTORS = 65_536
NEW_S = 1.0
"""A connection that has waited for less does not make room."""
SWEEP_S = 0.5


def raise_descriptor_limit() -> None:
    """Raise the soft limit of open files to the hard one, or to MOST_DESCRIPTORS."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    allowed = MOST_DESCRIPTORS if hard == resource.RLIM_INFINITY else min(hard, MOST_DESCRIPTORS)
    if soft != resource.RLIM_INFINITY and soft < allowed:
        resource.setrlimit(resource.RLIMIT_NOFILE, (allowed, hard))


def most_connections(settings: Settings) -> int:
    """LEDGER_MAX_CONNECTIONS, or fewer if that many files may not be open."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft == resource.RLIM_INFINITY:
        return settings.max_connections
    others = KEPT_DESCRIPTORS + FURTHER + settings.read_connections
    return max(1, min(settings.max_connections, soft - others))


class Connections:
    """The open connections of a process.

    `refusal` is what is sent on a connection that is refused, whatever is requested.
    """

    def __init__(self, settings: Settings, refusal: bytes) -> None:
        self._limit = most_connections(settings)
        self._head_s = settings.head_timeout_s
        self._keep_alive_s = settings.keep_alive_s
        self._blocked_s = settings.stream_idle_s
        self._refusal = refusal
        # Since when each connection waits, and until when it may. The first waits longest.
        self._waiting: dict[HttpToolsProtocol, tuple[float, float]] = {}
        # The same of the connections beyond the limit.
        self._further: dict[HttpToolsProtocol, tuple[float, float]] = {}
        # Since when each client does not take its answer.
        self._blocked: dict[HttpToolsProtocol, float] = {}
        self._sweep: asyncio.TimerHandle | None = None
        self._open: set[HttpToolsProtocol] = set()  # uvicorn's
        self._show()
        self._refusals = Refusals(
            f"%s connections were refused or closed for others, because {self._limit} are open"
            " (LEDGER_MAX_CONNECTIONS, ulimit -n)"
        )

    def __setstate__(self, state: dict[str, Any]) -> None:
        """A worker gets a copy of what its parent made, and the metrics of the worker show that."""
        self.__dict__.update(state)
        self._show()

    def _show(self) -> None:
        CONNECTIONS.reads["idle",] = lambda: len(self._waiting)
        CONNECTIONS.reads["busy",] = lambda: max(0, len(self._open) - len(self._waiting))
        CONNECTIONS.reads["blocked",] = lambda: len(self._blocked)

    def open(self, connection: HttpToolsProtocol) -> bool:
        """Take a new connection; False if it is one of the further ones."""
        now = monotonic()
        if self._sweep is None:
            self._sweep = connection.loop.call_later(SWEEP_S, self._end_late, connection.loop)
        self._open = connection.connections  # type: ignore[assignment]
        number = len(self._open)
        if number <= self._limit or self._make_room(now):
            self._waiting[connection] = now, now + self._head_s
            return True
        self._further[connection] = now, now + FURTHER_S
        if number > self._limit + FURTHER:
            self.refuse()
            first = next(iter(self._further))
            first.transport.write(self._refusal)
            self._end(first)
        return False

    def wait(self, connection: HttpToolsProtocol) -> None:
        """An answer is complete, and the next request may come."""
        now = monotonic()
        if connection.transport.is_closing():
            self._blocked.setdefault(connection, now)
        else:
            self._waiting[connection] = now, now + self._keep_alive_s

    def begin(self, connection: HttpToolsProtocol) -> None:
        """Bytes have come, but no head is complete."""
        if connection in self._waiting:
            since, until = self._waiting[connection]
            self._waiting[connection] = since, min(until, monotonic() + self._head_s)

    def answer(self, connection: HttpToolsProtocol) -> None:
        """The head of a request is complete."""
        if self._waiting.pop(connection, None) is None:
            self._further.pop(connection, None)

    def block(self, connection: HttpToolsProtocol) -> None:
        """The client does not take its answer."""
        self._blocked.setdefault(connection, monotonic())

    def unblock(self, connection: HttpToolsProtocol) -> None:
        """The client takes its answer."""
        self._blocked.pop(connection, None)

    def close(self, connection: HttpToolsProtocol) -> None:
        """The connection has ended."""
        self.answer(connection)
        self.unblock(connection)

    def refuse(self) -> None:
        """Count a refusal, for the log."""
        CONNECTIONS_REFUSED.add()
        self._refusals.count()

    def _make_room(self, now: float) -> bool:
        """End the connection that has waited longest; False if all are new or have a request."""
        oldest = next(iter(self._waiting), None)
        if oldest is None or now - self._waiting[oldest][0] < NEW_S:
            return False
        self.refuse()
        self._end(oldest)
        return True

    def _end(self, connection: HttpToolsProtocol) -> None:
        """Close a connection; what was answered is still sent, if the client takes it."""
        self.answer(connection)
        connection.connections.discard(connection)
        connection.transport.close()
        self.block(connection)

    def _end_late(self, loop: asyncio.AbstractEventLoop) -> None:
        now = monotonic()
        for waiting in (self._waiting, self._further):
            for connection in [c for c, (_, until) in waiting.items() if until <= now]:
                self._end(connection)
        end = now - self._blocked_s
        for connection in [c for c, since in self._blocked.items() if since <= end]:
            connection.transport.abort()
        self._sweep = loop.call_later(SWEEP_S, self._end_late, loop)
