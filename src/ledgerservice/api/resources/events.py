"""The change feed over HTTP: pages, long polls, and server-sent events."""

import asyncio
import re
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from time import monotonic
from typing import Annotated

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec import Meta, Raw
from pydantic import BeforeValidator, Field, field_validator

from ledgerservice.access.grants import Need, denial
from ledgerservice.access.scopes import Scope
from ledgerservice.api.http.authentication import caller_now, caller_of, denied
from ledgerservice.api.http.call import (
    PART,
    home_of,
    json_response,
    ledger_of,
    runtime_of,
    shards_of,
)
from ledgerservice.api.http.fields import JsonObject
from ledgerservice.api.http.openapi import get
from ledgerservice.api.http.parameters import Parameters, integer, parameters_of
from ledgerservice.api.http.problems import ProblemError, invalid
from ledgerservice.api.http.streams import PiecewiseResponse
from ledgerservice.api.movements.showing import shown_event
from ledgerservice.domain.events import TYPES, Event, position
from ledgerservice.domain.instructions import BIGGEST_ID
from ledgerservice.domain.ledgers import MAX_PARTS
from ledgerservice.feed.reading import Position, PositionLost
from ledgerservice.feed.together import Feeds, Passed, Source
from ledgerservice.postgres.schema import DEFAULT_LEDGER

NEED = Need(Scope.EVENTS_READ, by_accounts=True)

router = APIRouter(tags=["events"])

STREAM = "text/event-stream"
MAX_EVENTS = 1_000
MAX_WAIT_S = 60
STEP_S = 1.0  # of a wait, after which the service may want to stop
MAX_SKIPPED_CHUNKS = 10  # of events that a filter leaves out, before a request waits for more
PAUSE_S = 0.2
SILENT_STEPS = 15  # of a stream, after which it sends its position
NEW = "new"
POSITION_PATTERN = "[1-9][0-9]{0,8}-[0-9]{1,18}"

POSITIONS_PATTERN = f"{POSITION_PATTERN}(,{POSITION_PATTERN}){{0,{MAX_PARTS - 1}}}"

_are_positions = re.compile(POSITIONS_PATTERN, re.ASCII).fullmatch

LIST_EVENTS = "`next` of the answer before, or `new`: only what comes from now on."


class EventFilters(Parameters):
    """Which events are answered, after which, and how long an answer waits for some."""

    after: Annotated[
        str | None,
        Field(pattern=f"^({POSITIONS_PATTERN}|{NEW})$", description=LIST_EVENTS),
    ] = None
    limit: Annotated[
        int,
        Field(ge=1, le=MAX_EVENTS, description="Events in an answer."),
        BeforeValidator(integer),
    ] = 100
    wait_s: Annotated[
        int,
        Field(ge=0, le=MAX_WAIT_S, description="How long to wait for an event, in seconds."),
        BeforeValidator(integer),
    ] = 0
    account_id: Annotated[
        int | None,
        Field(ge=1, le=BIGGEST_ID, description="Only events that name this account."),
        BeforeValidator(integer),
    ] = None
    type: Annotated[
        str | None,
        Field(max_length=400, description="Only these types, separated by commas."),
    ] = None
    part: Annotated[
        int | None,
        Field(ge=0, lt=MAX_PARTS, description="The part of a ledger with parts: each has a feed."),
        BeforeValidator(integer),
    ] = None

    @field_validator("type")
    @classmethod
    def _is_known(cls, text: str | None) -> str | None:
        strangers = () if text is None else set(text.split(",")) - set(TYPES)
        if strangers:
            raise ValueError(f"must be of {', '.join(TYPES)}")
        return text

    @property
    def leaves_out(self) -> bool:
        """Whether some events may not be answered."""
        return self.account_id is not None or self.type is not None

    def take(self, event: Event) -> bool:
        """Whether an event is answered."""
        if self.account_id is not None and self.account_id not in event.accounts:
            return False
        return self.type is None or event.type in self.type.split(",")


EventType = Annotated[
    str, Meta(extra_json_schema={"x-name": "EventType", "enum": [*TYPES]}, examples=[TYPES[0]])
]


