"""What a batch is decided on, beside its accounts: earlier outcomes, and what it builds on.

What never changes is found before the locks, all else in statements of its own after them:
together with the locks they would read an older snapshot.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from typing import Any

import msgspec

from ledgerservice.domain.instructions import (
    Cancellation,
    Capture,
    Detail,
    Execution,
    General,
    Instruction,
    Kind,
    Movement,
    PolicyChange,
    Release,
    Reversal,
    Schedule,
    Step,
)
from ledgerservice.domain.planner import DETAILED, Key
from ledgerservice.domain.transactions import (
    Account,
    Entry,
    Extra,
    HoldState,
    HoldTerms,
    Parents,
    Policy,
    ScheduleTerms,
    Transaction,
)
from ledgerservice.postgres.pipeline import Request, Result, Rows, Wire, array, number, text_array

TRANSACTION = """t.id, t.kind, t.account_id, t.counterparty_id, t.idempotency_key, t.amount,
       a.currency, a.exponent, t.recorded_at, t.renderer, t.decline_reason,
       t.deciding_account_id, t.deciding_version, t.deciding_available"""

# LATERAL with its LIMIT makes it one look into an index for each row, and the ORDER BY, which only
# the right index fulfils without a sort, that one, whatever the planner believes of a table's size.
_ACCOUNT = """CROSS JOIN LATERAL (
    SELECT currency, exponent FROM ledger.accounts
    WHERE ledger_id = $1 AND id BETWEEN t.account_id AND t.account_id ORDER BY id LIMIT 1) a"""

FIND_EARLIER = f"""
SELECT {TRANSACTION}
FROM unnest($2::bigint[], $3::text[]) AS wanted (account_id, idempotency_key)
CROSS JOIN LATERAL (
    SELECT * FROM ledger.transactions
    WHERE ledger_id = $1 AND account_id = wanted.account_id
      AND idempotency_key BETWEEN wanted.idempotency_key AND wanted.idempotency_key
    ORDER BY idempotency_key LIMIT 1) t
{_ACCOUNT}
"""

FIND_TRANSACTIONS = f"""
SELECT {TRANSACTION}
FROM unnest($2::bigint[]) AS wanted (id)
CROSS JOIN LATERAL (
    SELECT * FROM ledger.transactions
    WHERE ledger_id = $1 AND id BETWEEN wanted.id AND wanted.id ORDER BY id LIMIT 1) t
{_ACCOUNT}
"""

FIND_ENTRIES = """
SELECT account_id, seq, transaction_id, currency_number, amount, held_change, balance, held
FROM (SELECT DISTINCT unnest($2::bigint[]) AS id) wanted
CROSS JOIN LATERAL (
    SELECT * FROM ledger.entries
    WHERE ledger_id = $1 AND transaction_id BETWEEN wanted.id AND wanted.id
    ORDER BY transaction_id) e
"""

# Each with the codes and exponents of the currencies that its entries are in; a decline with those
# of the account that decided it.
FIND_DETAILS = """
SELECT d.transaction_id, d.parent_id, d.remaining, d.deciding_balance, d.digest, d.description,
       d.reference, d.effective_at, d.metadata::text, d.exchange::text,
       h.account_id, h.counterparty_id, h.amount, h.expires_at, h.capture_at,
       s.account_id, s.counterparty_id, s.amount, s.execute_at,
       p.account_id, p.seq, p.floor, p.ceiling, p.restricted, p.actor, p.reason,
       c.numbers, c.codes, c.exponents
FROM (SELECT DISTINCT unnest($2::bigint[]) AS id) wanted
CROSS JOIN LATERAL (
    SELECT * FROM ledger.details
    WHERE ledger_id = $1 AND transaction_id BETWEEN wanted.id AND wanted.id
    ORDER BY transaction_id LIMIT 1) d
LEFT JOIN LATERAL (
    SELECT * FROM ledger.holds
    WHERE ledger_id = $1 AND transaction_id BETWEEN wanted.id AND wanted.id
    ORDER BY transaction_id LIMIT 1) h ON true
LEFT JOIN LATERAL (
    SELECT * FROM ledger.schedules
    WHERE ledger_id = $1 AND transaction_id BETWEEN wanted.id AND wanted.id
    ORDER BY transaction_id LIMIT 1) s ON true
LEFT JOIN LATERAL (
    SELECT * FROM ledger.policies
    WHERE ledger_id = $1 AND transaction_id BETWEEN wanted.id AND wanted.id AND lowest IS NULL
    ORDER BY transaction_id LIMIT 1) p ON true
