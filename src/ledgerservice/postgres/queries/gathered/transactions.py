"""Gathered reads of transactions, by id or by key.

Those of a ledger share statements, and all statements of a step share a round trip.
"""

from collections.abc import Iterator, Sequence
from itertools import chain, starmap
from typing import NamedTuple

from ledgerservice.domain.instructions import Kind, Origin
from ledgerservice.domain.transactions import Status, Transaction
from ledgerservice.postgres.locking import FIND_EARLIER, FIND_TRANSACTIONS
from ledgerservice.postgres.pipeline import Request, Result, Wire, array, number, text_array
from ledgerservice.postgres.queries.structs import select_list
from ledgerservice.postgres.queries.transactions import Child
from ledgerservice.postgres.rows import FIND_DETAILS, FIND_ENTRIES, TransactionRow, transactions_of


class TransactionRead(NamedTuple):
    """Which transaction is read, with what builds on it."""

    ledger_id: int
    transaction_id: int


class KeyRead(NamedTuple):
    """Which transaction of a caller is read."""

    ledger_id: int
    account_id: int
    key: str


class Built(NamedTuple):
    """A transaction, and the posted ones that build on it if it was read by its id."""

    transaction: Transaction
    children: list[Child]


Read = TransactionRead | KeyRead

FIND_CHILDREN = f"""
SELECT d.parent_id, {select_list(Child, "t")}
FROM (SELECT DISTINCT unnest($2::bigint[]) AS id) requested
CROSS JOIN LATERAL (
    SELECT transaction_id, parent_id FROM ledger.details
    WHERE ledger_id = $1 AND parent_id BETWEEN requested.id AND requested.id ORDER BY parent_id) d
CROSS JOIN LATERAL (
    SELECT id, kind, status FROM ledger.transactions
    WHERE ledger_id = $1 AND id BETWEEN d.transaction_id AND d.transaction_id
    ORDER BY id LIMIT 1) t
WHERE t.status = {Status.POSTED:d}
ORDER BY t.id
"""


async def find_transactions(wire: Wire, reads: list[Read]) -> list[Built | None]:
    """What each read finds, or None."""
    steps = list(_by_ledger(reads))
    results = iter(await wire.exchange(*chain.from_iterable(step.requests() for step in steps)))
    for step in steps:
        step.take(next(results), next(results), next(results))
    steps = [step for step in steps if step.rows]
    results = iter(await wire.exchange(*chain.from_iterable(step.beside() for step in steps)))
    views: dict[Read, Built] = {}
    for step in steps:
        views.update(step.views(next(results), next(results)))
    return [views.get(read) for read in reads]


def _by_ledger(reads: Sequence[Read]) -> Iterator["_Step"]:
    by_ledger: dict[int, list[Read]] = {}
    for read in reads:
        by_ledger.setdefault(read.ledger_id, []).append(read)
    return starmap(_Step, by_ledger.items())


class _Step:
    """The reads of one ledger."""

    def __init__(self, ledger: int, reads: Sequence[Read]) -> None:
        self._ledger = ledger
        self._ids = [read.transaction_id for read in reads if isinstance(read, TransactionRead)]
        self._keys = [read for read in reads if isinstance(read, KeyRead)]
        self.rows: list[TransactionRow] = []
        self._children: dict[int, list[Child]] = {}

    def requests(self) -> tuple[Request, Request, Request]:
        """What finds the rows of transactions, and the children of those that are read by id."""
        ledger, ids = number(self._ledger), array(self._ids)
        accounts = array(read.account_id for read in self._keys)
        origins = array([int(Origin.CALLER)] * len(self._keys))
        keys = text_array(read.key for read in self._keys)
        return (
            Request(FIND_TRANSACTIONS, [ledger, ids]),
            Request(FIND_EARLIER, [ledger, accounts, origins, keys]),
            Request(FIND_CHILDREN, [ledger, ids]),
        )

    def take(self, by_id: Result, by_key: Result, children: Result) -> None:
        """The answers to `requests`."""
        self.rows = [TransactionRow(*row) for row in (*by_id.rows, *by_key.rows)]
        for parent_id, child_id, kind, status in children.rows:
            child = Child(child_id, Kind(kind), Status(status))
            self._children.setdefault(parent_id, []).append(child)

    def beside(self) -> tuple[Request, Request]:
        """What finds the entries and details of the rows."""
        ledger = number(self._ledger)
        ids = array(row.id for row in self.rows)
        detailed = array(row.id for row in self.rows if row.has_details)
        return Request(FIND_ENTRIES, [ledger, ids]), Request(FIND_DETAILS, [ledger, detailed])

    def views(self, entries: Result, details: Result) -> Iterator[tuple[Read, Built]]:
        """Each transaction by both reads that may have found it."""
        for one in transactions_of(self.rows, entries.rows, details.rows):
            built = Built(one, self._children.get(one.id, []))
            yield TransactionRead(self._ledger, one.id), built
            if one.origin is Origin.CALLER:
                yield KeyRead(self._ledger, one.account_id, one.key), built
