"""A ledger with parts as one ledger: its journal, and what its clients saw.

Parts have external and clearing accounts with the same ids. In what is judged these ids differ: by
so much for each part.
"""

import json
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Any

from msgspec.structs import replace

from tests.proof.history import Attempt
from tests.proof.journal import Journal, Place, dump

BY_PART = 1 << 40


def id_of(part: int, account: int) -> int:
    """What an account of a part is called here."""
    return account - part * BY_PART if account < 0 else account


def ids_of(account: int) -> tuple[int, int]:
    """The part of an external or a clearing account, and its id there."""
    part, number = divmod(-account, BY_PART)
    return part, -number


def dump_parts(places: Sequence[Place], ledger: int) -> Journal:
    """All rows of all parts, by number, and what main has of their ledger: its proposals."""
    main = dump(Place(places[0].directory, ledger))
    for execution in main.executions:
        answer = json.loads(execution.answer or "null")
        execution.answer = json.dumps(_renamed(answer, len(places)))
    parts = [_renumbered(number, dump(place)) for number, place in enumerate(places)]
    return Journal(
        sorted(chain.from_iterable(one.accounts for one in parts), key=lambda row: row.id),
        sorted(chain.from_iterable(one.transactions for one in parts), key=lambda row: row.id),
        sorted(
            chain.from_iterable(one.entries for one in parts),
            key=lambda row: (row.account, row.seq),
        ),
        list(chain.from_iterable(one.holds for one in parts)),
        list(chain.from_iterable(one.schedules for one in parts)),
        list(chain.from_iterable(one.policies for one in parts)),
        main.rules,
        main.proposals,
        main.decisions,
        main.executions,
        parts=tuple(place.ledger for place in places),
    )


def _renumbered(part: int, journal: Journal) -> Journal:
    for account in journal.accounts:
        account.id = id_of(part, account.id)
    for transaction in journal.transactions:
        transaction.other = id_of(part, transaction.other)
    for entry in journal.entries:
        entry.account = id_of(part, entry.account)
    for hold in journal.holds:
        hold.other = id_of(part, hold.other)
    return journal


def seen_by_part(attempts: Iterable[Attempt], parts: int) -> Iterator[Attempt]:
    """What clients saw, with the ids of the journal."""
    for attempt in attempts:
        yield replace(attempt, body=_renamed(attempt.body, parts))


def _renamed(value: Any, parts: int) -> Any:
    """An answer. In the entries of a transaction one is of an account that says the part."""
    if isinstance(value, list):
        return [_renamed(one, parts) for one in value]
    if not isinstance(value, dict):
        return value
    found = {name: _renamed(one, parts) for name, one in value.items()}
    if entries := found.get("entries"):
        part = next(one["account_id"] % parts for one in entries if one["account_id"] > 0)
        ids = [id_of(part, one["account_id"]) for one in entries]
        found["entries"] = [
            one | {"account_id": number} for one, number in zip(entries, ids, strict=True)
        ]
    return found
