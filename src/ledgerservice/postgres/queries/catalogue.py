"""Currencies and ledgers, and the secret that signs the cursors of lists."""

from collections.abc import Sequence
from datetime import datetime

import msgspec
from sqlalchemy import ARRAY, Integer, bindparam, func, select

from ledgerservice.postgres.queries.structs import columns, find_all, find_one
from ledgerservice.postgres.reader import Reader
from ledgerservice.postgres.sharding.identity import MAIN
from ledgerservice.postgres.tables import currencies, homes, ledgers, principals, secrets


class CurrencyView(msgspec.Struct, frozen=True):
    """A currency. `-number` is the id of its external account in each ledger that has it.

    `ledger_id` is that of the only ledger that has it; None: all have it.
    """

    code: str
    exponent: int
    name: str
    number: int
    ledger_id: int | None


class LedgerView(msgspec.Struct, frozen=True):
    """A ledger, and the shard that has it. `shards` is the number of its parts, if it has any."""

    id: int
    name: str
    created_at: datetime
    shard: str
    shards: int | None


_CURRENCIES = select(*columns(CurrencyView, currencies))
_VISIBLE = currencies.c.ledger_id.is_(None) | (currencies.c.ledger_id == bindparam("ledger"))
FIND_CURRENCY = _CURRENCIES.where(currencies.c.code == bindparam("code"), _VISIBLE)
_last_code = (
    select(currencies.c.code).where(currencies.c.number == bindparam("after")).scalar_subquery()
)
LIST_CURRENCIES = (
    _CURRENCIES.where(currencies.c.code > func.coalesce(_last_code, ""), _VISIBLE)
    .order_by(currencies.c.code)
    .limit(bindparam("rows"))
)

_SHARD = func.coalesce(homes.c.shard, MAIN)
_LEDGERS = select(*columns(LedgerView, ledgers, id=ledgers.c.ledger_id, shard=_SHARD)).select_from(
    ledgers.outerjoin(homes, homes.c.ledger_id == ledgers.c.ledger_id)
)
FIND_LEDGER = _LEDGERS.where(ledgers.c.name == bindparam("name"))
LIST_LEDGERS = (
    _LEDGERS.where(ledgers.c.ledger_id > bindparam("after"), ledgers.c.parent_id.is_(None))
    .order_by(ledgers.c.ledger_id)
    .limit(bindparam("rows"))
)
LIST_SOME_LEDGERS = LIST_LEDGERS.where(
    ledgers.c.ledger_id == func.any(bindparam("ids", type_=ARRAY(Integer)))
)

FIND_PRINCIPAL = select(principals.c.id).where(
    principals.c.name == bindparam("name"), principals.c.disabled_at.is_(None)
)
CURSOR_SECRET = select(secrets.c.secret).where(secrets.c.name == "cursors")


async def find_principal(reader: Reader, name: str) -> int | None:
    """The id of the principal of this name, or None if there is none or it is disabled."""
    rows = await reader.rows(FIND_PRINCIPAL, name=name)
    return int(rows[0][0]) if rows else None


async def find_currency(reader: Reader, code: str) -> CurrencyView | None:
    """The currency of the ledger with this code, or None."""
    return await find_one(reader, CurrencyView, FIND_CURRENCY, code=code)


async def list_currencies(reader: Reader, rows: int, after: int = 0) -> list[CurrencyView]:
    """Up to `rows` currencies of the ledger by code, after the currency with the number `after`."""
    return await find_all(reader, CurrencyView, LIST_CURRENCIES, rows=rows, after=after)


async def find_ledger(reader: Reader, name: str) -> LedgerView | None:
    """The ledger with this name, or None."""
    return await find_one(reader, LedgerView, FIND_LEDGER, name=name)


async def list_ledgers(
    reader: Reader, rows: int, after: int = 0, ids: Sequence[int] | None = None
) -> list[LedgerView]:
    """Up to `rows` ledgers ordered by id, after the ledger with the id `after`: all, or those with
    one of these ids.
    """
    if ids is not None:
        some = {"rows": rows, "after": after, "ids": list(ids)}
        return await find_all(reader, LedgerView, LIST_SOME_LEDGERS, **some)
    return await find_all(reader, LedgerView, LIST_LEDGERS, rows=rows, after=after)