CROSS JOIN LATERAL (
    SELECT array_agg(c.number) AS numbers, array_agg(c.code) AS codes,
           array_agg(c.exponent) AS exponents
    FROM ledger.currencies c
    WHERE c.number IN (
        (SELECT currency_number FROM ledger.entries
         WHERE ledger_id = d.ledger_id AND transaction_id BETWEEN d.transaction_id
                                                              AND d.transaction_id
         ORDER BY transaction_id)
        UNION ALL
        SELECT a.currency_number
        FROM (SELECT deciding_account_id FROM ledger.transactions
              WHERE ledger_id = d.ledger_id AND id BETWEEN d.transaction_id AND d.transaction_id
              ORDER BY id LIMIT 1) t
        CROSS JOIN LATERAL (
            SELECT currency_number FROM ledger.accounts
            WHERE ledger_id = d.ledger_id AND id BETWEEN t.deciding_account_id
                                                     AND t.deciding_account_id
            ORDER BY id LIMIT 1) a)
) c
"""

_HOLD = """transaction_id, account_id, counterparty_id, amount, expires_at, capture_at, remaining,
ends_at"""

FIND_HOLDS = f"""
SELECT {_HOLD} FROM unnest($2::bigint[]) AS wanted (id)
CROSS JOIN LATERAL (
    SELECT * FROM ledger.holds
    WHERE ledger_id = $1 AND transaction_id BETWEEN wanted.id AND wanted.id
    ORDER BY transaction_id LIMIT 1) h
UNION
SELECT {_HOLD} FROM unnest($3::bigint[]) AS reserving (id)
CROSS JOIN LATERAL (
    SELECT * FROM ledger.holds
    WHERE ledger_id = $1 AND account_id BETWEEN reserving.id AND reserving.id
      AND remaining > 0 AND ends_at <= $4
    ORDER BY account_id, ends_at) h
"""

FIND_REVERSED = """
SELECT wanted.id, e.account_id, sum(e.amount)::bigint
FROM (SELECT DISTINCT unnest($2::bigint[]) AS id) wanted
CROSS JOIN LATERAL (
    SELECT transaction_id FROM ledger.details
    WHERE ledger_id = $1 AND parent_id BETWEEN wanted.id AND wanted.id ORDER BY parent_id) d
CROSS JOIN LATERAL (
    SELECT id, kind FROM ledger.transactions
    WHERE ledger_id = $1 AND id BETWEEN d.transaction_id AND d.transaction_id
    ORDER BY id LIMIT 1) t
CROSS JOIN LATERAL (
    SELECT account_id, amount FROM ledger.entries
    WHERE ledger_id = $1 AND transaction_id BETWEEN t.id AND t.id ORDER BY transaction_id) e
WHERE t.kind = $3
GROUP BY wanted.id, e.account_id
"""

FIND_OPEN_SCHEDULES = """
SELECT transaction_id FROM ledger.schedules
WHERE ledger_id = $1 AND transaction_id = ANY ($2::bigint[]) AND coalesce(settled_by, 0) = 0
"""


NOTHING = Result([], "")


class States(msgspec.Struct, frozen=True):
    """What was read under the locks."""

    earlier: dict[Key, Transaction]
    parents: Parents


def named(asked: Instruction) -> Iterator[int]:
    """The accounts that an instruction names."""
    if isinstance(asked, General):
        yield from (leg.account_id for leg in asked.legs)
        if asked.exchange is not None and asked.exchange.rounding_account_id is not None:
            yield asked.exchange.rounding_account_id
    elif isinstance(asked, PolicyChange):
        yield asked.account_id
    elif isinstance(asked, Schedule):
        yield asked.account_id
        yield asked.counterparty_id


def touched(parent: Transaction) -> Iterator[int]:
    """The accounts that building on a transaction can move."""
    yield parent.account_id
    yield from (entry.account_id for entry in parent.entries)
    extra = parent.extra
    for terms in () if extra is None else (extra.hold, extra.schedule):
        if terms is not None:
            yield from (terms.account_id, terms.counterparty_id)


async def find_parents(
    wire: Wire, ledger: int, asked: Sequence[Instruction]
) -> dict[int, Transaction]:
    """The recorded transactions that instructions build on, by id."""
    wanted = [one.parent_id for one in asked if isinstance(one, Step)]
    if not wanted:
        return {}
    rows, *others = await wire.exchange(
        Request(FIND_TRANSACTIONS, [number(ledger), array(wanted)]), *_parts(ledger, wanted)
    )
    return {found.id: found for found in _assembled(rows.rows, *others)}


def earlier(
    ledger: int, asked: Sequence[Instruction], parents: Mapping[int, Transaction]
) -> Request:
    """Finds the outcomes that the instructions' keys have already."""
    scopes: list[int] = []
    keys: list[str] = []
    for one in asked:
        scope = one.account_id if type(one) is Movement else _scope(one, parents)
        if scope is not None:
            scopes.append(scope)
            keys.append(one.key)
    return Request(FIND_EARLIER, [number(ledger), array(scopes), text_array(keys)])


