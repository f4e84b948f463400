"""Finding by whatever one has: an id, a key, a reference, an owner, a value of the metadata."""

import asyncio
import json
import re
from collections.abc import Iterable
from typing import Any, NamedTuple

from starlette.responses import Response

from ledgerservice.console.calls import Answer
from ledgerservice.console.visits import Visit

ROWS = 10
_is_id = re.compile(r"-?[1-9][0-9]{0,17}").fullmatch
_account_and_key = re.compile(r"(-?[1-9][0-9]{0,17})[ /]+(\S.*)").fullmatch
_metadata = re.compile(r"([^:=]{1,255})[:=]\s*(.+)").fullmatch


class Look(NamedTuple):
    """One way to look: the text that names it, what it finds, and the call."""

    name: str
    kind: str
    path: str
    query: dict[str, Any]


class Hits(NamedTuple):
    """What a look found, and the page with all of it."""

    look: Look
    rows: list[dict[str, Any]]
    has_more: bool


async def page(visit: Visit) -> Response:
    """What was found. One hit opens its page."""
    text = visit.query("q")
    looks = _looks(text) if text else []
    answers = await asyncio.gather(*(visit.peek(one.path, **one.query) for one in looks))
    hits = _distinct(zip(looks, answers, strict=True))
    places = [(one.look.kind, _id(one.look.kind, row)) for one in hits for row in one.rows]
    if len(places) == 1 and not hits[0].has_more:
        return visit.redirect(visit.url(*places[0]))
    missing = sorted({answer.missing_scope for answer in answers if answer.missing_scope})
    return visit.page("find.html", text=text, hits=hits, missing=missing)


def _looks(text: str) -> list[Look]:
    """All ways to look for a text."""
    looks = [
        Look("reference", "accounts", "/accounts/", {"reference": text, "limit": ROWS}),
        Look("reference", "transactions", "/transactions/", {"reference": text, "limit": ROWS}),
        Look("owner", "accounts", "/accounts/", {"owner": text, "limit": ROWS}),
    ]
    if _is_id(text):
        looks.insert(0, Look("id", "accounts", f"/accounts/{text}", {}))
        looks.insert(1, Look("id", "transactions", f"/transactions/{text}", {}))
    if match := _account_and_key(text):
        looks.append(Look("key", "transactions", f"/accounts/{match[1]}/keys/{match[2]}", {}))
    if match := _metadata(text):
        looks += [
            Look("metadata", kind, f"/{kind}/", {"metadata": json.dumps(value), "limit": ROWS})
            for value in _objects(match[1].strip(), match[2].strip())
            for kind in ("accounts", "transactions")
        ]
    return looks


def _objects(key: str, value: str) -> list[dict[str, Any]]:
    """What has this text, or this number or truth, under the key."""
    try:
        other = json.loads(value)
    except ValueError:
        other = value
    return [{key: value}] if other == value else [{key: value}, {key: other}]


def _distinct(answers: Iterable[tuple[Look, Answer]]) -> list[Hits]:
    """What was found, each thing once: under the first look that found it."""
    hits, seen = [], set()
    for look, answer in answers:
        rows = [row for row in _rows(answer) if (look.kind, _id(look.kind, row)) not in seen]
        seen |= {(look.kind, _id(look.kind, row)) for row in rows}
        if rows:
            hits.append(Hits(look, rows, answer.next_cursor is not None))
    return hits


def _rows(answer: Answer) -> list[dict[str, Any]]:
    if not answer.is_good:
        return []
    return answer.body if isinstance(answer.body, list) else [answer.body]


def _id(kind: str, row: dict[str, Any]) -> int:
    number: int = row["id" if kind == "accounts" else "transaction_id"]
    return number
