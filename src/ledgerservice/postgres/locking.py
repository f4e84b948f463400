"""Everything that a batch reads: its accounts, which it locks, earlier outcomes, and parents.

What never changes is read before the locks, everything else in statements of its own after them:
a statement that locks and also reads another table would read an older snapshot.
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import datetime
from itertools import chain
from types import MappingProxyType
from typing import NamedTuple

import msgspec

from ledgerservice.domain.accounts import Account
from ledgerservice.domain.batch_state import AccountState
from ledgerservice.domain.instructions import (
    CrossCredit,
    Crossing,
    CrossingBack,
    Hold,
    Instruction,
    Kind,
    Movement,
    Step,
)
from ledgerservice.domain.planner import Key, origin_of
from ledgerservice.domain.rules import RULES, Lookup
from ledgerservice.domain.transactions import HoldState, HoldTerms, Parents, Transaction
from ledgerservice.postgres.pipeline import (
    Request,
    Result,
    Rows,
    Wire,
    array,
    number,
    text_array,
    timestamp,
)
from ledgerservice.postgres.rows import FIND_DETAILS, FIND_ENTRIES, TRANSACTION, transactions_of

ID_BLOCK = 100  # the increment of the sequence ledger.transaction_id

ACCOUNT = ", ".join(Account.__struct_fields__)

# In ascending order of ids, so that batches cannot deadlock; NO KEY, so that opening accounts is
# not blocked. The external accounts are those of the currencies of $3, which never change.
LOCK_ACCOUNTS = f"""
SELECT {ACCOUNT}
FROM ledger.accounts
WHERE ledger_id = $1 AND id = ANY ($2::bigint[] || ARRAY(
    SELECT DISTINCT -currency_number::bigint FROM ledger.accounts
    WHERE ledger_id = $1 AND id = ANY ($3::bigint[])))
ORDER BY id FOR NO KEY UPDATE
"""

# The same one by one, in the order of the array. Up to PostgreSQL 16 the look-up of an array in an
# index has no order, and without a sort the statement above reads every account of the ledger.
# With the order it is the cheaper one: 12 ms instead of 19 for 8,000 accounts.
LOCK_ONE_BY_ONE = f"""
SELECT {ACCOUNT}
FROM unnest((SELECT array_agg(DISTINCT id) FROM (
    SELECT unnest($2::bigint[]) AS id
    UNION ALL
    SELECT -a.currency_number::bigint FROM unnest($3::bigint[]) AS customers (id)
    CROSS JOIN LATERAL (
        SELECT currency_number FROM ledger.accounts
        WHERE ledger_id = $1 AND id BETWEEN customers.id AND customers.id
        ORDER BY id LIMIT 1) a) named)) AS ascending (named_id)
CROSS JOIN LATERAL (
    SELECT {ACCOUNT} FROM ledger.accounts
    WHERE ledger_id = $1 AND id = named_id FOR NO KEY UPDATE) a
"""
ORDERED_ARRAYS = 180_000
"""The first server version that has been tested to look up an array in its order."""

# For a batch that overlaps the one before. The journal's trigger locks and judges what was read.
READ_ACCOUNTS, READ_ONE_BY_ONE = (
    statement.replace("FOR NO KEY UPDATE", "") for statement in (LOCK_ACCOUNTS, LOCK_ONE_BY_ONE)
)

# The clearing accounts of $2 that do not exist yet.
OPEN_CLEARING = "SELECT ledger.open_clearing($1, $2::bigint[])"

# Before the ids, by every writer that takes some. Whoever reads the sequence, and then waits until
# no older database transaction is open, has every id up to there for good: the feed's safe id.
TAKE_XID = "SELECT pg_current_xact_id()"
TAKE_CLOCK_AND_IDS = """
SELECT greatest(clock_timestamp(), transaction_timestamp()), ARRAY(
    SELECT nextval('ledger.transaction_id') FROM generate_series(1, $1::integer))
"""

# LATERAL with its LIMIT makes it one index look-up for each row. Only the right index fulfils the
# ORDER BY without a sort, so that one is used, whatever the planner believes of a table's size.
_ACCOUNT_OF_T = """CROSS JOIN LATERAL (
    SELECT currency, exponent FROM ledger.accounts
    WHERE ledger_id = $1 AND id BETWEEN t.account_id AND t.account_id ORDER BY id LIMIT 1) a"""

FIND_EARLIER = f"""
SELECT {TRANSACTION}
FROM unnest($2::bigint[], $3::smallint[], $4::text[])
    AS requested (account_id, origin, idempotency_key)
