"""Lists of transactions by any filter, newest first, a page at a time.

A filter, or a status and a kind, has an index that finds its rows in the order of the list: then a
page costs a page. Of several filters each is a way to the same page, and none knows how far it is:
so all are tried with a small budget of rows, then with a larger one, until one has the page. That
costs a few times what the best of them does, whatever matches, rare or frequent, now or long ago.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import text

from ledgerservice.model import Status, Transaction
from ledgerservice.reads import Reader
from ledgerservice.requests import Kind

FIRST_BUDGET_ROWS = 1_000
BUDGET_GROWTH = 4
MOST_ACCOUNTS = 1_000
FEW_ACCOUNTS = 20
"""Each of so few accounts is asked for its page; more are worth a try; the most are not."""

LAST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
PLACE = tuple[datetime, int]
AT_THE_TOP: PLACE = (LAST, 2**63 - 1)


class Filter(msgspec.Struct, frozen=True):
    """Which transactions are listed; None: all. `metadata` is the text of a JSON object that
    theirs contain; amounts are in minor units of `currency`; [since, until) is when they were
    recorded.
    """

    account_id: int | None = None
    owner: str | None = None
    kind: Kind | None = None
    status: Status | None = None
    currency: str | None = None
    least: int | None = None
    most: int | None = None
    since: datetime | None = None
    until: datetime | None = None
    reference: str | None = None
    metadata: str | None = None


PINS = text("""
SELECT set_config(name, 'off', true)
FROM unnest(ARRAY['enable_seqscan', 'enable_hashjoin', 'enable_mergejoin', 'jit']) AS name
""")

_COLUMNS = """t.id, t.kind, t.status, t.account_id, t.counterparty_id, t.idempotency_key,
t.amount, t.recorded_at, t.renderer, t.decline_reason, t.deciding_account_id, t.deciding_version,
t.deciding_available"""

# What each filter asks of a transaction `t`, wherever it was found.
_CONDITIONS = {
    "account_id": """(t.account_id = :account_id OR EXISTS (
        SELECT FROM ledger.entries e WHERE e.ledger_id = :ledger
          AND e.transaction_id = t.id AND e.account_id = :account_id))""",
    "owner": """((SELECT o.owner FROM ledger.accounts o
        WHERE o.ledger_id = :ledger AND o.id = t.account_id AND o.id > 0) = :owner
        OR EXISTS (SELECT FROM ledger.entries e WHERE e.ledger_id = :ledger
          AND e.transaction_id = t.id AND (SELECT o.owner FROM ledger.accounts o
            WHERE o.ledger_id = :ledger AND o.id = e.account_id AND o.id > 0) = :owner))""",
    "kind": "t.kind = :kind",
    "status": "t.status = :status",
    "currency": """(SELECT a.currency FROM ledger.accounts a
        WHERE a.ledger_id = :ledger AND a.id = t.account_id) = :currency""",
    "least": "t.amount >= :least",
    "most": "t.amount <= :most",
    "since": "t.recorded_at >= :since",
    "until": "t.recorded_at < :until",
    # Values, not EXISTS: that would be turned round, and all that match be looked for first.
    "reference": """(SELECT d.reference FROM ledger.details d WHERE d.ledger_id = :ledger
        AND d.transaction_id = t.id) = :reference""",
    "metadata": """(SELECT d.metadata FROM ledger.details d WHERE d.ledger_id = :ledger
        AND d.transaction_id = t.id)::jsonb @> CAST(:metadata AS jsonb)""",
}

_ORDER = "ORDER BY t.recorded_at DESC, t.id DESC"
_COVERED_BY_ALL = {"since", "until"}

# Of an account: its entries by seq, which is the order of time too, one for a transaction. OFFSET 0
# keeps the server to them: it would begin with all transactions of a time.
_POSTED = """
SELECT {columns} FROM (
    SELECT ledger_id, version FROM ledger.accounts
    WHERE ledger_id = :ledger AND id = {account}) a
CROSS JOIN LATERAL (
    SELECT ledger.version_at(a.ledger_id, {account}, a.version, {until}) AS last,
           ledger.version_at(a.ledger_id, {account}, a.version, {since}) AS first OFFSET 0) v
CROSS JOIN LATERAL (
    SELECT e.transaction_id FROM ledger.entries e
    WHERE e.ledger_id = :ledger AND e.account_id = {account}
      AND e.seq <= v.last AND e.seq > v.first
      AND (e.recorded_at, e.transaction_id) < (:moment, :number)
      AND coalesce((
        SELECT x.transaction_id FROM ledger.entries x
        WHERE x.ledger_id = :ledger AND x.account_id = {account} AND x.seq = e.seq + 1
        ), 0) <> e.transaction_id
    ORDER BY e.seq DESC LIMIT :budget) e
