"""Lists of transactions by any filter, newest first, a page at a time.

Each filter has an index that finds its rows in the order of the list, or finds so few that they
are sorted in no time; where it finds many, the list is walked by time instead, and soon has a page.
"""

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import msgspec
from sqlalchemy import text

from ledgerservice.model import Status, Transaction
from ledgerservice.reads import Reader
from ledgerservice.requests import Kind

FEW = 10_000
"""What an index finds more of than this is found by walking the list by time."""

ACCOUNTS_OF_AN_OWNER = 1_000
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

_COLUMNS = """t.id, t.kind, t.account_id, t.counterparty_id, t.idempotency_key, t.amount,
t.recorded_at, t.renderer, t.decline_reason, t.deciding_account_id, t.deciding_version,
t.deciding_available"""

# What each filter asks of a transaction `t`, wherever it was found.
_CONDITIONS = {
    "account_id": """(t.account_id = :account_id OR EXISTS (
        SELECT FROM ledger.entries e WHERE e.ledger_id = t.ledger_id
          AND e.transaction_id = t.id AND e.account_id = :account_id))""",
    "owner": """EXISTS (
        SELECT FROM ledger.accounts o WHERE o.ledger_id = t.ledger_id AND o.owner = :owner
          AND o.id > 0 AND (o.id = t.account_id OR EXISTS (
            SELECT FROM ledger.entries e WHERE e.ledger_id = t.ledger_id
              AND e.transaction_id = t.id AND e.account_id = o.id)))""",
    "kind": "t.kind = :kind",
    "status": "t.status = :status",
    "currency": """(SELECT a.currency FROM ledger.accounts a
        WHERE a.ledger_id = t.ledger_id AND a.id = t.account_id) = :currency""",
    "least": "t.amount >= :least",
    "most": "t.amount <= :most",
    "since": "t.recorded_at >= :since",
    "until": "t.recorded_at < :until",
    # Values, not EXISTS: that would be turned round, and all that match be looked for first.
    "reference": """(SELECT d.reference FROM ledger.details d WHERE d.ledger_id = t.ledger_id
        AND d.transaction_id = t.id) = :reference""",
    "metadata": """(SELECT d.metadata FROM ledger.details d WHERE d.ledger_id = t.ledger_id
        AND d.transaction_id = t.id)::jsonb @> CAST(:metadata AS jsonb)""",
}

# `<=` on the first column alone is what the index is entered by.
_AFTER = """t.recorded_at <= :moment
      AND (t.recorded_at, t.id) < (:moment, :number)"""
_ORDER = "ORDER BY t.recorded_at DESC, t.id DESC LIMIT :rows"

# Of an account: its entries by seq, which is the order of time too, one for a transaction; and its
# declines, which have no entries.
_OF_ACCOUNT = """
(SELECT {columns} FROM (
    SELECT ledger_id, version FROM ledger.accounts
    WHERE ledger_id = :ledger AND id = {account}) a
 CROSS JOIN LATERAL (
    SELECT ledger.version_at(a.ledger_id, {account}, a.version, {until}) AS last,
           ledger.version_at(a.ledger_id, {account}, a.version, {since}) AS first) v
 CROSS JOIN LATERAL (
    SELECT t.* FROM ledger.entries e
    JOIN ledger.transactions t ON t.ledger_id = e.ledger_id AND t.id = e.transaction_id
    WHERE e.ledger_id = :ledger AND e.account_id = {account}
      AND e.seq <= v.last AND e.seq > v.first
      AND NOT EXISTS (
        SELECT FROM ledger.entries x WHERE x.ledger_id = e.ledger_id
          AND x.account_id = e.account_id AND x.seq = e.seq + 1
          AND x.transaction_id = e.transaction_id)
      AND {where}
    ORDER BY e.seq DESC LIMIT :rows) t)
UNION ALL
(SELECT {columns} FROM ledger.transactions t
 WHERE t.ledger_id = :ledger AND t.account_id = {account} AND t.status = 2 AND {where}
 {order})
"""

_FEW_BY = {
    "reference": """SELECT d.transaction_id FROM ledger.details d
        WHERE d.ledger_id = :ledger AND d.reference = :reference""",
    "metadata": """SELECT d.transaction_id FROM ledger.details d
        WHERE d.ledger_id = :ledger AND d.metadata IS NOT NULL
          AND d.metadata::jsonb @> CAST(:metadata AS jsonb)""",
    "amount": """SELECT t.id FROM ledger.transactions t
        WHERE t.ledger_id = :ledger AND t.amount BETWEEN :least AND :most""",
}
_BY_AMOUNT = "t.ledger_id = :ledger AND t.amount BETWEEN :least AND :most"
_BY_DETAIL = "t.ledger_id = :ledger AND t.id = ANY (ARRAY({few}))"