CROSS JOIN LATERAL (
    SELECT * FROM ledger.transactions
    WHERE ledger_id = $1 AND account_id = requested.account_id AND origin = requested.origin
      AND idempotency_key BETWEEN requested.idempotency_key AND requested.idempotency_key
    ORDER BY idempotency_key LIMIT 1) t
{_ACCOUNT_OF_T}
"""

FIND_TRANSACTIONS = f"""
SELECT {TRANSACTION}
FROM unnest($2::bigint[]) AS requested (id)
CROSS JOIN LATERAL (
    SELECT * FROM ledger.transactions
    WHERE ledger_id = $1 AND id BETWEEN requested.id AND requested.id ORDER BY id LIMIT 1) t
{_ACCOUNT_OF_T}
"""

_HOLD = f"transaction_id, {', '.join(HoldTerms.__struct_fields__)}, remaining, ends_at"

# The holds of $2, and those of the accounts of $3 that have ended.
FIND_HOLDS = f"""
SELECT {_HOLD} FROM unnest($2::bigint[]) AS requested (id)
CROSS JOIN LATERAL (
    SELECT * FROM ledger.holds
    WHERE ledger_id = $1 AND transaction_id BETWEEN requested.id AND requested.id
    ORDER BY transaction_id LIMIT 1) h
UNION
SELECT {_HOLD} FROM unnest($3::bigint[]) AS reserving (id)
CROSS JOIN LATERAL (
    SELECT * FROM ledger.holds
    WHERE ledger_id = $1 AND account_id BETWEEN reserving.id AND reserving.id
      AND remaining > 0 AND ends_at <= $4
    ORDER BY account_id, ends_at) h
"""

# The same in the round trip of the locks, before their time is known.
FIND_HOLDS_NOW = FIND_HOLDS.replace(
    "ends_at <= $4", "ends_at <= (SELECT greatest(clock_timestamp(), transaction_timestamp()))"
)

FIND_REVERSED = f"""
SELECT requested.id, e.account_id, sum(e.amount)::bigint
FROM (SELECT DISTINCT unnest($2::bigint[]) AS id) requested
CROSS JOIN LATERAL (
    SELECT transaction_id FROM ledger.details
    WHERE ledger_id = $1 AND parent_id BETWEEN requested.id AND requested.id ORDER BY parent_id) d
CROSS JOIN LATERAL (
    SELECT id, kind FROM ledger.transactions
    WHERE ledger_id = $1 AND id BETWEEN d.transaction_id AND d.transaction_id
    ORDER BY id LIMIT 1) t
CROSS JOIN LATERAL (
    SELECT account_id, amount FROM ledger.entries
    WHERE ledger_id = $1 AND transaction_id BETWEEN t.id AND t.id ORDER BY transaction_id) e
WHERE t.kind = {Kind.REVERSAL:d}
GROUP BY requested.id, e.account_id
"""

# What transfers back take, or have taken.
FIND_MOVED_BACK = """
SELECT requested.id, h.account_id, -sum(h.captured + h.remaining)::bigint
FROM (SELECT DISTINCT unnest($2::bigint[]) AS id) requested
CROSS JOIN LATERAL (
    SELECT transaction_id FROM ledger.details
    WHERE ledger_id = $1 AND parent_id BETWEEN requested.id AND requested.id ORDER BY parent_id) d
CROSS JOIN LATERAL (
    SELECT account_id, captured, remaining FROM ledger.holds
    WHERE ledger_id = $1 AND transaction_id BETWEEN d.transaction_id AND d.transaction_id
    ORDER BY transaction_id LIMIT 1) h
GROUP BY requested.id, h.account_id
"""

FIND_OPEN_SCHEDULES = """
SELECT s.transaction_id FROM unnest($2::bigint[]) AS requested (id)
CROSS JOIN LATERAL (
    SELECT transaction_id, settled_by FROM ledger.schedules
    WHERE ledger_id = $1 AND transaction_id BETWEEN requested.id AND requested.id
    ORDER BY transaction_id LIMIT 1) s
