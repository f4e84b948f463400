"""The list of transactions by the time at which they take effect: its access paths (see `search`).

No index has the times of all transactions, so two are merged: details in the order of
`effective_at`, and transactions in the order of their recording. The second has also those with an
`effective_at`, at places that are not theirs: the condition `place` drops these.
"""

from collections.abc import AsyncIterator

from ledgerservice.domain.transactions import Status
from ledgerservice.postgres import search
from ledgerservice.postgres.queries.recorded_transactions import TRANSACTIONS, times_of
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

_EFFECTIVE_AT = """(SELECT d.effective_at FROM ledger.details d
    WHERE d.ledger_id = :ledger AND d.transaction_id = t.id)"""
_BOUNDS = {"since": "t.takes_effect_at >= :since", "until": "t.takes_effect_at < :until"}
_IN_PLACE = f"(t.is_dated OR NOT t.has_details OR {_EFFECTIVE_AT} IS NULL)"

TRANSACTIONS_BY_EFFECT = Listing(
    """(SELECT t.*, coalesce(d.effective_at, t.recorded_at) AS takes_effect_at
        FROM ledger.transactions t
        LEFT JOIN ledger.details d ON d.ledger_id = t.ledger_id AND d.transaction_id = t.id)""",
    by=("takes_effect_at", "id"),
    descending=True,
    conditions=CONDITIONS | _BOUNDS | {"place": _IN_PLACE},
    columns=(TRANSACTION,),
    joins=JOIN_ACCOUNT,
)

# The transactions with an effective_at, by the index of it.
_DATED = """
SELECT t.*, d.effective_at AS takes_effect_at, true AS is_dated
FROM ledger.details d
JOIN ledger.transactions t ON t.ledger_id = :ledger AND t.id = d.transaction_id
WHERE d.ledger_id = :ledger AND d.effective_at IS NOT NULL AND {conditions}
ORDER BY d.effective_at DESC, d.transaction_id DESC LIMIT :budget
"""
_DATES = {"since": "d.effective_at >= :since", "until": "d.effective_at < :until"}

# The entries of an account, and its declines, which have no entries. The order and the limit keep
# PostgreSQL from reading all of them where more than the budget are too many.
_OF_ACCOUNTS = """
SELECT m.id FROM ({accounts}) account CROSS JOIN LATERAL (
    (SELECT e.transaction_id AS id FROM ledger.entries e
     WHERE e.ledger_id = :ledger AND e.account_id = account.id
     ORDER BY e.seq DESC LIMIT :budget + 1)
    UNION ALL
    (SELECT t.id FROM ledger.transactions t
     WHERE t.ledger_id = :ledger AND t.account_id = account.id AND t.status = {declined}
     ORDER BY t.recorded_at DESC LIMIT :budget + 1)) m
"""


async def find_page(run: Run, filters: TransactionFilter, rows: int, after: Place) -> Page:
    """The rows of a page of transactions."""
    values = values_of(filters)
    names = frozenset({"place", *values})
    values |= {"after_time": after[0], "after_id": after[1], "rows": rows}
    access_paths = [path async for path in _access_paths(run, filters, values)]
    return await search.find_page(run, TRANSACTIONS_BY_EFFECT, access_paths, names, values)


async def _access_paths(
    run: Run, filters: TransactionFilter, values: Values
) -> AsyncIterator[AccessPath]:
    """All access paths to the page, in the order in which they are tried: the cheapest first."""
    if filters.reference is not None:
        yield _by_matches(MATCHES["reference"], {"reference"}, values)
    async for path in _by_accounts(run, filters, values):
        yield path
    yield _by_time(filters, values)
    if filters.kind is not None or filters.status is Status.DECLINED:
        yield _by_matches(_of_kinds(filters), {"kind", "status"}, values)
    if filters.min_amount is not None or filters.max_amount is not None:
        bounds = {"min_amount": 0, "max_amount": 2**62}
        values |= {name: bound for name, bound in bounds.items() if name not in values}
        yield _by_matches(MATCHES["amount"], set(bounds), values)
    if filters.metadata is not None:
        yield _by_matches(MATCHES["metadata"], {"metadata"}, values, reads_whole_index=True)


async def _by_accounts(
    run: Run, filters: TransactionFilter, values: Values
) -> AsyncIterator[AccessPath]:
    """By the transactions of some accounts, which no index has in the order of effect."""
    if filters.account_id is not None:
        yield _of_accounts("SELECT CAST(:account_id AS bigint) AS id", {"account_id"}, values)
    for name in [name for name in ACCOUNTS if name in values]:
        number = await search.count(run, ACCOUNTS[name], values | {"budget": MAX_ACCOUNTS})
        if number <= MAX_ACCOUNTS:
            yield _of_accounts(ACCOUNTS[name], {name} - {"currency"}, values)


def _of_accounts(accounts: str, fulfils: set[str], values: Values) -> AccessPath:
    matches = _OF_ACCOUNTS.format(accounts=accounts, declined=int(Status.DECLINED))
    return _by_matches(matches, fulfils, values)


def _of_kinds(filters: TransactionFilter) -> str:
    parts = (
        f"SELECT t.id FROM ledger.transactions t WHERE t.ledger_id = :ledger AND {kind}"
        for kind in kinds_of(filters)
    )
    return " UNION ALL ".join(parts)


def _by_matches(
    matches: str, fulfils: set[str], values: Values, *, reads_whole_index: bool = False
) -> AccessPath:
    conditions = ["(t.takes_effect_at, t.id) < (:after_time, :after_id)"]
    conditions += [_BOUNDS[name] for name in _BOUNDS if name in values]
    return TRANSACTIONS_BY_EFFECT.by_matches(
        matches, conditions, fulfils | {*_BOUNDS, "place"}, reads_whole_index=reads_whole_index
    )


def _by_time(filters: TransactionFilter, values: Values) -> AccessPath:
    """By the two indexes of time."""
    recorded = [TRANSACTIONS.first([kind, *times_of(values)]) for kind in kinds_of(filters)]
    parts = [
        f"SELECT u.*, u.recorded_at AS takes_effect_at, false AS is_dated FROM ({part}) u"
        for part in recorded
    ]
    dates = ["(d.effective_at, d.transaction_id) < (:after_time, :after_id)"]
    dates += [_DATES[name] for name in _DATES if name in values]
    parts.append(_DATED.format(conditions=" AND ".join(dates)))
    order = TRANSACTIONS_BY_EFFECT.order()
    candidates = " UNION ALL ".join(f"({part})" for part in parts)
    return AccessPath(
        f"SELECT t.* FROM ({candidates}) t {order} LIMIT :budget", frozenset({"since", "until"})
    )
