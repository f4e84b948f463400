"""The statements that write, each once: lock, find earlier, record, commit.

A batch is one database transaction, READ COMMITTED, in two round trips: one reads under the locks
what is to be decided on, one writes what was decided and commits. BEGIN and COMMIT are said here,
and what the server answers to them is looked at.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import islice

import msgspec
from psycopg.errors import OperationalError, UniqueViolation

from ledgerservice.model import (
    Account,
    Currency,
    Entry,
    Movement,
    Opened,
    Opening,
    Status,
    Transaction,
)
from ledgerservice.planner import Key, Plan
from ledgerservice.wire import Request, Result, Wire, array, optional_array, text_array

ID_BLOCK = 100  # the increment of the sequence ledger.transaction_id

# From here on COPY is cheaper than INSERT, though it takes more round trips.
COPY_FROM_TRANSACTIONS = 500
COPY_CHUNK_ROWS = 1000

BEGIN = "BEGIN"
COMMIT = "COMMIT"
ROLLBACK = "ROLLBACK"

# Ascending ids, so that batches cannot deadlock; NO KEY, so that opening accounts is not blocked.
# The external accounts are those of the deposits' and withdrawals' currencies, which never change.
LOCK_ACCOUNTS = """
SELECT id, currency, currency_number, exponent, balance, held, version, floor, last_recorded_at
FROM ledger.accounts
WHERE ledger_id = $1 AND id = ANY ($2::bigint[] || ARRAY(
    SELECT DISTINCT -currency_number::bigint FROM ledger.accounts
    WHERE ledger_id = $1 AND id = ANY ($3::bigint[])))
ORDER BY id FOR NO KEY UPDATE
"""

# A statement of its own, after the locks: together with them it would read an older snapshot.
# LATERAL with its LIMIT makes it one look into an index for each key, and the ORDER BY, which only
# the right index fulfils, makes it that one, whatever the planner believes about the table's size.
FIND_EARLIER = """
SELECT t.id, t.kind, t.account_id, t.counterparty_id, t.idempotency_key, t.amount, a.currency,
       a.exponent, t.recorded_at, t.renderer, t.decline_reason, t.deciding_account_id,
       t.deciding_version, t.deciding_available
FROM unnest($2::bigint[], $3::text[]) AS wanted (account_id, idempotency_key)
CROSS JOIN LATERAL (
    SELECT * FROM ledger.transactions
    WHERE ledger_id = $1 AND account_id = wanted.account_id
      AND idempotency_key BETWEEN wanted.idempotency_key AND wanted.idempotency_key
    ORDER BY idempotency_key LIMIT 1) t
JOIN ledger.accounts a ON a.ledger_id = t.ledger_id AND a.id = t.account_id
"""

FIND_ENTRIES = """
SELECT account_id, seq, transaction_id, currency_number, amount, held_change, balance, held
FROM ledger.entries
WHERE ledger_id = $1 AND transaction_id = ANY ($2::bigint[])
"""

TAKE_CLOCK_AND_IDS = """
SELECT greatest(clock_timestamp(), transaction_timestamp()), ARRAY(
    SELECT nextval('ledger.transaction_id') FROM generate_series(1, $1::integer))
"""

INSERT_TRANSACTIONS = """
INSERT INTO ledger.transactions (ledger_id, recorded_at, id, kind, status, account_id,
    counterparty_id, amount, renderer, idempotency_key, decline_reason, deciding_account_id,
    deciding_version, deciding_available)
SELECT $1, $2, * FROM unnest($3::bigint[], $4::smallint[], $5::smallint[], $6::bigint[],
    $7::bigint[], $8::bigint[], $9::smallint[], $10::text[], $11::text[], $12::bigint[],
    $13::bigint[], $14::bigint[])
"""

INSERT_ENTRIES = """
INSERT INTO ledger.entries (ledger_id, recorded_at, account_id, seq, transaction_id,
    currency_number, amount, held_change, balance, held)
