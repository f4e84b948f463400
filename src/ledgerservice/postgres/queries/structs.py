"""Rows as structs: the fields of a struct are the column list of its statements."""

from datetime import UTC, datetime
from typing import Any, TypeVar

import msgspec
from sqlalchemy import (
    BigInteger,
    ColumnElement,
    DateTime,
    FromClause,
    Select,
    TextClause,
    bindparam,
    select,
    text,
    tuple_,
)

from ledgerservice.postgres.reader import Reader
from ledgerservice.postgres.tables import accounts, transactions

Shape = TypeVar("Shape", bound=msgspec.Struct)

EARLIEST, LATEST = datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC)

LEDGER: Any = bindparam("ledger")
AFTER_TIME: Any = bindparam("after_time", type_=DateTime(timezone=True))
AFTER_ID: Any = bindparam("after_id", type_=BigInteger)

TimePlace = tuple[datetime | None, int]
"""A place in a list by time: a time and a transaction's id. Rows without a time come last."""


class OpenSum(msgspec.Struct, frozen=True):
    """What is open in a currency, in minor units. `next_at`: when the first of it ends."""

    currency: str
    exponent: int
    number: int
    amount: int
    next_at: datetime | None


def sum_open(rows: str) -> TextClause:
    """Sums an account's `amount`, which ends `at`, by currency: `rows` are :rows of an index."""
    return text(f"""
SELECT a.currency, a.exponent, count(*) AS number, sum(o.amount)::bigint AS amount,
       min(o.at) AS next_at
FROM ({rows} ORDER BY ledger_id, account_id LIMIT :rows) o
CROSS JOIN LATERAL (
    SELECT currency, exponent FROM ledger.accounts
    WHERE ledger_id = :ledger AND id = o.account_id OFFSET 0) a
GROUP BY a.currency, a.exponent ORDER BY a.currency
""")


def columns(
    shape: type[msgspec.Struct], *tables: FromClause, **expressions: ColumnElement[Any]
) -> list[ColumnElement[Any]]:
    """For each field of `shape` its expression, or the column of its name of the first table that
    has one.
    """
    return [
        expressions[name].label(name)
        if name in expressions
        else next(table.c[name] for table in tables if name in table.c)
        for name in shape.__struct_fields__
    ]


def select_list(shape: type[msgspec.Struct], table: str, **expressions: str) -> str:
    """The same as SQL, of one table."""
    return ", ".join(
        f"{expressions.get(name, f'{table}.{name}')} AS {name}" for name in shape.__struct_fields__
    )


def select_recorded(
    shape: type[msgspec.Struct], table: FromClause, **expressions: ColumnElement[Any]
) -> Select[Any]:
    """The rows of a table with the account and the transaction of each."""
    ledger_id = table.c.ledger_id
    return (
        select(*columns(shape, table, accounts, transactions, **expressions))
        .join(accounts, (accounts.c.ledger_id == ledger_id) & (accounts.c.id == table.c.account_id))
        .join(
            transactions,
            (transactions.c.ledger_id == ledger_id) & (transactions.c.id == table.c.transaction_id),
        )
        .where(ledger_id == LEDGER)
    )


async def find_one(
    reader: Reader, shape: type[Shape], statement: Any, **values: Any
) -> Shape | None:
    """The first row of a statement, or None."""
    rows = await find_all(reader, shape, statement, **values)
    return rows[0] if rows else None


async def find_all(
    reader: Reader, shape: type[Shape], statement: Any, **values: Any
) -> list[Shape]:
    """The rows of a statement, whose columns have the names of the fields of `shape`."""
    rows = await reader.rows(statement, **values)
    names = [str(name) for name in rows[0]._fields] if rows else []  # SQLAlchemy's are a subclass
    return [msgspec.convert(dict(zip(names, row, strict=True)), shape) for row in rows]


def after_place(*order: ColumnElement[Any]) -> tuple[ColumnElement[bool], ...]:
    """The condition for an account's rows after a TimePlace; `order` begins with the account.

    In this form PostgreSQL can use only the index of this order. Otherwise it chose the index of
    all accounts' times, and read it to the end where many rows have the same time.
    """
    account = bindparam("account", type_=BigInteger)
    return tuple_(*order) > tuple_(account, AFTER_TIME, AFTER_ID), order[0] <= account


async def find_after(
    reader: Reader,
    shape: type[Shape],
    statement: Any,
    account_id: int,
    rows: int,
    after: TimePlace | None,
) -> list[Shape]:
    """Up to `rows` of an account's rows after a place; None: from the first."""
    time, number = after or (EARLIEST, 0)
    values = {"account": account_id, "after_time": time, "after_id": number, "rows": rows}
    return await find_all(reader, shape, statement, **values)
