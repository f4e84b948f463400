"""The statements that write, each once: lock, find earlier, apply, commit.

All take a psycopg connection in autocommit mode, because the journal says BEGIN and COMMIT
itself and looks at what the server answers. A batch is one database transaction, READ COMMITTED.

No pipeline mode: psycopg ends a pipeline with a Flush message, upon which PostgreSQL disarms
idle_in_transaction_session_timeout (seen on 15 and 18), and a frozen process would hold its
accounts for ever.
"""

from collections.abc import Iterable, Iterator, Sequence
from datetime import datetime
from itertools import chain
from typing import Any

import msgspec
from psycopg import AsyncConnection
from psycopg.errors import OperationalError
from psycopg.pq import TransactionStatus

from ledgerservice.model import (
    Account,
    Entry,
    Movement,
    Opened,
    Opening,
    Status,
    Transaction,
)
from ledgerservice.planner import Key, Plan

Connection = AsyncConnection[Any]

ID_BLOCK = 100  # the increment of the sequence ledger.transaction_id

# Ascending ids, so that batches cannot deadlock; NO KEY, so that opening accounts is not blocked.
# The external accounts are those of the deposits' and withdrawals' currencies, which never change.
LOCK_ACCOUNTS = """
SELECT id, currency, currency_number, exponent, balance, held, version, floor, last_recorded_at
FROM ledger.accounts
WHERE ledger_id = %(ledger)s AND id = ANY (%(accounts)s::bigint[] || ARRAY(
    SELECT DISTINCT -currency_number::bigint FROM ledger.accounts
    WHERE ledger_id = %(ledger)s AND id = ANY (%(outside)s::bigint[])))
ORDER BY id FOR NO KEY UPDATE
"""

# A statement of its own, after the locks: together with them it would read an older snapshot.
# LATERAL with its LIMIT makes it one look into the unique index for each key, whatever the
# planner believes about the tables' sizes.
FIND_EARLIER = """
SELECT t.id, t.kind, t.account_id, t.counterparty_id, t.idempotency_key, t.amount, a.currency,
       a.exponent, t.recorded_at, t.renderer, t.decline_reason, t.deciding_account_id,
       t.deciding_version, t.deciding_available
FROM unnest(%(accounts)s::bigint[], %(keys)s::text[]) AS wanted (account_id, idempotency_key)
CROSS JOIN LATERAL (
    SELECT * FROM ledger.transactions
    WHERE ledger_id = %(ledger)s AND account_id = wanted.account_id
      AND idempotency_key = wanted.idempotency_key
    LIMIT 1) t
JOIN ledger.accounts a ON a.ledger_id = t.ledger_id AND a.id = t.account_id
"""

FIND_ENTRIES = """
SELECT account_id, seq, transaction_id, currency_number, amount, held_change, balance, held
FROM ledger.entries
WHERE ledger_id = %(ledger)s AND transaction_id = ANY (%(transactions)s::bigint[])
"""

TAKE_CLOCK_AND_IDS = """
SELECT clock_timestamp(), ARRAY(
    SELECT nextval('ledger.transaction_id') FROM generate_series(1, %(blocks)s))
"""

COPY_TRANSACTIONS = """
COPY ledger.transactions (ledger_id, id, kind, status, account_id, counterparty_id, amount,
    recorded_at, renderer, idempotency_key, decline_reason, deciding_account_id,
    deciding_version, deciding_available) FROM STDIN
"""

COPY_ENTRIES = """
COPY ledger.entries (ledger_id, account_id, seq, transaction_id, currency_number, amount,
    held_change, balance, held, recorded_at) FROM STDIN
"""

# With a synchronous standby a commit that writes nothing does not wait for it, and a replay must
# not be answered before the standby has what it replays.
WRITE_BARRIER = "SELECT pg_logical_emit_message(true, 'ledger', '')"

# What is there already, by key or by reference, is left as it is. A currency that is not known
# joins nothing.
OPEN_ACCOUNTS = """
INSERT INTO ledger.accounts (ledger_id, owner, currency, reference, idempotency_key)
SELECT %(ledger)s, wanted.owner, wanted.currency, wanted.reference, wanted.key
FROM unnest(%(owners)s::text[], %(currencies)s::text[], %(references)s::text[], %(keys)s::text[])
    WITH ORDINALITY AS wanted (owner, currency, reference, key, place)
JOIN ledger.currencies c ON c.code = wanted.currency
ORDER BY wanted.place
ON CONFLICT DO NOTHING RETURNING id
"""

FIND_OPENED = """
SELECT id, owner, currency, exponent, reference, idempotency_key, created_at
FROM ledger.accounts WHERE ledger_id = %(ledger)s AND idempotency_key = ANY (%(keys)s::text[])
UNION
SELECT id, owner, currency, exponent, reference, idempotency_key, created_at
FROM ledger.accounts WHERE ledger_id = %(ledger)s AND reference = ANY (%(references)s::text[])
"""


class CommitUnconfirmed(OperationalError):
    """The server did not confirm the COMMIT, or only with a warning."""


class Locked(msgspec.Struct, frozen=True):
    """What a batch decides on, read under its locks."""

    accounts: dict[int, Account]
    earlier: dict[Key, Transaction]
    now: datetime
    blocks: list[int]