SELECT $1, $2, * FROM unnest($3::bigint[], $4::bigint[], $5::bigint[], $6::smallint[],
    $7::bigint[], $8::bigint[], $9::bigint[], $10::bigint[])
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

# In a transaction of another's. Once in each: a second call would lock accounts out of order.
JOIN_TRANSACTION = """
SELECT current_setting('transaction_isolation') AS isolation,
       coalesce(current_setting('ledgerservice.posted', true), '') AS posted,
       set_config('ledgerservice.posted', 'yes', true)
"""

# What is there already, by key or by reference, is left as it is. A currency that is not known
# joins nothing.
OPEN_ACCOUNTS = """
INSERT INTO ledger.accounts (ledger_id, owner, currency, reference, idempotency_key)
SELECT $1, wanted.owner, wanted.currency, wanted.reference, wanted.key
FROM unnest($2::text[], $3::text[], $4::text[], $5::text[])
    WITH ORDINALITY AS wanted (owner, currency, reference, key, place)
JOIN ledger.currencies c ON c.code = wanted.currency
ORDER BY wanted.place
ON CONFLICT DO NOTHING RETURNING id
"""

FIND_OPENED = """
SELECT a.id, a.owner, a.currency, a.exponent, a.reference, a.idempotency_key, a.created_at
FROM unnest($2::text[]) AS wanted (key) CROSS JOIN LATERAL (
    SELECT * FROM ledger.accounts
    WHERE ledger_id = $1 AND idempotency_key BETWEEN wanted.key AND wanted.key
    ORDER BY idempotency_key LIMIT 1) a
UNION
SELECT a.id, a.owner, a.currency, a.exponent, a.reference, a.idempotency_key, a.created_at
FROM unnest($3::text[]) AS wanted (reference) CROSS JOIN LATERAL (
    SELECT * FROM ledger.accounts
    WHERE ledger_id = $1 AND reference BETWEEN wanted.reference AND wanted.reference
    ORDER BY reference LIMIT 1) a
"""


# Looked for first: a conflict would cost a number, and there are 31,768 of them.
ADD_CURRENCIES = """
INSERT INTO ledger.currencies (code, exponent, name)
SELECT wanted.code, wanted.exponent, wanted.name
FROM unnest($1::text[], $2::smallint[], $3::text[]) AS wanted (code, exponent, name)
WHERE NOT EXISTS (SELECT FROM ledger.currencies c WHERE c.code = wanted.code)
ORDER BY wanted.code ON CONFLICT DO NOTHING RETURNING code
"""

FIND_CURRENCIES = """
SELECT code, exponent, name FROM ledger.currencies WHERE code = ANY ($1::text[])
"""


class CommitUnconfirmed(OperationalError):
    """The server did not confirm the COMMIT, or only with a warning."""


class Locked(msgspec.Struct, frozen=True):
    """What a batch decides on, read under its locks."""

    accounts: dict[int, Account]
    earlier: dict[Key, Transaction]
    now: datetime
    blocks: list[int]


async def begin(
    wire: Wire, ledger: int, movements: Sequence[Movement], blocks: int, *, look: bool = True
) -> Locked:
    """Begin, and `lock`."""
    return await lock(wire, ledger, movements, blocks, Request(BEGIN), look=look)


async def lock(
    wire: Wire,
    ledger: int,
    movements: Sequence[Movement],
    blocks: int,
    *before: Request,
    look: bool = True,
) -> Locked:
    """Lock the movements' accounts, and read what they are decided on.

    `blocks` is the number of blocks of transaction ids to take. What is to be run `before` goes
    along in the same round trip. Without `look` no key is looked for: none counts as seen.
    """
    *_, locked, taken, found = await wire.exchange(
        *before,
        _lock_accounts(ledger, movements),
        Request(TAKE_CLOCK_AND_IDS, [_number(blocks)]),
        _find_earlier(ledger, movements if look else ()),
    )
    [(now, ids)] = taken.rows
    entries = await _find_entries(wire, ledger, [row[0] for row in found.rows])
    accounts = {row[0]: Account(*row) for row in locked.rows}
    earlier = {
        (row[2], row[4]): Transaction.of_row(row, entries.get(row[0], ())) for row in found.rows
    }
    return Locked(accounts, earlier, now, ids)