WHERE coalesce(s.settled_by, 0) = 0
"""


class Locked(msgspec.Struct, frozen=True):
    """The state that a batch is decided on, read under its locks.

    `blocks` are the first ids of the blocks of transaction ids that it took. They belong to this
    database transaction: an id that was kept for a later one would break the order of the feed.
    """

    accounts: dict[int, Account]
    earlier: dict[Key, Transaction]
    parents: Parents
    now: datetime
    blocks: list[int]

    def ids(self) -> Iterator[int]:
        """The transaction ids, in ascending order: later than any on the locked accounts."""
        return ids_of(self.blocks)


def ids_of(blocks: Iterable[int]) -> Iterator[int]:
    """The ids of blocks, in order."""
    return (number for block in blocks for number in range(block, block + ID_BLOCK))


async def find_parents(
    wire: Wire,
    ledger: int,
    instructions: Sequence[Instruction],
    known: Mapping[tuple[int, int], Transaction] = MappingProxyType({}),
) -> dict[int, Transaction]:
    """The recorded transactions that instructions build on, by id; they never change.

    Those that are `known`, by ledger and id, are not read.
    """
    ids = [one.parent_id for one in instructions if isinstance(one, Step)]
    parents = {one: known[ledger, one] for one in ids if (ledger, one) in known}
    unknown = [one for one in ids if one not in parents]
    return parents | await _find_transactions(wire, ledger, unknown) if unknown else parents


async def _find_transactions(wire: Wire, ledger: int, ids: Sequence[int]) -> dict[int, Transaction]:
    found, *beside = await wire.exchange(
        Request(FIND_TRANSACTIONS, [number(ledger), array(ids)]), *_beside(ledger, ids)
    )
    return {one.id: one for one in _transactions(found.rows, beside)}


class Glimpse(NamedTuple):
    """The state that a batch is decided on before the one before it has committed.

    `accounts` were read without locks, `continued` has the others as the batch before leaves them.
    """

    accounts: dict[int, Account]
    continued: dict[int, AccountState]
    now: datetime
    blocks: list[int]


async def glimpse(
    wire: Wire,
    ledger: int,
    movements: Sequence[Instruction],
    before: Mapping[int, AccountState],
    *begin: Request,
) -> Glimpse:
    """Read the accounts that are not in `before`, without locks; then take the clock and ids."""
    named, of_external = _named(movements)
    for customer in tuple(of_external):
        if (state := before.get(customer)) is not None:
            named.add(state.account.external_id)
            of_external.remove(customer)
    continued = {one: before[one] for one in named if one in before}
    ordered = wire.server_version >= ORDERED_ARRAYS
    statement = READ_ACCOUNTS if ordered else READ_ONE_BY_ONE
    unknown = [number(ledger), array(named - continued.keys()), array(of_external)]
    *_, read, _, taken = await wire.exchange(
        *begin, Request(statement, unknown), Request(TAKE_XID), take_ids(len(movements))
    )
    [(now, blocks)] = taken.rows
    accounts = {row[0]: Account(*row) for row in read.rows}
    # The external accounts of currencies that were not known.
    continued |= {one: before[one] for one in accounts if one in before}
    return Glimpse(accounts, continued, now, blocks)


async def lock(
    wire: Wire,
    ledger: int,
    instructions: Sequence[Instruction],
    parents: Mapping[int, Transaction],
    *before: Request,
    look_up_keys: bool = True,
    may_open: bool = True,
) -> Locked:
    """Lock the instructions' accounts, and read the state that they are decided on.

    The requests `before` are sent in the same round trip. Without `look_up_keys` no key counts as
    seen. Clearing accounts that are missing are opened first, if it `may_open` them.
    """
    requests = [
        *before,
        _lock_accounts(wire, ledger, instructions, parents),
        Request(TAKE_XID),
        take_ids(len(instructions)),
        _find_earlier(ledger, instructions if look_up_keys else (), parents),
    ]
    steps = _find_holds(ledger, instructions, parents)
    results = await wire.exchange(*requests, *steps)
    locked, _, taken, earlier_rows = results[len(requests) - 4 : len(requests)]
    [(now, blocks)] = taken.rows
    accounts = {row[0]: Account(*row) for row in locked.rows}
    if may_open and (missing := _clearing_accounts(instructions) - accounts.keys()):
        await wire.exchange(Request(OPEN_CLEARING, [number(ledger), array(sorted(missing))]))
        options = {"look_up_keys": look_up_keys, "may_open": False}
        return await lock(wire, ledger, instructions, parents, **options)
    reading = _Reading(wire, ledger, now, results[len(requests) :])
    earlier, states = await reading.read(instructions, parents, accounts, earlier_rows.rows)
    expired = sum(hold.has_expired(now) for hold in states.holds.values())
    if expired:
        [more] = await wire.exchange(take_ids(expired))
        blocks = blocks + more.rows[0][1]
    return Locked(accounts, earlier, states, now, blocks)


def _find_holds(
    ledger: int, instructions: Sequence[Instruction], parents: Mapping[int, Transaction]
) -> list[Request]:
    """Finds the holds that instructions build on, and what has ended on all the accounts."""
    ids = _parents_by_lookup(instructions).get(Lookup.HOLD) if parents else None
    if not ids:
        return []
    accounts, _ = _named(instructions)
    accounts.update(chain.from_iterable(map(accounts_of, parents.values())))
    customers = [account for account in accounts if account > 0]
    return [Request(FIND_HOLDS_NOW, [number(ledger), array(ids), array(customers)])]


def take_ids(ids: int) -> Request:
    """Takes the clock, and blocks that hold so many transaction ids."""
    return Request(TAKE_CLOCK_AND_IDS, [number(-(-ids // ID_BLOCK))])


def _lock_accounts(
    wire: Wire,
    ledger: int,
    instructions: Sequence[Instruction],
    parents: Mapping[int, Transaction],
) -> Request:
    accounts, of_external = _named(instructions)
    for parent in parents.values():
        accounts.update(accounts_of(parent))
    return lock_accounts(wire, ledger, accounts, of_external)


def _clearing_accounts(instructions: Sequence[Instruction]) -> set[int]:
    forms = Crossing, CrossingBack, CrossCredit
    return {one.clearing_id for one in instructions if isinstance(one, forms)}


def _named(instructions: Sequence[Instruction]) -> tuple[set[int], set[int]]:
    """The accounts that instructions name, and those of whose currency they move the external."""
    accounts: set[int] = set()
    of_external: set[int] = set()
    for one in instructions:
        if type(one) is Movement or isinstance(one, Hold):
            accounts.add(one.account_id)
            if one.counterparty_id is None:
                of_external.add(one.account_id)
            else:
                accounts.add(one.counterparty_id)
        else:
            accounts.update(RULES[type(one)].names(one))
    return accounts, of_external


def lock_accounts(
    wire: Wire, ledger: int, accounts: Iterable[int], of_external: Iterable[int] = ()
) -> Request:
    """Locks accounts, and the external accounts of the currencies of others, by ascending ids."""
    statement = LOCK_ACCOUNTS if wire.server_version >= ORDERED_ARRAYS else LOCK_ONE_BY_ONE
    return Request(statement, [number(ledger), array(accounts), array(of_external)])


def accounts_of(parent: Transaction) -> Iterator[int]:
    """The accounts that building on a transaction can move."""
    yield parent.account_id
    yield from (entry.account_id for entry in parent.entries)
    terms = None if parent.extra is None else parent.extra.terms
    if terms is not None:
        yield from (terms.account_id, terms.counterparty_id)


def _find_earlier(
    ledger: int, instructions: Sequence[Instruction], parents: Mapping[int, Transaction]
) -> Request:
    """Finds the outcomes that the instructions' keys have already."""
    keys: list[Key] = []
    for one in instructions:
        if not isinstance(one, Step):
            keys.append((one.account_id, origin_of(one), one.key))
        elif one.parent_id in parents:
            keys.append((parents[one.parent_id].account_id, one.origin, one.key))
    accounts, origins, texts = zip(*keys, strict=True) if keys else ((), (), ())
    parameters = [array(accounts), array(map(int, origins)), text_array(texts)]
    return Request(FIND_EARLIER, [number(ledger), *parameters])