async def lock(
    connection: Connection, ledger: int, movements: Sequence[Movement], blocks: int
) -> Locked:
    """Begin, lock the movements' accounts, and read what they are decided on.

    `blocks` is the number of blocks of transaction ids to take.
    """
    await connection.execute("BEGIN")
    locked = await _rows(connection, LOCK_ACCOUNTS, _accounts_of(ledger, movements))
    found = await _rows(connection, FIND_EARLIER, _keys_of(ledger, movements))
    [(now, ids)] = await _rows(connection, TAKE_CLOCK_AND_IDS, {"blocks": blocks})
    entries = await find_entries(connection, ledger, [row[0] for row in found])
    accounts = {row[0]: Account(*row) for row in locked}
    earlier = {(row[2], row[4]): Transaction.of_row(row, entries.get(row[0], ())) for row in found}
    return Locked(accounts, earlier, now, ids)


async def _rows(
    connection: Connection, statement: str, values: dict[str, Any]
) -> list[tuple[Any, ...]]:
    cursor = await connection.execute(statement, values)
    return await cursor.fetchall()


def _accounts_of(ledger: int, movements: Sequence[Movement]) -> dict[str, Any]:
    credited = (m.counterparty_id for m in movements if m.counterparty_id is not None)
    return {
        "ledger": ledger,
        "accounts": list({*(m.account_id for m in movements), *credited}),
        "outside": list({m.account_id for m in movements if m.counterparty_id is None}),
    }


def _keys_of(ledger: int, movements: Sequence[Movement]) -> dict[str, Any]:
    return {
        "ledger": ledger,
        "accounts": [m.account_id for m in movements],
        "keys": [m.key for m in movements],
    }


async def find_entries(
    connection: Connection, ledger: int, transactions: list[int]
) -> dict[int, list[Entry]]:
    """The entries of recorded transactions, by transaction id."""
    entries: dict[int, list[Entry]] = {}
    if transactions:
        wanted = {"ledger": ledger, "transactions": transactions}
        async for row in await connection.execute(FIND_ENTRIES, wanted):
            entries.setdefault(row[2], []).append(Entry(*row))
    return entries


async def apply(connection: Connection, ledger: int, plan: Plan) -> None:
    """Write the plan's rows; the journal's trigger checks them and moves the accounts."""
    if not plan.transactions:
        await connection.execute(WRITE_BARRIER)
        return
    await _copy(connection, COPY_TRANSACTIONS, _transaction_rows(ledger, plan))
    entries = plan.entries()
    if entries:
        await _copy(connection, COPY_ENTRIES, _entry_rows(ledger, plan.recorded_at, entries))


async def _copy(connection: Connection, statement: str, rows: Iterable[str]) -> None:
    async with connection.cursor() as cursor, cursor.copy(statement) as copy:
        await copy.write("".join(rows))


def _transaction_rows(ledger: int, plan: Plan) -> Iterator[str]:
    """Rows of COPY_TRANSACTIONS in COPY's text format; only a key can hold a backslash."""
    tail = f"\t{plan.recorded_at.isoformat()}\t"
    for t in plan.transactions:
        refusal = t.refusal
        decided = (
            "\\N\t\\N\t\\N\t\\N"
            if refusal is None
            else f"{refusal.reason}\t{refusal.account_id}\t{refusal.version}\t{refusal.available}"
        )
        key = t.key.replace("\\", "\\\\")
        status = Status.POSTED if refusal is None else Status.DECLINED
        yield (
            f"{ledger}\t{t.id}\t{t.kind:d}\t{status:d}\t{t.account_id}\t{t.counterparty_id}"
            f"\t{t.amount}{tail}{t.renderer}\t{key}\t{decided}\n"
        )


def _entry_rows(ledger: int, recorded_at: datetime, entries: Iterable[Entry]) -> Iterator[str]:
    """Rows of COPY_ENTRIES in COPY's text format."""
    tail = f"\t{recorded_at.isoformat()}\n"
    for e in entries:
        yield (
            f"{ledger}\t{e.account_id}\t{e.seq}\t{e.transaction_id}\t{e.currency_number}"
            f"\t{e.amount}\t{e.held_change}\t{e.balance}\t{e.held}{tail}"
        )


async def open_accounts(
    connection: Connection, ledger: int, openings: Sequence[Opening]
) -> tuple[list[Opened], list[int]]:
    """Begin, open what is not there yet; the accounts by key or reference, and the new ids."""
    wanted = {
        "ledger": ledger,
        "owners": [opening.owner for opening in openings],
        "currencies": [opening.currency for opening in openings],
        "references": [opening.reference for opening in openings],
        "keys": [opening.key for opening in openings],
    }
    await connection.execute("BEGIN")
    opened = await _rows(connection, OPEN_ACCOUNTS, wanted)
    found = await _rows(connection, FIND_OPENED, wanted)
    await connection.execute(WRITE_BARRIER)
    return [Opened(*row) for row in found], [row[0] for row in opened]


async def commit(connection: Connection) -> None:
    """Commit, and believe only the server's own word for it.

    On an aborted transaction the server answers ROLLBACK, without an error; a wait for a
    synchronous standby that was cut short answers COMMIT with a warning.
    """
    warnings: list[str] = []

    def listen(notice: Any) -> None:
        if notice.severity_nonlocalized == "WARNING":
            warnings.append(notice.message_primary or "")

    connection.add_notice_handler(listen)
    try:
        cursor = await connection.execute("COMMIT")
    finally:
        connection.remove_notice_handler(listen)
    if cursor.statusmessage != "COMMIT" or warnings:
        raise CommitUnconfirmed(f"COMMIT answered {cursor.statusmessage} {' '.join(warnings)}")
    assert connection.info.transaction_status is TransactionStatus.IDLE


def ids(spare: Iterator[int], blocks: Iterable[int]) -> Iterator[int]:
    """Transaction ids: what earlier batches left over, then new blocks."""
    return chain(spare, *(range(block, block + ID_BLOCK) for block in blocks))