async def transactions(
    reader: Reader, wanted: Filter, rows: int, after: PLACE = AT_THE_TOP
) -> list[Transaction]:
    """Up to `rows` transactions, newest first, after that moment and id."""
    statement, values = await statement_of(reader, wanted)
    moment, number = after
    values |= {"moment": moment, "number": number, "rows": rows}
    return await reader.completed(await pinned(reader, statement, values))


async def pinned(reader: Reader, statement: str, values: dict[str, Any]) -> list[Any]:
    """The rows of a statement, each table entered by an index, whatever the server believes."""
    async with reader.connection() as connection:
        await connection.execution_options(isolation_level="READ COMMITTED")
        await connection.execute(PINS)  # for this transaction
        found = await connection.execute(text(statement), {"ledger": reader.ledger_id, **values})
        return [tuple(row) for row in found]


async def statement_of(reader: Reader, wanted: Filter) -> tuple[str, dict[str, Any]]:
    """The statement that lists what is wanted, and its values but for the place and size.

    It is put together of constants; whatever a caller sends is a value.
    """
    values = {
        name: value
        for name in wanted.__struct_fields__
        if (value := getattr(wanted, name)) is not None
    }
    where = " AND ".join([_AFTER, *(_CONDITIONS[name] for name in values)])
    pieces = " UNION ALL ".join([piece async for piece in _pieces(reader, wanted, where, values)])
    return (
        f"""
        SELECT t.id, t.kind, t.account_id, t.counterparty_id, t.idempotency_key, t.amount,
               a.currency, a.exponent, t.recorded_at, t.renderer, t.decline_reason,
               t.deciding_account_id, t.deciding_version, t.deciding_available
        FROM (SELECT DISTINCT * FROM ({pieces}) t {_ORDER}) t
        JOIN ledger.accounts a ON a.ledger_id = :ledger AND a.id = t.account_id
        ORDER BY t.recorded_at DESC, t.id DESC
        """,
        values,
    )


async def _pieces(reader: Reader, wanted: Filter, where: str, values: dict[str, Any]) -> Any:
    """The ways to what is wanted; each gives a page of it, in order."""
    if wanted.account_id is not None:
        yield _of_account(":account_id", wanted, _without(where, "account_id"))
        return
    if wanted.owner is not None:
        owned = f"""(SELECT id FROM ledger.accounts WHERE ledger_id = :ledger AND owner = :owner
            AND id > 0 ORDER BY id LIMIT {ACCOUNTS_OF_AN_OWNER})"""
        inner = _of_account("owned.id", wanted, _without(where, "owner"))
        yield f"(SELECT t.* FROM {owned} owned CROSS JOIN LATERAL ({inner}) t)"
        return
    for name in ("reference", "metadata"):
        if name in values and await _few(reader, name, values):
            few = f"{_BY_DETAIL.format(few=_FEW_BY[name])} AND {_without(where, name)}"
            yield f"(SELECT {_COLUMNS} FROM ledger.transactions t WHERE {few} {_ORDER})"
            return
    if wanted.least is not None or wanted.most is not None:
        values.setdefault("least", 0)
        values.setdefault("most", 2**62)
        if await _few(reader, "amount", values):
            yield (
                f"(SELECT {_COLUMNS} FROM ledger.transactions t"
                f" WHERE {_BY_AMOUNT} AND {where} {_ORDER})"
            )
            return
    for piece in _by_time(wanted):
        yield (
            f"(SELECT {_COLUMNS} FROM ledger.transactions t"
            f" WHERE t.ledger_id = :ledger AND {piece} AND {where} {_ORDER})"
        )


def _by_time(wanted: Filter) -> Iterator[str]:
    """Each status and kind by itself, for which the index has the order of time."""
    for status in [wanted.status] if wanted.status else list(Status):
        for kind in [wanted.kind] if wanted.kind else list(Kind):
            yield f"t.status = {status:d} AND t.kind = {kind:d}"


def _of_account(account: str, wanted: Filter, where: str) -> str:
    until = ":moment" if wanted.until is None else "least(:moment, :until)"
    since = "'-infinity'" if wanted.since is None else ":since - interval '1 microsecond'"
    return _OF_ACCOUNT.format(
        columns=_COLUMNS, account=account, until=until, since=since, where=where, order=_ORDER
    )


def _without(where: str, name: str) -> str:
    """The conditions but for one that the way to them has fulfilled."""
    return where.replace(f" AND {_CONDITIONS[name]}", "")


async def _few(reader: Reader, name: str, values: dict[str, Any]) -> bool:
    """Whether a filter finds so few that they may all be looked at."""
    statement = f"SELECT count(*) FROM ({_FEW_BY[name]} LIMIT {FEW + 1}) few"
    asked = {key: value for key, value in values.items() if f":{key}" in statement}
    [(count,)] = await pinned(reader, statement, asked)
    return bool(count <= FEW)