def _scope(asked: Instruction, parents: Mapping[int, Transaction]) -> int | None:
    if isinstance(asked, Step):
        parent = parents.get(asked.parent_id)
        return None if parent is None else parent.account_id
    return asked.account_id


async def find_states(
    wire: Wire,
    ledger: int,
    asked: Sequence[Instruction],
    parents: Mapping[int, Transaction],
    accounts: Mapping[int, Account],
    *,
    now: datetime,
    rows: Rows,
) -> States:
    """All that is left to be read, in one round trip; in none, where nothing is.

    `rows` are those of `earlier`. Of the holds that were expired by `now` all are wanted whose
    accounts are locked.
    """
    reserving = [account.id for account in accounts.values() if account.held]
    if not rows and not parents and not reserving:
        return States({}, Parents())
    own = number(ledger)
    ids = [row[0] for row in rows]
    holds = _parents_of((Capture, Release), asked)
    reversals = _parents_of((Reversal,), asked)
    schedules = _parents_of((Execution, Cancellation), asked)
    wanted = _parts(ledger, ids) if ids else []
    if holds or reserving:
        accounts_of = [array(reserving), now.isoformat().encode()]
        wanted.append(Request(FIND_HOLDS, [own, array(holds), *accounts_of]))
    if reversals:
        wanted.append(Request(FIND_REVERSED, [own, array(reversals), number(Kind.REVERSAL)]))
    if schedules:
        wanted.append(Request(FIND_OPEN_SCHEDULES, [own, array(schedules)]))
    results = iter(await wire.exchange(*wanted))
    parts = (next(results), next(results)) if ids else (NOTHING, NOTHING)
    held = next(results) if holds or reserving else NOTHING
    reversed_ = next(results) if reversals else NOTHING
    open_ = next(results) if schedules else NOTHING
    sums: dict[int, dict[int, int]] = {}
    for parent, account, amount in reversed_.rows:
        sums.setdefault(parent, {})[account] = amount
    states = [HoldState(row[0], HoldTerms(*row[1:6]), *row[6:]) for row in held.rows]
    known = dict(parents)
    expired = [state.id for state in states if state.id not in known]
    if expired:
        known |= await find_parents(wire, ledger, [Release(i, "") for i in expired])
    return States(
        {(found.account_id, found.key): found for found in _assembled(rows, *parts)},
        Parents(
            known,
            {state.id: state for state in states},
            sums,
            frozenset(row[0] for row in open_.rows),
        ),
    )


def _parents_of(kinds: tuple[type[Any], ...], asked: Iterable[Instruction]) -> list[int]:
    return [one.parent_id for one in asked if isinstance(one, kinds)]


def _parts(ledger: int, ids: Sequence[int]) -> list[Request]:
    """What transactions have beside their rows."""
    values = [number(ledger), array(ids)]
    return [Request(FIND_ENTRIES, values), Request(FIND_DETAILS, values)]


def _assembled(rows: Rows, entries: Result, details: Result) -> Iterator[Transaction]:
    """Transactions of their rows, entries and details."""
    by_transaction: dict[int, list[Entry]] = {}
    for row in entries.rows:
        by_transaction.setdefault(row[2], []).append(Entry(*row))
    extras = {row[0]: row for row in details.rows}
    for row in rows:
        found = by_transaction.get(row[0], ())
        if row[9] != DETAILED:
            yield Transaction.of_row(row, found)
            continue
        extra, deciding_balance = extra_of(extras[row[0]])
        yield Transaction.of_row(row, found, extra, deciding_balance)


def extra_of(row: tuple[Any, ...]) -> tuple[Extra, int | None]:
    """What FIND_DETAILS found of a transaction, and the balance that a decline was decided on."""
    _, parent, remaining, deciding_balance, digest, description, reference, effective_at = row[:8]
    metadata, exchange, hold, schedule, policy = row[8], row[9], row[10:15], row[15:19], row[19:26]
    currencies = zip(*(column or () for column in row[26:29]), strict=True)
    extra = Extra(
        bytes(digest),
        Detail(description, reference, effective_at, metadata),
        {numbered: (code, exponent) for numbered, code, exponent in currencies},
        parent,
        remaining,
        exchange,
        None if hold[0] is None else HoldTerms(*hold),
        () if policy[0] is None else (Policy(*policy),),
        None if schedule[0] is None else ScheduleTerms(*schedule),
    )
    return extra, deciding_balance
