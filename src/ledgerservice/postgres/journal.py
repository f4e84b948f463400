"""The statements that write, each once: lock, find earlier, record, commit.

A batch is one database transaction, READ COMMITTED, in two round trips: one reads under the locks
what is to be decided on, one writes what was decided and commits. BEGIN and COMMIT are said here,
and what the server answers to them is looked at.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from datetime import datetime
from itertools import islice

import msgspec
from psycopg.errors import OperationalError, UniqueViolation

from ledgerservice.domain.instructions import Hold, Instruction, Kind, Movement
from ledgerservice.domain.planner import Key, Plan
from ledgerservice.domain.transactions import (
    Account,
    Entry,
    HoldTerms,
    Parents,
    ScheduleTerms,
    Status,
    Transaction,
)
from ledgerservice.postgres import locking as lookups
from ledgerservice.postgres.pipeline import (
    Request,
    Result,
    Wire,
    array,
    number,
    optional_array,
    text_array,
)

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
SELECT id, currency, currency_number, exponent, balance, held, version, floor, last_recorded_at,
       ceiling, restricted
FROM ledger.accounts
WHERE ledger_id = $1 AND id = ANY ($2::bigint[] || ARRAY(
    SELECT DISTINCT -currency_number::bigint FROM ledger.accounts
    WHERE ledger_id = $1 AND id = ANY ($3::bigint[])))
ORDER BY id FOR NO KEY UPDATE
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

INSERT_DETAILS = """
INSERT INTO ledger.details (ledger_id, transaction_id, parent_id, remaining, deciding_balance,
    effective_at, digest, reference, description, metadata, exchange)
SELECT $1, * FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[],
    $6::timestamptz[], $7::bytea[], $8::text[], $9::text[], $10::json[], $11::json[])
"""

INSERT_HOLDS = """
INSERT INTO ledger.holds (ledger_id, transaction_id, account_id, counterparty_id, amount,
    expires_at, capture_at)
SELECT $1, * FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[],
    $6::timestamptz[], $7::timestamptz[])
"""

INSERT_POLICIES = """
INSERT INTO ledger.policies (ledger_id, transaction_id, account_id, seq, floor, ceiling,
    restricted, actor, reason, lowest)
SELECT $1, * FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[], $6::bigint[],
    $7::smallint[], $8::text[], $9::text[], $10::bigint[])
"""

INSERT_SCHEDULES = """
INSERT INTO ledger.schedules (ledger_id, transaction_id, account_id, counterparty_id, amount,
    execute_at)
SELECT $1, * FROM unnest($2::bigint[], $3::bigint[], $4::bigint[], $5::bigint[],
    $6::timestamptz[])
"""

# From what was just written, so that it cannot differ from it.
INSERT_DATED_ENTRIES = """
INSERT INTO ledger.dated_entries (ledger_id, account_id, effective_at, seq, transaction_id,
    amount, recorded_at)
SELECT e.ledger_id, e.account_id, d.effective_at, e.seq, e.transaction_id, e.amount, e.recorded_at
FROM unnest($2::bigint[]) AS wanted (id)
CROSS JOIN LATERAL (
    SELECT effective_at FROM ledger.details
    WHERE ledger_id = $1 AND transaction_id BETWEEN wanted.id AND wanted.id
    ORDER BY transaction_id LIMIT 1) d
CROSS JOIN LATERAL (
    SELECT * FROM ledger.entries
    WHERE ledger_id = $1 AND transaction_id BETWEEN wanted.id AND wanted.id
    ORDER BY transaction_id) e
WHERE e.amount <> 0
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

# As they are written: to format an enum takes 0.3 us.
_POSTED, _DECLINED = (f"{status:d}" for status in Status)
_KINDS = {kind: f"{kind:d}" for kind in Kind}


class CommitUnconfirmed(OperationalError):
    """The server did not confirm the COMMIT, or only with a warning."""


class Locked(msgspec.Struct, frozen=True):
    """What a batch decides on, read under its locks."""

    accounts: dict[int, Account]
    earlier: dict[Key, Transaction]
    parents: Parents
    now: datetime
    blocks: list[int]


