"""Finding by whatever one has: an id, a key, a reference, an owner, a value of the metadata."""

import asyncio
import json
import re
from collections import Counter
from collections.abc import Iterable
from typing import Any, NamedTuple

from starlette.responses import Response

from ledgerservice.console.calls import Answer
from ledgerservice.console.visits import Visit

ROWS = 10
RECENT, MOST_KEYS = 200, 8
"""Which keys metadata has is learnt from so many rows, and the most frequent ones are looked in."""
KINDS = ("accounts", "transactions")
_is_id = re.compile(r"-?[1-9][0-9]{0,17}").fullmatch
_account_and_key = re.compile(r"(-?[1-9][0-9]{0,17})[ /]+(\S.*)").fullmatch
_metadata = re.compile(r"([^:=]{1,255})[:=]\s*(.+)").fullmatch


class Look(NamedTuple):
    """One way to look: the text that names it, what it finds, the call, and the key of metadata."""

    name: str
    kind: str
    path: str
    query: dict[str, Any]
    key: str = ""


class Hits(NamedTuple):
    """What a look found, and the page with all of it."""

    look: Look
    rows: list[dict[str, Any]]
    has_more: bool


async def page(visit: Visit) -> Response:
    """What was found. One hit opens its page."""
    text = visit.query("q")
    answers = await _looked(visit, _looks(text) if text else [])
    hits, keys = _distinct(answers), list[str]()
    if text and not hits:
        more, keys = await _more(visit, text)
        hits = _distinct(more)
    places = [(one.look.kind, _id(one.look.kind, row)) for one in hits for row in one.rows]
    if len(places) == 1 and not hits[0].has_more:
        return visit.redirect(visit.url(*places[0]))
    missing = sorted({answer.missing_scope for _, answer in answers if answer.missing_scope})
    return visit.page("find.html", text=text, hits=hits, missing=missing, keys=keys, recent=RECENT)


async def _looked(visit: Visit, looks: list[Look]) -> list[tuple[Look, Answer]]:
    answers = await asyncio.gather(*(visit.peek(one.path, **one.query) for one in looks))
    return list(zip(looks, answers, strict=True))


async def _more(visit: Visit, text: str) -> tuple[list[tuple[Look, Answer]], list[str]]:
    """Look for a text as the value of any key of metadata, or as an idempotency key alone.

    No index has values without their keys, or keys without their accounts. So the keys of the first
    accounts and the latest transactions are looked in, each by the index of metadata, and the key
    is looked for in these transactions.
    """
    recent = [Look("recent_key", kind, f"/{kind}/", {"limit": RECENT}) for kind in KINDS]
    rows = [
        answer if answer.is_good else None
        for answer in await asyncio.gather(
            *(visit.api.send("GET", one.path, one.query) for one in recent)
        )
    ]
    keys = [[] if answer is None else _keys(answer.body) for answer in rows]
    looks = [
        Look("value", kind, f"/{kind}/", {"metadata": json.dumps(value), "limit": ROWS}, key)
        for kind, names in zip(KINDS, keys, strict=True)
        for key in names
        for value in _objects(key, text)
    ]
    found_answers = await _looked(visit, looks)
    if rows[1] is not None:
        same = [row for row in rows[1].body if row["idempotency_key"] == text]
        found_answers += [(recent[1], await visit.peek(_path(row))) for row in same[:ROWS]]
    return found_answers, sorted({*keys[0], *keys[1]})


def _path(row: dict[str, Any]) -> str:
    return f"/transactions/{row['transaction_id']}"


def _keys(rows: list[dict[str, Any]]) -> list[str]:
    """The most frequent keys of the metadata of rows."""
    counts = Counter(key for row in rows for key in row["metadata"] or ())
    return [key for key, _ in counts.most_common(MOST_KEYS)]


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
