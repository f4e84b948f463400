"""The side of the process that posts: it takes requests from acceptors into its queues."""

import asyncio
import logging
import socket
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

from ledgerservice.domain.instructions import Group
from ledgerservice.domain.transactions import Outcomes
from ledgerservice.errors import LedgerError, Overloaded, Unavailable
from ledgerservice.posting.frames import (
    Answered,
    AnsweredGroup,
    FrameProtocol,
    HandedGroup,
    decode_groups,
    decode_handed,
    framed,
)
from ledgerservice.posting.poster import Poster, Waiting
from ledgerservice.telemetry.batches import COMMIT, BatchClock

log = logging.getLogger(__name__)

Find = Callable[[str], Poster[Group, Outcomes]]


@asynccontextmanager
async def listening(
    listener: socket.socket, find: Find, release: str
) -> AsyncIterator[set[asyncio.BaseProtocol]]:
    """Meanwhile acceptors are served; yields their connections.

    `find` returns the poster of a name, or raises LedgerError while it is away.
    """
    acceptors: set[asyncio.BaseProtocol] = set()
    loop = asyncio.get_running_loop()
    server = await loop.create_unix_server(
        partial(_Acceptor, find, release, acceptors), sock=listener
    )
    try:
        yield acceptors
    finally:
        server.close()
        for acceptor in list(acceptors):
            acceptor.transport.close()  # type: ignore[attr-defined]


class _Acceptor(FrameProtocol):
    """The connection of an acceptor."""

    def __init__(self, find: Find, release: str, acceptors: set[asyncio.BaseProtocol]) -> None:
        super().__init__(release)
        self._find = find
        self._acceptors = acceptors
        self._loop = asyncio.get_running_loop()
        self._outbox: dict[BatchClock | None, list[AnsweredGroup]] = {}

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        self._acceptors.add(self)
        super().connection_made(transport)

    def connection_lost(self, _: Exception | None) -> None:
        self._acceptors.discard(self)

    def refused(self, release: str) -> None:
        log.error("an acceptor has release %s: restart the whole service", release)

    def frame_received(self, frame: bytes) -> None:
        """Queue the requests of a frame."""
        handed = decode_handed(frame)
        groups = decode_groups(handed.requests)
        try:
            poster = self._find(handed.queue)
        except LedgerError as error:  # its shard is away
            for one in groups:
                self._put(None, AnsweredGroup(one.number, None, type(error).__name__))
            return
        for one in groups:
            self._enter(poster, one)

    def _enter(self, poster: Poster[Group, Outcomes], one: HandedGroup) -> None:
        try:
            waiting = poster.place(one.request)
        except Overloaded:  # it stops, and may have done the request in an earlier life
            self._put(None, AnsweredGroup(one.number, None, Unavailable.__name__))
            return
        waiting.answer.add_done_callback(partial(self._done, one.number, waiting))

    def _done(self, number: int, waiting: Waiting[Any, Outcomes], _: Any) -> None:
        fault = waiting.answer.exception()
        if fault is None:
            answered = AnsweredGroup(number, waiting.answer.result())
        else:
            answered = AnsweredGroup(number, None, type(fault).__name__)
        self._put(waiting.clock, answered)

    def _put(self, clock: BatchClock | None, answered: AnsweredGroup) -> None:
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.setdefault(clock, []).append(answered)

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, {}
        for clock, requests in outbox.items():
            times = () if clock is None else (clock.began_s, clock.duration_s(COMMIT))
            self.transport.write(framed(Answered(requests, *times)))