NOTHING = Result([], "")


class _Reading:
    """The second round trip of a lock; none if there is nothing left to read."""

    def __init__(self, wire: Wire, ledger: int, now: datetime, holds: Sequence[Result]) -> None:
        """`holds` is the result of FIND_HOLDS_NOW, if it was sent with the locks."""
        self._known = {Lookup.HOLD: holds[0]} if holds else {}
        self._wire = wire
        self._ledger = ledger
        self._now = now

    async def read(
        self,
        instructions: Sequence[Instruction],
        parents: Mapping[int, Transaction],
        accounts: Mapping[int, Account],
        earlier_rows: Rows,
    ) -> tuple[dict[Key, Transaction], Parents]:
        """The earlier outcomes by key, and the state of what the instructions build on."""
        held = [account.id for account in accounts.values() if account.held]
        if not earlier_rows and not parents and not held:
            return {}, Parents()
        by_lookup = _parents_by_lookup(instructions)
        requests = self._requests(by_lookup, held)
        ids = [row[0] for row in earlier_rows]
        beside = _beside(self._ledger, ids) if ids else []
        results = []
        if beside or requests:
            results = await self._wire.exchange(*beside, *requests.values())
        by_lookup_rows = self._known | dict(zip(requests, results[len(beside) :], strict=True))
        earlier = _transactions(earlier_rows, results[: len(beside)] or (NOTHING, NOTHING))
        states = await self._states(dict(parents), by_lookup_rows)
        return {(one.account_id, one.origin, one.key): one for one in earlier}, states

    def _requests(
        self, by_lookup: Mapping[Lookup, list[int]], held: list[int]
    ) -> dict[Lookup, Request]:
        """A request for each look-up that has something to find."""
        ledger = number(self._ledger)
        holds = by_lookup.get(Lookup.HOLD, [])
        requests: dict[Lookup, Request] = {}
        if (holds or held) and not self._known:
            parameters = [ledger, array(holds), array(held), timestamp(self._now)]
            requests[Lookup.HOLD] = Request(FIND_HOLDS, parameters)
        for lookup, statement in _BY_ID.items():
            if lookup in by_lookup:
                requests[lookup] = Request(statement, [ledger, array(by_lookup[lookup])])
        return requests

    async def _states(
        self, parents: dict[int, Transaction], found: Mapping[Lookup, Result]
    ) -> Parents:
        holds = [
            HoldState(row[0], HoldTerms(*row[1:-2]), *row[-2:])
            for row in found.get(Lookup.HOLD, NOTHING).rows
        ]
        # The transactions of expired holds, which nobody named.
        others = [hold.id for hold in holds if hold.id not in parents]
        if others:
            parents |= await _find_transactions(self._wire, self._ledger, others)
        sums: dict[int, dict[int, int]] = {}
        back = (Lookup.REVERSED_AMOUNTS, Lookup.MOVED_BACK)
        for parent, account, amount in chain.from_iterable(
            found.get(lookup, NOTHING).rows for lookup in back
        ):
            sums.setdefault(parent, {})[account] = amount
        schedules = found.get(Lookup.OPEN_SCHEDULE, NOTHING).rows
        return Parents(
            parents,
            {hold.id: hold for hold in holds},
            sums,
            frozenset(row[0] for row in schedules),
        )


_BY_ID = {
    Lookup.REVERSED_AMOUNTS: FIND_REVERSED,
    Lookup.OPEN_SCHEDULE: FIND_OPEN_SCHEDULES,
    Lookup.MOVED_BACK: FIND_MOVED_BACK,
}


def _parents_by_lookup(instructions: Sequence[Instruction]) -> dict[Lookup, list[int]]:
    ids: dict[Lookup, list[int]] = {}
    for one in instructions:
        if isinstance(one, Step):
            lookup = RULES[type(one)].lookup
            assert lookup is not None
            ids.setdefault(lookup, []).append(one.parent_id)
    return ids


def _beside(ledger: int, ids: Sequence[int]) -> list[Request]:
    """What transactions have beside their rows."""
    parameters = [number(ledger), array(ids)]
    return [Request(FIND_ENTRIES, parameters), Request(FIND_DETAILS, parameters)]


def _transactions(rows: Rows, beside: Sequence[Result]) -> Iterator[Transaction]:
    entries, details = beside
    return transactions_of(rows, entries.rows, details.rows)