def _lock_accounts(ledger: int, movements: Sequence[Movement]) -> Request:
    accounts = {m.account_id for m in movements}
    accounts.update(m.counterparty_id for m in movements if m.counterparty_id is not None)
    outside = {m.account_id for m in movements if m.counterparty_id is None}
    return Request(LOCK_ACCOUNTS, [_number(ledger), array(accounts), array(outside)])


def _find_earlier(ledger: int, movements: Sequence[Movement]) -> Request:
    accounts = array(m.account_id for m in movements)
    return Request(FIND_EARLIER, [_number(ledger), accounts, text_array(m.key for m in movements)])


async def _find_entries(wire: Wire, ledger: int, transactions: list[int]) -> dict[int, list[Entry]]:
    """The entries of recorded transactions, by transaction id."""
    entries: dict[int, list[Entry]] = {}
    if transactions:
        wanted = Request(FIND_ENTRIES, [_number(ledger), array(transactions)])
        for row in (await wire.exchange(wanted))[0].rows:
            entries.setdefault(row[2], []).append(Entry(*row))
    return entries


async def record(wire: Wire, ledger: int, plan: Plan) -> None:
    """Write the plan's rows and commit.

    The journal's trigger checks the entries and moves the accounts. Raises CommitUnconfirmed.
    """
    await _commit(wire, *await _write(wire, ledger, plan))


async def record_new(wire: Wire, ledger: int, plan: Plan, movements: int) -> bool:
    """`record`, of a plan of so many movements that was made without looking for keys.

    The unique key judges each movement that writes a row. False, with all of it rolled back, if
    it objects, or if a movement writes none: then its key may have an earlier outcome.
    """
    if len(plan.transactions) == movements:
        with suppress(UniqueViolation):
            await record(wire, ledger, plan)
            return True
    await wire.exchange(Request(ROLLBACK))
    return False


async def write(wire: Wire, ledger: int, plan: Plan) -> None:
    """Write the plan's rows in a transaction that is another's to commit."""
    await wire.exchange(*await _write(wire, ledger, plan))


async def _write(wire: Wire, ledger: int, plan: Plan) -> Iterable[Request]:
    """Copy many rows; few are left to what is still to be sent."""
    if not plan.transactions:
        return [Request(WRITE_BARRIER)]
    if len(plan.transactions) < COPY_FROM_TRANSACTIONS:
        return _inserts(ledger, plan)
    await wire.copy(COPY_TRANSACTIONS, _in_chunks(transaction_rows(ledger, plan)))
    await wire.copy(COPY_ENTRIES, _in_chunks(entry_rows(ledger, plan)))
    return []


async def _commit(wire: Wire, *writes: Request) -> list[Result]:
    """Write and commit in one round trip, and believe only the server's own word for it.

    On an aborted transaction the server answers ROLLBACK, without an error; a wait for a
    synchronous standby that was cut short answers COMMIT with a warning.
    """
    *results, committed = await wire.exchange(*writes, Request(COMMIT))
    if committed.tag != "COMMIT" or wire.warnings:
        raise CommitUnconfirmed(f"COMMIT answered {committed.tag} {' '.join(wire.warnings)}")
    assert wire.idle
    return results