async def begin(
    wire: Wire, ledger: int, asked: Sequence[Instruction], blocks: int, *, look: bool = True
) -> Locked:
    """Begin, and `lock`. What the instructions build on is found before: it never changes."""
    parents = await lookups.find_parents(wire, ledger, asked)
    return await lock(wire, ledger, asked, parents, blocks, Request(BEGIN), look=look)


async def lock(
    wire: Wire,
    ledger: int,
    asked: Sequence[Instruction],
    parents: Mapping[int, Transaction],
    blocks: int,
    *before: Request,
    look: bool = True,
) -> Locked:
    """Lock the instructions' accounts, and read what they are decided on.

    `blocks` is the number of blocks of transaction ids to take. What is to be run `before` goes
    along in the same round trip. Without `look` no key is looked for: none counts as seen.
    """
    *_, locked, taken, found = await wire.exchange(
        *before,
        _lock_accounts(ledger, asked, parents),
        Request(TAKE_CLOCK_AND_IDS, [number(blocks)]),
        lookups.earlier(ledger, asked if look else (), parents),
    )
    [(now, ids)] = taken.rows
    accounts = {row[0]: Account(*row) for row in locked.rows}
    rows = found.rows
    states = await lookups.find_states(wire, ledger, asked, parents, accounts, now=now, rows=rows)
    expired = sum(hold.has_expired(now) for hold in states.parents.holds.values())
    if expired:
        more = Request(TAKE_CLOCK_AND_IDS, [number(-(-expired // ID_BLOCK))])
        ids = ids + (await wire.exchange(more))[0].rows[0][1]
    return Locked(accounts, states.earlier, states.parents, now, ids)


def _lock_accounts(
    ledger: int, asked: Sequence[Instruction], parents: Mapping[int, Transaction]
) -> Request:
    accounts: set[int] = set()
    outside: set[int] = set()
    for one in asked:
        if type(one) is Movement or isinstance(one, Hold):
            accounts.add(one.account_id)
            if one.counterparty_id is None:
                outside.add(one.account_id)
            else:
                accounts.add(one.counterparty_id)
        else:
            accounts.update(lookups.named(one))
    for parent in parents.values():
        accounts.update(lookups.touched(parent))
    return Request(LOCK_ACCOUNTS, [number(ledger), array(accounts), array(outside)])


async def record(wire: Wire, ledger: int, plan: Plan) -> None:
    """Write the plan's rows and commit.

    The journal's trigger checks the entries and moves the accounts. Raises CommitUnconfirmed.
    """
    await commit(wire, *await _write(wire, ledger, plan))


async def record_new(wire: Wire, ledger: int, plan: Plan, movements: int) -> bool:
    """`record`, of a plan of so many instructions that was made without looking for keys.

    The unique key judges each movement that writes a row. False, with all of it rolled back, if
    it objects, or if a movement writes none: then its key may have an earlier outcome.
    """
    if len(plan.transactions) - plan.own == movements:
        with suppress(UniqueViolation):
            await record(wire, ledger, plan)
            return True
    await wire.exchange(Request(ROLLBACK))
    return False


async def abandon(wire: Wire) -> None:
    """Roll back what was begun."""
    await wire.exchange(Request(ROLLBACK))


async def write(wire: Wire, ledger: int, plan: Plan) -> None:
    """Write the plan's rows in a transaction that is another's to commit."""
    await wire.exchange(*await _write(wire, ledger, plan))


async def _write(wire: Wire, ledger: int, plan: Plan) -> Iterable[Request]:
    """Copy many rows; few are left to what is still to be sent."""
    if not plan.transactions:
        return [Request(WRITE_BARRIER)]
    sides = list(_sides(ledger, plan))
    dated = list(_dated(ledger, plan))
    if len(plan.transactions) < COPY_FROM_TRANSACTIONS:
        transactions, *entries = _inserts(ledger, plan)
        return [transactions, *sides, *entries, *dated]
    await wire.copy(COPY_TRANSACTIONS, _in_chunks(transaction_rows(ledger, plan)))
    if sides:
        await wire.exchange(*sides)
    await wire.copy(COPY_ENTRIES, _in_chunks(entry_rows(ledger, plan)))
    return dated


async def commit(wire: Wire, *writes: Request) -> list[Result]:
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
    same = [number(ledger), plan.recorded_at.isoformat().encode()]
    rows = plan.transactions
    refusals = [t.refusal for t in rows]
    yield Request(
        INSERT_TRANSACTIONS,
        [
            *same,
            array(t.id for t in rows),
            array(_KINDS[t.kind] for t in rows),
            array(_POSTED if refusal is None else _DECLINED for refusal in refusals),
            array(t.account_id for t in rows),
            optional_array(t.counterparty_id for t in rows),
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


def _sides(ledger: int, plan: Plan) -> Iterator[Request]:
    """What is beyond transactions and entries; the entries' trigger needs it to be there."""
    same = [number(ledger)]
    some = [(t, t.extra) for t in plan.transactions if t.extra is not None]
    if not some:
        return
    details = [extra.detail for _, extra in some]
    refusals = [t.refusal for t, _ in some]
    yield Request(
        INSERT_DETAILS,
        [
            *same,
            array(t.id for t, _ in some),
            optional_array(extra.parent_id for _, extra in some),
            optional_array(extra.remaining for _, extra in some),
            optional_array(None if r is None else r.balance for r in refusals),
            _moments(detail.effective_at for detail in details),
            text_array("\\x" + extra.digest.hex() for _, extra in some),
            text_array(detail.reference for detail in details),
            text_array(detail.description for detail in details),
            text_array(detail.metadata for detail in details),
            text_array(extra.exchange for _, extra in some),
        ],
    )
    holds = [(t.id, extra.hold) for t, extra in some if extra.hold is not None]
    if holds:
        terms = [hold for _, hold in holds]
        columns = [array(i for i, _ in holds), *_terms(terms)]
        columns += [_moments(h.expires_at for h in terms), _moments(h.capture_at for h in terms)]
        yield Request(INSERT_HOLDS, same + columns)
    schedules = [(t.id, extra.schedule) for t, extra in some if extra.schedule is not None]
    if schedules:
        times = [schedule for _, schedule in schedules]
        columns = [array(i for i, _ in schedules), *_terms(times)]
        yield Request(INSERT_SCHEDULES, [*same, *columns, _moments(s.execute_at for s in times)])
    policies = [(t.id, policy) for t, extra in some for policy in extra.policies]
    if policies:
        yield Request(
            INSERT_POLICIES,
            [
                *same,
                array(i for i, _ in policies),
                array(p.account_id for _, p in policies),
                array(p.seq for _, p in policies),
                array(p.floor for _, p in policies),
                optional_array(p.ceiling for _, p in policies),
                array(p.restricted for _, p in policies),
                text_array(p.actor for _, p in policies),
                text_array(p.reason for _, p in policies),
                optional_array(p.lowest for _, p in policies),
            ],
        )


def _terms(rows: Sequence[HoldTerms] | Sequence[ScheduleTerms]) -> list[bytes]:
    return [
        array(row.account_id for row in rows),
        array(row.counterparty_id for row in rows),
        array(row.amount for row in rows),
    ]


def _moments(moments: Iterable[datetime | None]) -> bytes:
    return text_array(None if moment is None else moment.isoformat() for moment in moments)


def _dated(ledger: int, plan: Plan) -> Iterator[Request]:
    """The entries that take effect at another moment than they are recorded at."""
    dated = [
        t.id
        for t in plan.transactions
        if t.extra is not None and t.extra.detail.effective_at is not None and t.entries
    ]
    if dated:
        yield Request(INSERT_DATED_ENTRIES, [number(ledger), array(dated)])


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
            status, decided = _POSTED, "\\N\t\\N\t\\N\t\\N"
        else:
            status = _DECLINED
            decided = (
                f"{refusal.reason}\t{refusal.account_id}\t{refusal.version}\t{refusal.available}"
            )
        key = t.key.replace("\\", "\\\\")
        other = "\\N" if t.counterparty_id is None else t.counterparty_id
        yield (
            f"{ledger}\t{t.id}\t{_KINDS[t.kind]}\t{status}\t{t.account_id}\t{other}"
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
