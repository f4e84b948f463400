"""What holds, scheduled transfers and transactions move when something builds on them."""

from collections.abc import Sequence

import msgspec
from sqlalchemy import text

from ledgerservice.domain.instructions import Kind
from ledgerservice.postgres.queries.structs import find_all
from ledgerservice.postgres.reader import Reader


class MovedView(msgspec.Struct, frozen=True):
    """An account, whether it is credited or debited, and by how much, in minor units. `kind` is the
    transaction's.
    """

    id: int
    kind: Kind
    account_id: int
    credited: bool
    amount: int
    exponent: int


# In this form PostgreSQL enters each table by its key.
_REQUESTED = "(SELECT DISTINCT unnest(CAST(:ids AS bigint[])) AS id) requested"
_ACCOUNT = """CROSS JOIN LATERAL (
    SELECT exponent FROM ledger.accounts
    WHERE ledger_id = :ledger AND id BETWEEN m.account_id AND m.account_id ORDER BY id) a"""


def _terms(table: str, amount: str, kind: Kind) -> str:
    """A capture or an execution: out of the account, and into the other one."""
    return f"""
SELECT requested.id, {kind:d} AS kind, m.account_id, m.credited, t.{amount} AS amount,
       a.exponent
FROM {_REQUESTED}
CROSS JOIN LATERAL (
    SELECT * FROM ledger.{table}
    WHERE ledger_id = :ledger AND transaction_id BETWEEN requested.id AND requested.id
    ORDER BY transaction_id) t
CROSS JOIN LATERAL (
    VALUES (t.account_id, false), (t.counterparty_id, true)) m (account_id, credited)
{_ACCOUNT}"""


_STATEMENTS = {
    "holds": text(_terms("holds", "remaining", Kind.HOLD)),
    "schedules": text(_terms("schedules", "amount", Kind.SCHEDULE)),
    # A reversal, by account. A transaction without entries moves nothing.
    "transactions": text(f"""
SELECT m.id, m.kind, m.account_id, m.amount > 0 AS credited, abs(m.amount) AS amount, a.exponent
FROM (
    SELECT t.id, t.kind, coalesce(e.account_id, t.account_id) AS account_id,
           coalesce(-sum(e.amount), 0)::bigint AS amount
    FROM {_REQUESTED}
    CROSS JOIN LATERAL (
        SELECT * FROM ledger.transactions
        WHERE ledger_id = :ledger AND id BETWEEN requested.id AND requested.id ORDER BY id) t
    LEFT JOIN LATERAL (
        SELECT account_id, amount FROM ledger.entries
        WHERE ledger_id = :ledger AND transaction_id BETWEEN t.id AND t.id
        ORDER BY transaction_id) e ON true
    GROUP BY 1, 2, 3) m
{_ACCOUNT}"""),
}


async def find_moved(reader: Reader, table: str, ids: Sequence[int]) -> list[MovedView]:
    """What builds on these rows of `holds`, `schedules` or `transactions` moves, by account: the
    rest of a hold, a scheduled transfer, and a transaction back. Those that do not exist have none.
    """
    return await find_all(reader, MovedView, _STATEMENTS[table], ids=list(ids))