def _inserts(ledger: int, plan: Plan) -> Iterator[Request]:
    same = [_number(ledger), plan.recorded_at.isoformat().encode()]
    rows = plan.transactions
    refusals = [t.refusal for t in rows]
    yield Request(
        INSERT_TRANSACTIONS,
        [
            *same,
            array(t.id for t in rows),
            array(t.kind.value for t in rows),
            array(t.status.value for t in rows),
            array(t.account_id for t in rows),
            array(t.counterparty_id for t in rows),
            array(t.amount for t in rows),
            array(t.renderer for t in rows),
            text_array(t.key for t in rows),
            text_array(None if r is None else r.reason for r in refusals),
            optional_array(None if r is None else r.account_id for r in refusals),
            optional_array(None if r is None else r.version for r in refusals),
            optional_array(None if r is None else r.available for r in refusals),
        ],
    )
    entries = plan.entries()
    if entries:
        columns = zip(*map(_entry_columns, entries), strict=True)
        yield Request(INSERT_ENTRIES, [*same, *map(array, columns)])


def _entry_columns(e: Entry) -> tuple[int, ...]:
    return (
        e.account_id,
        e.seq,
        e.transaction_id,
        e.currency_number,
        e.amount,
        e.held_change,
        e.balance,
        e.held,
    )


def _in_chunks(rows: Iterable[str]) -> Iterator[str]:
    remaining = iter(rows)
    while chunk := "".join(islice(remaining, COPY_CHUNK_ROWS)):
        yield chunk


def transaction_rows(ledger: int, plan: Plan) -> Iterator[str]:
    """Rows of COPY_TRANSACTIONS in COPY's text format; only a key can hold a backslash."""
    moment = plan.recorded_at.isoformat()
    for t in plan.transactions:
        refusal = t.refusal
        if refusal is None:
            status, decided = Status.POSTED, "\\N\t\\N\t\\N\t\\N"
        else:
            status = Status.DECLINED
            decided = (
                f"{refusal.reason}\t{refusal.account_id}\t{refusal.version}\t{refusal.available}"
            )
        key = t.key.replace("\\", "\\\\")
        yield (
            f"{ledger}\t{t.id}\t{t.kind:d}\t{status:d}\t{t.account_id}\t{t.counterparty_id}"
            f"\t{t.amount}\t{moment}\t{t.renderer}\t{key}\t{decided}\n"
        )


def entry_rows(ledger: int, plan: Plan) -> Iterator[str]:
    """Rows of COPY_ENTRIES in COPY's text format."""
    tail = f"\t{plan.recorded_at.isoformat()}\n"
    for e in plan.entries():
        yield (
            f"{ledger}\t{e.account_id}\t{e.seq}\t{e.transaction_id}\t{e.currency_number}"
            f"\t{e.amount}\t{e.held_change}\t{e.balance}\t{e.held}{tail}"
        )


async def open_accounts(
    wire: Wire, ledger: int, openings: Sequence[Opening]
) -> tuple[list[Opened], list[int]]:
    """Open what is not there yet, and commit; the accounts by key or reference, and the new ids."""
    number = _number(ledger)
    keys = text_array(opening.key for opening in openings)
    references = text_array(opening.reference for opening in openings)
    owners = text_array(opening.owner for opening in openings)
    currencies = text_array(opening.currency for opening in openings)
    _, opened, found, _ = await _commit(
        wire,
        Request(BEGIN),
        Request(OPEN_ACCOUNTS, [number, owners, currencies, references, keys]),
        Request(FIND_OPENED, [number, keys, references]),
        Request(WRITE_BARRIER),
    )
    return [Opened(*row) for row in found.rows], [row[0] for row in opened.rows]


async def add_currencies(wire: Wire, asked: Sequence[Currency]) -> tuple[list[Currency], list[str]]:
    """Add what is not there yet, and commit; the currencies as they are, and the new codes."""
    codes = text_array(currency.code for currency in asked)
    exponents = array(currency.exponent for currency in asked)
    names = text_array(currency.name for currency in asked)
    _, added, found, _ = await _commit(
        wire,
        Request(BEGIN),
        Request(ADD_CURRENCIES, [codes, exponents, names]),
        Request(FIND_CURRENCIES, [codes]),
        Request(WRITE_BARRIER),
    )
    return [Currency(*row) for row in found.rows], [row[0] for row in added.rows]


def _number(value: int) -> bytes:
    return str(value).encode()