CROSS JOIN LATERAL (
    SELECT * FROM ledger.transactions
    WHERE ledger_id = :ledger AND id = e.transaction_id OFFSET 0) t
"""

# And its declines, which have no entries.
_DECLINED = """
SELECT {columns} FROM ledger.transactions t
WHERE t.ledger_id = :ledger AND t.account_id = {account} AND t.status = 2 AND {within}
{order} LIMIT :budget
"""

_ACCOUNTS = {
    "owner": """SELECT id FROM ledger.accounts
        WHERE ledger_id = :ledger AND owner = :owner AND id > 0""",
    "currency": """SELECT id FROM ledger.accounts
        WHERE ledger_id = :ledger AND currency = :currency""",
}

_MATCHES = {
    "reference": """SELECT d.transaction_id AS id FROM ledger.details d
        WHERE d.ledger_id = :ledger AND d.reference = :reference""",
    "amount": """SELECT t.id FROM ledger.transactions t
        WHERE t.ledger_id = :ledger AND t.amount >= :least AND t.amount <= :most""",
    "metadata": """SELECT d.transaction_id AS id FROM ledger.details d
        WHERE d.ledger_id = :ledger AND d.metadata IS NOT NULL
          AND d.metadata::jsonb @> CAST(:metadata AS jsonb)""",
}

Values = dict[str, Any]
Run = Callable[[str, Values], Awaitable[list[Any]]]
"""Runs a statement with its values; its rows."""


class Way(msgspec.Struct, frozen=True):
    """A way to the page: `candidates`, and the filters that all of them `fulfil`.

    In order of the list there are at most :budget of them, and so many are read for each of the
    `accounts`. Where they are not in order, `matches` finds their ids, and the way can be gone if
    these are at most :budget.
    """

    candidates: str
    fulfil: frozenset[str]
    accounts: int = 1
    matches: str | None = None


async def transactions(
    reader: Reader, wanted: Filter, rows: int, after: PLACE = AT_THE_TOP
) -> list[Transaction]:
    """Up to `rows` transactions, newest first, after that moment and id."""
    async with pinned(reader) as run:
        found = await page(run, wanted, rows, after)
    return await reader.completed(found)


@asynccontextmanager
async def pinned(reader: Reader) -> AsyncIterator[Run]:
    """Runs statements that enter each table by an index, whatever the server believes."""
    async with reader.connection() as connection:
        await connection.execution_options(isolation_level="READ COMMITTED")
        await connection.execute(PINS)  # for this transaction

        async def run(statement: str, values: Values) -> list[Any]:
            found = await connection.execute(
                text(statement), {"ledger": reader.ledger_id, **values}
            )
            return [tuple(row) for row in found]

        yield run


async def page(run: Run, wanted: Filter, rows: int, after: PLACE) -> list[Any]:
    """The rows of a page.

    Each statement is put together of constants; whatever a caller sends is a value.
    """
    values = {name: value for name, value in msgspec.structs.asdict(wanted).items()
              if value is not None}  # fmt: skip
    asked = frozenset(values)
    values |= {"moment": after[0], "number": after[1], "rows": rows}
    ways = [way async for way in _ways(run, wanted, values)]
    for way in ways:
        if way.matches is None and asked <= way.fulfil and way.accounts <= FEW_ACCOUNTS:
            return await run(_listed(way, asked), values | {"budget": rows})
    budget = max(FIRST_BUDGET_ROWS, rows)
    while True:
        for way in ways:
            found = await _gone(run, way, asked, values | {"budget": budget})
            if found is not None:
                return found
        budget *= BUDGET_GROWTH


async def _gone(run: Run, way: Way, asked: frozenset[str], values: Values) -> list[Any] | None:
    """The page, if the budget is enough for this way to it."""
    if way.matches is not None:
        if await _count(run, way.matches, values) > values["budget"]:
            return None
        return await run(_listed(way, asked), values)
    budget = values["budget"] // way.accounts
    if budget < values["rows"]:
        return None
    values = values | {"budget": budget}
    found = await run(_listed(way, asked), values)
    if len(found) == values["rows"] or await _count(run, way.candidates, values) < budget:
        return found
    return None


async def _count(run: Run, statement: str, values: Values) -> int:
    """The number of rows, counted up to one more than the budget."""
    counted = f"SELECT count(*) FROM (SELECT FROM ({statement}) t LIMIT :budget + 1) t"
    [(count,)] = await run(counted, values)
    return int(count)


def _listed(way: Way, asked: frozenset[str]) -> str:
    """What of a way's candidates is asked for, as many as there is room for."""
    rest = [_CONDITIONS[name] for name in sorted(asked - way.fulfil)]
    return f"""
        SELECT t.id, t.kind, t.account_id, t.counterparty_id, t.idempotency_key, t.amount,
               a.currency, a.exponent, t.recorded_at, t.renderer, t.decline_reason,
               t.deciding_account_id, t.deciding_version, t.deciding_available
        FROM (SELECT t.* FROM ({way.candidates}) t
              WHERE {" AND ".join(["true", *rest])} {_ORDER} LIMIT :rows) t
        JOIN ledger.accounts a ON a.ledger_id = :ledger AND a.id = t.account_id
        {_ORDER}
    """


