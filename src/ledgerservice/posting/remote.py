"""A queue of another process: an acceptor hands its requests over and gets the answers.

When the connection is lost, what has no answer is handed over once more: its keys let it move money
once. What is lost a second time, or is not answered at its deadline, is Unavailable.
"""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import NamedTuple

from ledgerservice.domain.instructions import Group
from ledgerservice.domain.transactions import Outcomes
from ledgerservice.errors import InternalFault, LedgerMoving, Overloaded, Unavailable
from ledgerservice.posting.frames import (
    FAULTS,
    MOVEMENTS,
    AnsweredGroup,
    FrameProtocol,
    HandedGroup,
    decode_answered,
    handed,
)
from ledgerservice.posting.poster import Deadlines, Limits
from ledgerservice.telemetry.exchanges import CURRENT

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.02, 1.0
MOST_TRIES = 2


class _Waiting:
    __slots__ = ("answer", "began_s", "commit_s", "entered_s", "request", "span", "tries", "weight")

    def __init__(self, request: Group, answer: asyncio.Future[Outcomes], weight: int) -> None:
        self.request = request
        self.answer = answer
        self.weight = weight
        self.tries = 0
        self.entered_s = perf_counter()
        self.began_s: float | None = None
        self.commit_s = 0.0

    def times(self) -> dict[str, float]:
        """The milliseconds in both queues and in the COMMIT."""
        if self.began_s is None:
            return {}
        queued_s = self.began_s - self.entered_s
        return {"queue_ms": round(queued_s * 1000, 1), "commit_ms": round(self.commit_s * 1000, 1)}


class PosterAddress(NamedTuple):
    """Where a process listens that posts for others, and the release that both have."""

    path: Path
    release: str


class RemotePoster:
    """The queue of movements of another process.

    It has the methods of a Poster that requests use, and bounds what it hands over like one: so
    the other process need not refuse anything.
    """

    def __init__(
        self,
        address: PosterAddress,
        limits: Limits,
        weigh: Callable[[Group], int],
        queue: str = MOVEMENTS,
    ) -> None:
        """`limits` are those of this process; together they are those of the queue. The name of the
        queue says which shard it is of.
        """
        self.name = queue
        self.address = address
        self._limits, self._weigh = limits, weigh
        self._loop = asyncio.get_running_loop()
        self._deadlines = Deadlines(self._loop, limits.deadline_s, None)
        self._closing = False
        self._waiting: dict[int, _Waiting] = {}  # by number, in order of arrival
        self._weight = self._number = 0
        self._outbox: list[tuple[int, _Waiting]] = []
        self._link: _Link | None = None
        self._answered = asyncio.Event()
        self._connecting = asyncio.create_task(self._keep_connected())

    @property
    def is_connected(self) -> bool:
        """Whether the other process takes requests."""
        return self._link is not None

    async def post(self, request: Group) -> Outcomes:
        """As Poster.post."""
        return await self.enter(request)

    def enter(self, request: Group) -> asyncio.Future[Outcomes]:
        """As Poster.enter."""
        self.check_room()
        answer: asyncio.Future[Outcomes] = self._loop.create_future()
        waiting = _Waiting(request, answer, self._weigh(request))
        self._number += 1
        self._waiting[self._number] = waiting
        self._weight += waiting.weight
        if self._link is not None:
            self._put(self._number, waiting)
        self._deadlines.add(answer)
        if (exchange := CURRENT.get()) is not None:
            exchange.place = waiting
        return answer

    def check_room(self) -> None:
        """Raise Overloaded if a request would be refused now."""
        if self._closing or self._weight >= self._limits.queue_requests:
            raise Overloaded

    def waiting_requests(self) -> int:
        """The requests without an answer, in movements."""
        return self._weight

    async def close(self) -> None:
        """Wait for the answers, at most until the deadlines."""
        self._closing = True
        with suppress(TimeoutError):
            async with asyncio.timeout(self._limits.deadline_s):
                while any(not one.answer.done() for one in self._waiting.values()):
                    self._answered.clear()
                    await self._answered.wait()
        self._connecting.cancel()
        await asyncio.gather(self._connecting, return_exceptions=True)

    def _put(self, number: int, waiting: _Waiting) -> None:
        if not self._outbox:
            self._loop.call_soon(self._flush)
        self._outbox.append((number, waiting))

    def _flush(self) -> None:
        outbox, self._outbox = self._outbox, []
        if self._link is None:  # lost meanwhile: all of them are handed over again
            return
        for _, waiting in outbox:
            waiting.tries += 1
        requests = [HandedGroup(number, waiting.request) for number, waiting in outbox]
        self._link.transport.write(handed(self.name, requests))

    def _take(self, frame: bytes) -> None:
        """Resolve what a batch answered."""
        answered = decode_answered(frame)
        for one in answered.requests:
            waiting = self._forget(one.number)
            if waiting is None:
                continue
            waiting.began_s, waiting.commit_s = answered.began_s, answered.commit_s
            if not waiting.answer.done():
                _resolve(waiting, one)
        self._answered.set()

    def _forget(self, number: int) -> _Waiting | None:
        waiting = self._waiting.pop(number, None)
        if waiting is not None:
            self._weight -= waiting.weight
        return waiting

    async def _keep_connected(self) -> None:
        """Connect until cancelled, again whenever the connection is lost."""
        pause_s = FIRST_PAUSE_S
        while True:
            link = _Link(self.address.release, self._hand_all_over, self._take)
            with suppress(OSError):
                await self._loop.create_unix_connection(lambda: link, str(self.address.path))  # noqa: B023
                await link.lost
            if self._link is not None:
                pause_s = FIRST_PAUSE_S
                log.warning("the process that posts is gone; connecting again")
            self._link = None
            self._give_up()
            await asyncio.sleep(pause_s)
            pause_s = min(2 * pause_s, LONGEST_PAUSE_S)

    def _hand_all_over(self, link: "_Link") -> None:
        """Hand over what has no answer, in its order."""
        self._link = link
        for number, waiting in list(self._waiting.items()):
            if waiting.answer.done():
                self._forget(number)
            else:
                self._put(number, waiting)

    def _give_up(self) -> None:
        """Fail what has been lost too often."""
        for number, waiting in list(self._waiting.items()):
            if waiting.tries < MOST_TRIES:
                continue
            self._forget(number)
            if not waiting.answer.done():
                waiting.answer.set_exception(Unavailable())
        self._answered.set()


def _resolve(waiting: _Waiting, answered: AnsweredGroup) -> None:
    if answered.answer is not None:
        waiting.answer.set_result(answered.answer)
        return
    fault = FAULTS.get(answered.fault, InternalFault)
    if fault is LedgerMoving and waiting.tries > 1:  # the first try may have moved money
        fault = Unavailable
    waiting.answer.set_exception(fault())


class _Link(FrameProtocol):
    """A connection to the process that posts."""

    def __init__(
        self,
        release: str,
        ready: "Callable[[_Link], None]",
        take: Callable[[bytes], None],
    ) -> None:
        super().__init__(release)
        self._ready = ready
        self.frame_received = take  # type: ignore[method-assign, assignment]
        self.lost = asyncio.get_running_loop().create_future()

    def greeted(self) -> None:
        self._ready(self)

    def refused(self, release: str) -> None:
        log.error("the process that posts has release %s: restart the whole service", release)

    def connection_lost(self, _: Exception | None) -> None:
        if not self.lost.done():
            self.lost.set_result(None)