class EventAnswer(msgspec.Struct):
    """Something that was recorded. Its bytes are the same whenever it is read."""

    id: Annotated[
        str, Meta(description="Its position in its feed, for `after`.", examples=["1-1301"])
    ]
    type: EventType
    version: Annotated[int, Meta(description="The form of `data`.")]
    ledger: str | None
    recorded_at: Annotated[str, Meta(extra_json_schema={"format": "date-time"})] | None
    data: JsonObject


class Events(msgspec.Struct):
    """Events in order, oldest first."""

    events: list[EventAnswer]
    next: Annotated[str, Meta(description="`after` of the next request, also if there are none.")]


class _Page(msgspec.Struct):
    events: list[Raw]
    next: str


@get(
    router,
    "/events",
    Events,
    EventFilters,
    refusals=(404, 410, 422, 503),
    media_types=(STREAM,),
    need=NEED,
)
async def list_events(request: Request) -> Response:
    """What was recorded, in an order that never changes, and without a gap.

    Begin without `after`, and send the `next` of each answer as `after` of the next request: each
    event comes once. With `wait_s` the answer waits for an event. With `Accept: text/event-stream`
    the answer never ends: it sends each event as it is recorded, and a client that connects again
    with Last-Event-ID misses none.

    Events are ordered by their ids, and so are the versions of each account. After a restore, or
    the loss of the last commits, a position of before is refused with `position_lost`.

    Each part of a ledger with parts has a feed and an order of its own. Without `part` or
    `account_id` the events of all parts are answered together, those of each part in its order, and
    `next` has a position of each, by number. A transfer to another part has its events in both.

    A key that is limited to accounts has to name one of these in `account_id`. It gets the events
    that are of such an account or have an entry on one, without the balances of other accounts.
    """
    reading = _Reading(request)
    if STREAM in request.headers.get("accept", ""):
        await reading.begin()
        headers = {"cache-control": "no-store", "x-accel-buffering": "no"}
        meter = caller_of(request.scope).meter
        pieces = reading.stream()
        return PiecewiseResponse(pieces, STREAM, headers, ends=False, meter=meter)
    return json_response(await reading.page())


