"""Lists of transactions by any filter, newest first, a page at a time.

What each filter asks, and the indexes by which it finds its rows; `ways` has the search.
"""

from collections.abc import AsyncIterator, Iterator
from datetime import UTC, datetime

import msgspec

from ledgerservice.domain.instructions import Kind
from ledgerservice.domain.transactions import Status, Transaction
from ledgerservice.postgres import rows
from ledgerservice.postgres.reader import Reader
from ledgerservice.postgres.rows import TransactionRow
from ledgerservice.postgres.search import (
    Listing,
    Page,
    Place,
    Run,
    Values,
    Way,
    count,
    given,
    pinned,
    search,
)

MOST_ACCOUNTS = 1_000
"""Of so many accounts each is asked for its transactions."""

LAST = datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC)
AT_THE_TOP: Place = (LAST, 2**63 - 1)


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


# Of a transaction `t`, wherever it was found: what rows.TRANSACTION and the conditions need.
_COLUMNS = ", ".join(
    f"t.{name}"
    for name in (
        "status",
        *(n for n in TransactionRow._fields if n not in {"key", "currency", "exponent"}),
        "idempotency_key",
    )
)

# What each filter asks of a transaction `t`, wherever it was found.
CONDITIONS = {
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

TRANSACTIONS = Listing(
    by=("recorded_at", "id"),
    descending=True,
    conditions=CONDITIONS,
    columns=(rows.TRANSACTION,),
    beside="JOIN ledger.accounts a ON a.ledger_id = :ledger AND a.id = t.account_id",
)
_ORDER = TRANSACTIONS.order
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
        WHERE ledger_id = :ledger AND currency = :currency AND id > 0""",
}

_MATCHES = {
    "reference": """SELECT d.transaction_id AS id FROM ledger.details d
        WHERE d.ledger_id = :ledger AND d.reference = :reference""",
    "amount": """SELECT t.id FROM ledger.transactions t
        WHERE t.ledger_id = :ledger AND t.amount >= :least AND t.amount <= :most""",
    # Written so that the index of metadata is entered, and not that of the ledger's transactions.
    "metadata": """SELECT d.transaction_id AS id FROM ledger.details d
        WHERE d.ledger_id + 0 = :ledger AND d.metadata IS NOT NULL
          AND d.metadata::jsonb @> CAST(:metadata AS jsonb)""",
}


async def transactions(
    reader: Reader, wanted: Filter, rows: int, after: Place = AT_THE_TOP
) -> tuple[list[Transaction], Place | None]:
    """Up to `rows` transactions, newest first, after that moment and id; and the place after
    which there are more, which may be of a page that is not full.
    """
    async with pinned(reader) as run:
        found = await page(run, wanted, rows, after)
    shown = [row[len(TRANSACTIONS.by) :] for row in found.rows]
    return await reader.completed(shown), found.after


async def page(run: Run, wanted: Filter, rows: int, after: Place) -> Page:
    """The rows of a page of transactions."""
    values = given(wanted)
    asked = frozenset(values)
    values |= {"moment": after[0], "number": after[1], "rows": rows}
    ways = [way async for way in _ways(run, wanted, values)]
    return await search(run, TRANSACTIONS, ways, asked, values)


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
            number = await count(run, _ACCOUNTS[name], counted)
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
    if wanted.metadata is not None:
        yield _by_matches("metadata", {"metadata"}, within)


def _within(values: Values) -> str:
    """What is asked of the moment of recording, for every way. By `<=` the index is entered."""
    after = "t.recorded_at <= :moment AND (t.recorded_at, t.id) < (:moment, :number)"
    return " AND ".join([after, *(CONDITIONS[n] for n in sorted(_COVERED_BY_ALL & values.keys()))])


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
        to_the_end=name == "metadata",
    )
