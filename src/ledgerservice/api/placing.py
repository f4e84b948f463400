"""The ledger that the path of a request names, the part of it, and the shard that has either."""

import re
from collections.abc import Awaitable, Sequence
from typing import Any

from starlette.datastructures import State
from starlette.types import Message, Receive, Scope, Send

from ledgerservice.access.grants import Caller
from ledgerservice.api.http.authentication import caller_of, denied
from ledgerservice.api.http.call import A_DRY_RUN, LEDGER, OUTSIDE, PART, RUNTIME
from ledgerservice.api.http.problems import ProblemError, problem, problem_of
from ledgerservice.api.sending import App, send_reply
from ledgerservice.domain.ledgers import MAX_PARTS, Parts
from ledgerservice.errors import Unavailable
from ledgerservice.postgres.queries.webhooks import find as find_webhook
from ledgerservice.runtime import Runtime
from ledgerservice.shards import Shards
from ledgerservice.telemetry.exchanges import CURRENT

_LEDGER_PATH = re.compile(r"/ledgers/([^/]+)(/[^/].*)")


def find_ledger(inner: App, state: State) -> App:
    """Answers `/ledgers/{name}/path` as `/path` on the named ledger."""

    def answer(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        path = scope["path"]
        if path.startswith("/ledgers/") and (parts := _LEDGER_PATH.fullmatch(path)):
            return answer_on_ledger(scope, receive, send, *parts.groups())
        return inner(scope, receive, send)

    async def answer_on_ledger(
        scope: Scope, receive: Receive, send: Send, name: str, path: str
    ) -> None:
        try:
            scope = await _on_ledger(state.shards, scope, name, path)
            if (exchange := CURRENT.get()) is not None:
                exchange.ledger, exchange.ledger_id = name, scope[LEDGER]
        except Exception as error:  # noqa: BLE001  (every request is answered)
            await send_reply(send, problem_of(error))
            return
        if state.shards.directory.homes.shards:
            send = _unless_moved(send, state.shards, scope)
        await inner(scope, receive, send)

    return answer


READING = frozenset({"GET", "HEAD"})
BATCHES = "/batches"
REFUSED = range(400, 500)
"""The statuses of instructions that may have recorded nothing: a database records at home only."""


def _unless_moved(send: Send, shards: Shards, scope: Scope) -> Send:
    """Refuses an answer that was read where the ledger may no longer be. An instruction can be
    sent again with the same key.
    """
    ledgers = _read_ledgers(shards, scope)
    places = shards.places(ledgers)
    # Items of a batch can be refused in an answer of 200, and a dry run records nothing.
    is_reading = (
        scope["method"] in READING
        or scope["query_string"] == A_DRY_RUN
        or scope["path"].rstrip("/").endswith(BATCHES)
    )
    is_refused = False

    async def send_checked(message: Message) -> None:
        nonlocal is_refused
        begins = message["type"] == "http.response.start"
        is_read = begins and (is_reading or message["status"] in REFUSED)
        if is_read and not shards.are_at(ledgers, places):
            is_refused = True
            await send_reply(send, problem("shard_unavailable"))
        elif not is_refused:
            await send(message)

    return send_checked


def _read_ledgers(shards: Shards, scope: Scope) -> Sequence[int]:
    """What the answer is read from: the ledger, or a part of it, or all of them."""
    if PART in scope:
        return (scope[PART],)
    parts = shards.main.crossings.parts.get(scope[LEDGER])
    return (scope[LEDGER],) if parts is None else parts.ids


async def _on_ledger(shards: Shards, scope: Scope, name: str, path: str) -> Scope:
    """The same request without the prefix of the path, on the ledger that the prefix names, and on
    its shard.
    """
    ledger = await _ledger_id(shards.main, caller_of(scope), name)
    if ledger is None:
        raise ProblemError("ledger_not_found")
    _, slash, inner = scope["raw_path"].partition(b"?")[0][len(b"/ledgers/") :].partition(b"/")
    if not slash:  # the slash was percent-encoded
        raise ProblemError("not_found")
    outside = scope.get("root_path", "") + f"/ledgers/{name}"
    runtime = await shards.runtime_of(ledger)
    place = {LEDGER: ledger, RUNTIME: runtime, OUTSIDE: outside}
    parts = await runtime.parts_of(ledger)
    if parts is not None:
        place |= await _part(shards, parts, scope, path)
    return {**scope, **place, "path": path, "raw_path": slash + inner}


_IN_PART = re.compile(
    r"/(accounts|transactions|holds|schedules|webhooks)/([1-9][0-9]{0,17})(?:/.*)?"
)
_PART = re.compile(rb"(?:^|&)part=([0-9]{1,2})(?:&|$)")
TRANSACTIONS, EVENTS = "/transactions", "/events"
_ACCOUNT = re.compile(rb"(?:^|&)account_id=([1-9][0-9]{0,17})(?:&|$)")


async def _part(shards: Shards, parts: Parts, scope: Scope, path: str) -> dict[str, Any]:
    """The part of what a path or a filter names, and its shard; other lists are of all parts."""
    place = await _part_named(shards, parts, scope, path)
    if PART in place:
        place[RUNTIME] = await shards.runtime_of(place[PART])
    return place


async def _part_named(shards: Shards, parts: Parts, scope: Scope, path: str) -> dict[str, Any]:
    if named := _IN_PART.fullmatch(path):
        return {PART: await _part_with(shards, parts, named.group(1), int(named.group(2)))}
    if scope["method"] != "GET":
        return {}
    path, query = path.rstrip("/"), scope["query_string"]
    if path in {TRANSACTIONS, EVENTS} and (filtered := _ACCOUNT.search(query)):
        return {PART: parts.home(int(filtered.group(1)))}
    if path == EVENTS:
        return _part_of_events(parts, query)
    return {}


async def _part_with(shards: Shards, parts: Parts, kind: str, number: int) -> int:
    if kind == "accounts":
        return parts.home(number)
    if kind == "webhooks":
        return await _part_of_webhook(shards, parts, number)
    return await shards.main.routes.home_of(parts, number)


async def _part_of_webhook(shards: Shards, parts: Parts, number: int) -> int:
    """The part that has an endpoint; the first, if there is no such endpoint. Raises Unavailable if
    it may be in a part that is away.
    """
    fault: Unavailable | None = None
    for part in parts.ids:
        try:
            reader = await shards.main.crossings.reader_of(part)
            if await find_webhook(reader, number) is not None:
                return part
        except Unavailable as error:
            fault = error
    if fault is not None:
        raise fault
    return parts.ids[0]


def _part_of_events(parts: Parts, query: bytes) -> dict[str, Any]:
    chosen = _PART.search(query)
    number = MAX_PARTS if chosen is None else int(chosen.group(1))
    return {PART: parts.ids[number]} if number < len(parts.ids) else {}


async def _ledger_id(runtime: Runtime, caller: Caller, name: str) -> int | None:
    """The id of a ledger, if it exists for this caller.

    A caller of single ledgers is answered from its grants, so that the time that it takes is the
    same for another's ledger and for one that does not exist.
    """
    if caller.refusal is not None:
        raise denied(caller.refusal, 0)
    if not caller.everywhere:
        return caller.ledgers.get(name)
    return await runtime.ledger_id(name)