class _Reading:
    """One request for events."""

    def __init__(self, request: Request) -> None:
        self._state = request.app.state
        self._request = request
        self._ledgers = _ledgers_of(request)
        self._homes = shards_of(request).places(self._ledgers)
        self._filters = parameters_of(request, EventFilters)
        if self._filters.part is not None and PART not in request.scope:
            raise ProblemError("part_unknown")
        self._after = _last_event_id(request) or self._filters.after
        self._feeds = Feeds(())
        self._seen: frozenset[int] | None = None

    async def begin(self) -> None:
        """Find the positions of the request. Raises ProblemError."""
        self._check()
        shards = shards_of(self._request)
        sources = [Source((await shards.runtime_of(one)).feed, one) for one in self._ledgers]
        self._feeds = Feeds(sources)
        if self._after is None:
            await self._feeds.begin()
        elif self._after == NEW:
            await self._feeds.end()
        else:
            self._feeds.positions = _positions_of(self._after, len(sources))
        with self._losses():
            await self._feeds.check()

    async def page(self) -> _Page:
        """A page of events, as soon as there is one."""
        await self.begin()
        taken = await self._first(monotonic() + self._filters.wait_s)
        self._check()
        self._feeds.close()
        bodies = [Raw(self._shown(event)) for event, _ in taken if self._is_seen(event)]
        return _Page(bodies, _text_of(self._feeds.positions))

    async def _first(self, end_s: float) -> list[Passed]:
        """The first events that are shown; none if none has come by `end_s` of the clock.

        What a filter leaves out neither ends the wait nor makes it longer.
        """
        skipped_chunks = 0
        while True:
            before, left_s = self._feeds.positions, max(0.0, end_s - monotonic())
            taken = await self._next(min(STEP_S, left_s), self._filters.limit)
            if taken or self._state.is_draining:
                return taken
            if self._feeds.positions != before:
                skipped_chunks += 1
                if skipped_chunks < MAX_SKIPPED_CHUNKS:
                    continue
            left_s = end_s - monotonic()
            if left_s <= 0:
                return taken
            if self._feeds.positions != before:  # on a busy ledger, one after another
                await asyncio.sleep(min(PAUSE_S, left_s))

    async def stream(self) -> AsyncIterator[str]:
        """Server-sent events, until the service stops or the caller's key ends."""
        try:
            async for piece in self._pieces():
                yield piece
        finally:
            self._feeds.close()

    async def _pieces(self) -> AsyncIterator[str]:
        silent = 0
        yield ": the feed\n\n"
        while not self._state.is_draining:
            taken = await self._next(STEP_S, MAX_EVENTS)
            if self._denial() is not None or not self._is_here():
                return
            silent = 0 if taken else silent + 1
            if silent == SILENT_STEPS:
                silent = 0
                yield f"id: {_text_of(self._feeds.positions)}\n\n"
            else:
                yield "".join(self._sent(one) for one in taken if self._is_seen(one.event))

    def _check(self) -> None:
        """Raise ProblemError if the caller may not read."""
        code = self._denial()
        if code == "account_not_found":
            raise ProblemError(code)
        if code is not None:
            raise denied(code, NEED.scopes)

    def _is_here(self) -> bool:
        """Whether the ledger, or each part of it, is still on the shard whose feed is read."""
        shards = shards_of(self._request)
        is_default = self._ledgers == (DEFAULT_LEDGER,)
        return is_default or shards.are_at(self._ledgers, self._homes)

    def _denial(self) -> str | None:
        """Why the caller may not read; keys and grants end while events are waited for."""
        caller = caller_now(self._request)
        ledger = ledger_of(self._request)
        code = denial(caller, ledger, NEED)
        self._seen = None if code else caller.sees(ledger, NEED.scopes)
        if code is not None or self._seen is None:
            return code
        if self._filters.account_id is None:
            return "limited_to_accounts"
        return None if self._filters.account_id in self._seen else "account_not_found"

    def _is_seen(self, event: Event) -> bool:
        """Whether an event is of an account that the caller sees, or has an entry on one. One that
        only names it, as the payee of somebody's hold, is not.
        """
        if self._seen is None:
            return True
        own = {*event.accounts[:1], *(line.account_id for line in event.lines)}
        return not self._seen.isdisjoint(own)

    def _shown(self, event: Event) -> bytes:
        return event.body if self._seen is None else shown_event(event.body, self._seen)

    def _sent(self, passed: Passed) -> str:
        event, number = passed.event, _text_of(passed.positions)
        return f"id: {number}\nevent: {event.type}\ndata: {self._shown(event).decode()}\n\n"

    async def _next(self, wait_s: float, limit: int) -> list[Passed]:
        """The events of the next chunk that the filters take; the positions pass all of it."""
        rows = MAX_EVENTS if self._filters.leaves_out else limit
        with self._losses():
            # What is not seen ends no wait, which would show that it happened.
            return await self._feeds.next(rows, limit, wait_s, self._is_taken)

    def _is_taken(self, event: Event) -> bool:
        return self._filters.take(event) and self._is_seen(event)

    @contextmanager
    def _losses(self) -> Iterator[None]:
        """Refuses a position of which something may be lost."""
        try:
            yield
        except PositionLost as lost:
            compare_from = _text_of(self._feeds.with_lost(lost))
            raise ProblemError("position_lost", compare_from=compare_from) from None


def _ledgers_of(request: Request) -> tuple[int, ...]:
    """The ledger that the request names, the part of it, or all parts."""
    parts = runtime_of(request).crossings.parts.get(ledger_of(request))
    if parts is None or PART in request.scope:
        return (home_of(request),)
    return parts.ids


def _last_event_id(request: Request) -> str | None:
    """What a client that connects again sends instead of `after`."""
    text = request.headers.get("last-event-id")
    if text and not _are_positions(text):
        raise invalid("Last-Event-ID", "must be the id of an event")
    return text


def _positions_of(text: str, number: int) -> tuple[Position, ...]:
    """The positions that a text has. Raises ProblemError unless there are so many."""
    positions = tuple(Position(*map(int, one.split("-"))) for one in text.split(","))
    if len(positions) != number:
        raise invalid("after", f"must have {number} positions, one of each part")
    return positions


def _text_of(positions: Sequence[Position]) -> str:
    return ",".join(position(*one) for one in positions)
