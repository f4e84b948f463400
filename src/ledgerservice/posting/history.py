"""A history, imported in one database transaction: all of it or nothing.

Until it commits nobody sees it. So no service ends one of its holds, or executes one of its
transfers, in between: what became of them comes from the history.
"""

from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import NamedTuple

import psycopg

from ledgerservice.domain.accounts import Account, Opened, Opening
from ledgerservice.domain.history import (
    Continuation,
    HistoryFault,
    PastAccount,
    PastCurrency,
    PastTransaction,
    named_accounts,
)
from ledgerservice.domain.instructions import Origin
from ledgerservice.domain.registration import answer_openings
from ledgerservice.errors import LedgerMoving, Unavailable
from ledgerservice.postgres import journal, locking, registration
from ledgerservice.postgres.pipeline import Request, Wire, number
from ledgerservice.posting.movements import salts
from ledgerservice.posting.poster import is_fenced

BATCH_ROWS = 2_000

# One import at a time, into a ledger that has nothing yet.
CLAIM_LEDGER = """
SELECT pg_try_advisory_xact_lock(2020068, $1::integer)
       AND NOT EXISTS (SELECT FROM ledger.accounts WHERE ledger_id = $1 AND id > 0)
       AND NOT EXISTS (SELECT FROM ledger.transactions WHERE ledger_id = $1)
"""
FIND_EXTERNALS = """
SELECT currency, id, exponent FROM ledger.accounts WHERE ledger_id = $1 AND id < 0
"""

Part = list[PastAccount] | list[PastTransaction]
"""Accounts that are opened together, or transactions that are written together."""


class Counts(NamedTuple):
    """What was imported."""

    accounts: int
    transactions: int


class LedgerNotEmpty(HistoryFault):
    """The ledger has accounts already."""


async def import_history(
    connect: Callable[[], Awaitable[Wire]],
    ledger: int,
    currencies: Iterable[PastCurrency],
    parts: Iterable[Part],
    *,
    dry_run: bool = False,
    principal_id: int = 0,
) -> Counts:
    """Import accounts and transactions into an empty ledger; the currencies exist already.

    Raises HistoryFault, LedgerNotEmpty, or what a connection raises; nothing is imported then.
    """
    wire = await connect()
    try:
        importing = _Importing(wire, ledger, principal_id)
        await importing.begin(currencies)
        for part in parts:
            await importing.add(part)
        if dry_run:
            await journal.abandon(wire)
        else:
            await journal.commit(wire)
    except psycopg.OperationalError as error:
        raise Unavailable(
            "The connection was lost during the import. If the ledger is still empty, run it again."
        ) from error
    except psycopg.DatabaseError as error:
        if is_fenced(error):
            raise LedgerMoving from error
        raise HistoryFault(f"the database refuses it: {error}") from error
    else:
        return importing.counts
    finally:
        await wire.close()


def parts_of(records: Iterable[PastAccount | PastTransaction]) -> Iterator[Part]:
    """The records in parts.

    What ends a schedule, or is the service's capture of a hold, is in a later part than these: the
    triggers of the database find them only if they were written before.
    """
    part: list[PastAccount | PastTransaction] = []
    ids: set[int] = set()
    for one in records:
        parent = one.parent_id if isinstance(one, PastTransaction) else None
        mixed = part and type(one) is not type(part[0])
        if mixed or len(part) == BATCH_ROWS or parent in ids:
            yield part  # type: ignore[misc]
            part, ids = [], set()
        part.append(one)
        if isinstance(one, PastTransaction) and _must_come_before(one):
            ids.add(one.id)
    if part:
        yield part  # type: ignore[misc]


def _must_come_before(one: PastTransaction) -> bool:
    return one.schedule is not None or (one.hold is not None and one.hold.capture_at is not None)


class _Importing:
    """A history that is being imported on one connection."""

    def __init__(self, wire: Wire, ledger: int, principal_id: int) -> None:
        self._wire = wire
        self._ledger = ledger
        self._principal_id = principal_id
        self._continuation = Continuation(salts(), principal_id)
        self.counts = Counts(0, 0)

    async def begin(self, currencies: Iterable[PastCurrency]) -> None:
        """Begin the transaction, and find the external accounts."""
        ledger = [number(self._ledger)]
        _, _, claimed, externals = await self._wire.exchange(
            Request(journal.BEGIN),
            Request(locking.TAKE_XID),
            Request(CLAIM_LEDGER, ledger),
            Request(FIND_EXTERNALS, ledger),
        )
        if not claimed.rows[0][0]:
            raise LedgerNotEmpty("the ledger has accounts already, or is being imported into")
        ids = {code: (account, exponent) for code, account, exponent in externals.rows}
        for one in currencies:
            if one.code not in ids:
                raise HistoryFault(f"currency {one.code} does not exist, and a dry run adds none")
            self._map(-one.number, *ids[one.code])

    def _map(self, past: int, account: int, exponent: int) -> None:
        self._continuation.accounts[past] = account
        self._continuation.exponents[past] = exponent

    async def add(self, part: Part) -> None:
        """Write a part. Raises HistoryFault."""
        accounts = [one for one in part if isinstance(one, PastAccount)]
        transactions = [one for one in part if isinstance(one, PastTransaction)]
        if accounts:
            await self._open(accounts)
        if transactions:
            await self._record(transactions)
        opened, recorded = self.counts
        self.counts = Counts(opened + len(accounts), recorded + len(transactions))

    async def _open(self, accounts: list[PastAccount]) -> None:
        openings = [self._opening(one) for one in accounts]
        new, opened = await self._wire.exchange(*registration.opening_requests(openings))
        rows = [Opened(*row) for row in opened.rows]
        answers = answer_openings(openings, rows, [row[0] for row in new.rows])
        for past, answer in zip(accounts, answers, strict=True):
            if not isinstance(answer, Opened) or answer.replayed:
                raise HistoryFault(f"account {past.id} has the key or reference of another")
            self._map(past.id, answer.account_id, answer.exponent)

    def _opening(self, past: PastAccount) -> Opening:
        origin = Origin.__members__.get(past.origin)
        if origin not in (Origin.CALLER, Origin.UNKEYED):
            raise HistoryFault(f"origin {past.origin} cannot have opened account {past.id}")
        return Opening(
            past.owner,
            past.currency,
            past.reference,
            past.key,
            self._ledger,
            metadata=past.metadata,
            origin=origin,
            principal_id=self._principal_id,
        )

    async def _record(self, records: list[PastTransaction]) -> None:
        named = {past for one in records for past in named_accounts(one)}
        accounts = {self._continuation.account(past) for past in named}
        locked, taken = await self._wire.exchange(
            locking.lock_accounts(self._wire, self._ledger, accounts),
            locking.take_ids(len(records)),
        )
        [(now, blocks)] = taken.rows
        states = {row[0]: Account(*row) for row in locked.rows}
        plan = self._continuation.plan(records, states, now, locking.ids_of(blocks))
        await journal.write(self._wire, self._ledger, plan)