async def _ways(run: Run, wanted: Filter, values: Values) -> AsyncIterator[Way]:
    """All ways to what is wanted; what is cheaper to try comes first."""
    within = _within(values)
    if wanted.reference is not None:
        yield _by_matches("reference", {"reference"}, within)
    if wanted.account_id is not None:
        one = "SELECT CAST(:account_id AS bigint) AS id"
        yield _by_accounts(one, "account_id", 1, wanted, within)
    for name in ("owner", "currency"):
        if name in values:
            counted = values | {"budget": MOST_ACCOUNTS}
            number = await _count(run, _ACCOUNTS[name], counted)
            if number <= MOST_ACCOUNTS:
                yield _by_accounts(_ACCOUNTS[name], name, number, wanted, within)
    if wanted.least is not None or wanted.most is not None:
        values.setdefault("least", 0)
        values.setdefault("most", 2**62)
        if wanted.least == wanted.most:
            yield _by_time(["t.amount = :least"], {"least", "most"}, within)
        else:
            yield _by_matches("amount", {"least", "most"}, within)
    yield _by_time(list(_kinds(wanted)), {"kind", "status"}, within)
    if wanted.metadata is not None:  # its index is read to the end at every try
        yield _by_matches("metadata", {"metadata"}, within)


def _within(values: Values) -> str:
    """What is asked of the moment of recording, for every way. By `<=` the index is entered."""
    after = "t.recorded_at <= :moment AND (t.recorded_at, t.id) < (:moment, :number)"
    return " AND ".join([after, *(_CONDITIONS[n] for n in sorted(_COVERED_BY_ALL & values.keys()))])


def _kinds(wanted: Filter) -> Iterator[str]:
    """Each status and kind by itself, for which the index has the order of time."""
    for status in [wanted.status] if wanted.status else list(Status):
        for kind in [wanted.kind] if wanted.kind else list(Kind):
            yield f"t.status = {status:d} AND t.kind = {kind:d}"


def _by_time(pieces: list[str], fulfil: set[str], within: str) -> Way:
    """Along an index that has each of the pieces in the order of time."""
    selects = " UNION ALL ".join(
        f"""(SELECT {_COLUMNS} FROM ledger.transactions t
             WHERE t.ledger_id = :ledger AND {piece} AND {within} {_ORDER} LIMIT :budget)"""
        for piece in pieces
    )
    return Way(
        f"SELECT t.* FROM ({selects}) t {_ORDER} LIMIT :budget",
        frozenset(fulfil | _COVERED_BY_ALL),
    )


def _by_accounts(accounts: str, name: str, number: int, wanted: Filter, within: str) -> Way:
    """Along the entries and declines of some accounts; what two of them have is one."""
    before = "- interval '1 microsecond'"
    until = ":moment" if wanted.until is None else f"least(:moment, :until {before})"
    since = "'-infinity'" if wanted.since is None else f":since {before}"
    pieces = {Status.POSTED: _POSTED, Status.DECLINED: _DECLINED}
    inner = " UNION ALL ".join(
        f"({piece})"
        for status, piece in pieces.items()
        if wanted.status is None or wanted.status == status
    ).format(
        columns=_COLUMNS, account="one.id", until=until, since=since, within=within, order=_ORDER
    )
    # A currency's transactions are those whose own account is of it.
    fulfil = {"status"} if name == "currency" else {"status", name}
    return Way(
        f"""SELECT DISTINCT t.* FROM ({accounts}) one CROSS JOIN LATERAL ({inner}) t
            {_ORDER} LIMIT :budget""",
        frozenset(fulfil | _COVERED_BY_ALL),
        max(number, 1),
    )


def _by_matches(name: str, fulfil: set[str], within: str) -> Way:
    """By an index that has all that match, though not in the order of time."""
    matches = _MATCHES[name]
    return Way(
        f"""SELECT {_COLUMNS} FROM ledger.transactions t
            WHERE t.ledger_id = :ledger AND t.id = ANY (ARRAY({matches})) AND {within}""",
        frozenset(fulfil | _COVERED_BY_ALL),
        matches=matches,
    )
