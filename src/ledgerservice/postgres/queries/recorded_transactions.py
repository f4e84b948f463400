"""The list of transactions by the time of their recording: its access paths (see `search`)."""

from collections.abc import AsyncIterator, Iterator

from ledgerservice.domain.transactions import Status
from ledgerservice.postgres import search
from ledgerservice.postgres.queries.transaction_filters import (
    ACCOUNTS,
    CONDITIONS,
    JOIN_ACCOUNT,
    MATCHES,
    MAX_ACCOUNTS,
    TransactionFilter,
    kinds_of,
    values_of,
)
from ledgerservice.postgres.rows import TRANSACTION
from ledgerservice.postgres.search import AccessPath, Listing, Page, Place, Run, Values

TRANSACTIONS = Listing(
    "ledger.transactions",
    by=("recorded_at", "id"),
    descending=True,
    conditions=CONDITIONS,
    columns=(TRANSACTION,),
    joins=JOIN_ACCOUNT,
)
_BY_ALL = {"since", "until"}  # fulfilled by all access paths

# An account's entries by seq, which is the order of time too, one for each transaction. OFFSET 0
# keeps PostgreSQL from beginning with all transactions of a time.
_POSTED = """
SELECT t.* FROM (
    SELECT ledger_id, version FROM ledger.accounts
    WHERE ledger_id = :ledger AND id = account.id) a
CROSS JOIN LATERAL (
    SELECT ledger.version_at(a.ledger_id, account.id, a.version, {until}) AS last,
           ledger.version_at(a.ledger_id, account.id, a.version, {since}) AS first OFFSET 0) v
CROSS JOIN LATERAL (
    SELECT e.transaction_id FROM ledger.entries e
    WHERE e.ledger_id = :ledger AND e.account_id = account.id
      AND e.seq <= v.last AND e.seq > v.first
      AND (e.recorded_at, e.transaction_id) < (:after_time, :after_id)
      AND coalesce((
        SELECT x.transaction_id FROM ledger.entries x
        WHERE x.ledger_id = :ledger AND x.account_id = account.id AND x.seq = e.seq + 1
        ), 0) <> e.transaction_id
    ORDER BY e.seq DESC LIMIT :budget) e
CROSS JOIN LATERAL (
    SELECT * FROM ledger.transactions
    WHERE ledger_id = :ledger AND id = e.transaction_id OFFSET 0) t
"""


async def find_page(run: Run, filters: TransactionFilter, rows: int, after: Place) -> Page:
    """The rows of a page of transactions."""
    values = values_of(filters)
    names = frozenset(values)
    values |= {"after_time": after[0], "after_id": after[1], "rows": rows}
    access_paths = [path async for path in _access_paths(run, filters, values)]
    return await search.find_page(run, TRANSACTIONS, access_paths, names, values)


async def _access_paths(
    run: Run, filters: TransactionFilter, values: Values
) -> AsyncIterator[AccessPath]:
    """All access paths to the page, in the order in which they are tried: the cheapest first."""
    times = list(times_of(values))
    if filters.reference is not None and not filters.apart:
        yield _by_matches("reference", {"reference"}, times)
    if filters.account_id is not None:
        account = "SELECT CAST(:account_id AS bigint) AS id"
        yield _by_accounts(account, "account_id", 1, filters, times)
    if filters.apart:
        return
    for name in [name for name in ACCOUNTS if name in values]:
        number = await search.count(run, ACCOUNTS[name], values | {"budget": MAX_ACCOUNTS})
        if number <= MAX_ACCOUNTS:
            yield _by_accounts(ACCOUNTS[name], name, number, filters, times)
    if filters.min_amount is not None or filters.max_amount is not None:
        yield _by_amount(filters, values, times)
    yield _by_time(list(kinds_of(filters)), {"kind", "status", "whole"}, times)
    if filters.metadata is not None:
        yield _by_matches("metadata", {"metadata"}, times)


def times_of(values: Values) -> Iterator[str]:
    """The conditions on the time of recording. The index can be entered only by the first."""
    yield "t.recorded_at <= :after_time"
    yield "(t.recorded_at, t.id) < (:after_time, :after_id)"
    yield from (CONDITIONS[name] for name in sorted(_BY_ALL & values.keys()))


def _by_amount(filters: TransactionFilter, values: Values, times: list[str]) -> AccessPath:
    """By the index of amounts, which has the order of time for each single amount."""
    values.setdefault("min_amount", 0)
    values.setdefault("max_amount", 2**62)
    fulfils = {"min_amount", "max_amount"}
    if filters.min_amount == filters.max_amount:
        return _by_time(["t.amount = :min_amount"], fulfils, times)
    return _by_matches("amount", fulfils, times)


def _by_time(conditions: list[str], fulfils: set[str], times: list[str]) -> AccessPath:
    """By an index that has the rows of each of the conditions in the order of time."""
    parts = (f"({TRANSACTIONS.first([condition, *times])})" for condition in conditions)
    return AccessPath(
        f"SELECT t.* FROM ({' UNION ALL '.join(parts)}) t {TRANSACTIONS.order()} LIMIT :budget",
        frozenset(fulfils | _BY_ALL),
    )


def _by_accounts(
    accounts: str, name: str, number: int, filters: TransactionFilter, times: list[str]
) -> AccessPath:
    """By the entries of some accounts, and by their declines, which have no entries."""
    before = "- interval '1 microsecond'"
    until = ":after_time" if filters.until is None else f"least(:after_time, :until {before})"
    since = "'-infinity'" if filters.since is None else f":since {before}"
    declined = ["t.account_id = account.id", f"t.status = {Status.DECLINED:d}", *times]
    parts = {
        Status.POSTED: _POSTED.format(until=until, since=since),
        Status.DECLINED: TRANSACTIONS.first(declined),
    }
    statuses = {None, *Status} if filters.whole else {None, filters.status}
    selects = [f"({parts[one]})" for one in parts if filters.status is None or one in statuses]
    # A transaction of two of the accounts is listed once. Its currency is its own account's only.
    return AccessPath(
        f"""SELECT DISTINCT ON ({TRANSACTIONS.place}) t.* FROM ({accounts}) account
            CROSS JOIN LATERAL ({" UNION ALL ".join(selects)}) t
            {TRANSACTIONS.order()} LIMIT :budget""",
        frozenset({"status", name} - {"currency"} | _BY_ALL),
        max(number, 1),
    )


def _by_matches(name: str, fulfils: set[str], times: list[str]) -> AccessPath:
    return TRANSACTIONS.by_matches(
        MATCHES[name], times, fulfils | _BY_ALL, reads_whole_index=name == "metadata"
    )
