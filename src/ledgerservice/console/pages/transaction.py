"""A transaction: its legs, its texts, the chain that it is part of, and the exact answer."""

import asyncio
from typing import Any

import msgspec
from starlette.responses import Response

from ledgerservice.console.calls import Answer
from ledgerservice.console.flows import MAX_SIDE, flow_of
from ledgerservice.console.pages.actions import permitted
from ledgerservice.console.visits import Visit

Row = dict[str, Any]

MAX_CHAIN = 60
"""The transactions of a chain that are shown."""
MAX_CLIMB = 3
"""A reversal is of a capture, and a capture is of a hold."""
PARENTS = ("hold_id", "reverses", "schedule_id")
TERMS = (
    "counterparty_id",
    "remaining",
    "expires_at",
    "capture_at",
    "execute_at",
    "floor",
    "ceiling",
    "frozen",
    "closed",
    "actor",
    "reason",
)
"""The members of a kind, in the order in which they are shown."""


REVERSIBLE = {"DEPOSIT", "WITHDRAWAL", "TRANSFER", "GENERAL", "CAPTURE"}


class Content(msgspec.Struct):
    """The metadata of a transaction, with the digits of its numbers as they were sent."""

    metadata: dict[str, msgspec.Raw] | None = None


class First(msgspec.Struct):
    """The answer to the request that made the transaction, byte by byte."""

    status: int
    body: msgspec.Raw


async def page(visit: Visit) -> Response:
    """The page of the transaction that the path names."""
    number = visit.parameters["transaction_id"]
    read = await visit.get(f"/transactions/{number}")
    row = read.body
    first, chain, owners = await asyncio.gather(
        visit.figure(f"/transactions/{number}/answer"), chain_of(visit, row), owners_of(visit, row)
    )
    state = await _state_of(visit, chain[0])
    return visit.page(
        "transaction.html",
        row=row,
        first=_first(first),
        chain=chain,
        state=state,
        actions=permitted(visit, actions_on(row, state)),
        owners=owners,
        metadata=metadata_of(read.content),
        flow=flow_of(row["entries"]),
        terms=[(name, row[name]) for name in TERMS if row.get(name) not in (None, False)],
    )


def actions_on(row: Row, state: Row | None) -> list[str]:
    """What can be done about a transaction, as far as its own record says."""
    if row["status"] != "posted":
        return []
    if row["transaction_type"] in REVERSIBLE:
        return ["reverse"]
    if state is None or state["id"] != row["transaction_id"]:
        return []
    return {"open": ["capture", "release"], "pending": ["cancel"]}.get(state["status"], [])


def metadata_of(content: bytes) -> list[tuple[str, str, str]]:
    """The name and the text of each member, and the filter of lists that finds its like."""
    members = msgspec.json.decode(content, type=Content).metadata or {}
    return [
        (name, _text(value), msgspec.json.encode({name: value}).decode())
        for name, value in members.items()
    ]


def _text(value: msgspec.Raw) -> str:
    plain = bytes(value).decode()
    return msgspec.json.decode(value, type=str) if plain.startswith('"') else plain


def _first(answer: Answer) -> tuple[int, str] | None:
    if not answer.is_good:
        return None
    first = msgspec.json.decode(answer.content, type=First)
    return first.status, bytes(first.body).decode()


def _parent(row: Row) -> int | None:
    """The transaction that one builds on. A hold and a schedule have their own id there."""
    number = next((row[name] for name in PARENTS if row.get(name)), None)
    return None if number == row["transaction_id"] else number


async def chain_of(visit: Visit, row: Row) -> list[Row]:
    """The transactions from the one that began it all to the last that builds on it, in order.

    What the reader's key may not see is left out.
    """
    known: dict[int, Row] = {row["transaction_id"]: row}
    root = row
    for _ in range(MAX_CLIMB):
        parent = _parent(root)
        found_rows = [] if parent is None else await _rows(visit, [parent])
        if not found_rows:
            break
        [root] = found_rows
        known[root["transaction_id"]] = root
    await _descend(visit, root, known)
    return [known[number] for number in sorted(known)]


async def _descend(visit: Visit, root: Row, known: dict[int, Row]) -> None:
    """Add what builds on a transaction, and what builds on that."""
    next_rows = [root]
    while next_rows and len(known) < MAX_CHAIN:
        children = {number for row in next_rows for number in _children(row)}
        next_rows = [known[number] for number in children & known.keys()]
        missing = sorted(children - known.keys())[: MAX_CHAIN - len(known)]
        for row in await _rows(visit, missing):
            known[row["transaction_id"]] = row
            next_rows.append(row)


def _children(row: Row) -> list[int]:
    return [*row.get("steps", ()), *row.get("reversed_by", ())]


async def _rows(visit: Visit, numbers: list[int]) -> list[Row]:
    answers = await asyncio.gather(
        *(visit.api.send("GET", f"/transactions/{number}") for number in numbers)
    )
    return [answer.body for answer in answers if answer.is_good]


async def owners_of(visit: Visit, row: Row) -> dict[int, str]:
    """The owners of the accounts that the drawing shows, as far as the reader may know them."""
    named = {entry["account_id"] for entry in row["entries"]} | {row["account_id"]}
    numbers = sorted(number for number in named if number > 0)[: 2 * MAX_SIDE]
    answers = await asyncio.gather(
        *(visit.api.send("GET", f"/accounts/{number}") for number in numbers)
    )
    pairs = zip(numbers, answers, strict=True)
    return {number: answer.body["owner"] for number, answer in pairs if answer.is_good}


async def _state_of(visit: Visit, root: Row) -> Row | None:
    """What became of the hold or the scheduled transfer that began the chain."""
    kinds = {"HOLD": "holds", "SCHEDULE": "schedules"}
    place = kinds.get(root["transaction_type"])
    if place is None or root["status"] != "posted":
        return None
    answer = await visit.figure(f"/{place}/{root['transaction_id']}")
    return answer.body if answer.is_good else None
