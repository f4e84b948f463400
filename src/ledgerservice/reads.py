"""What the ledger says of itself: accounts, histories, transactions. Each read is one statement
of an account's row or of pages by key, so that its cost does not depend on how far back it looks.
"""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import Select, bindparam, func, select
from sqlalchemy.exc import DBAPIError, ProgrammingError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from ledgerservice.errors import InternalFault, Unavailable
from ledgerservice.model import BIGGEST_ID, Entry, Kind, Transaction
from ledgerservice.schema import accounts, currencies, entries, transactions

log = logging.getLogger(__name__)


class AccountView(msgspec.Struct, frozen=True):
    """An account as it stands. Amounts in minor units of a currency with `exponent` digits."""

    id: int
    owner: str
    currency: str
    exponent: int
    reference: str | None
    balance: int
    held: int
    version: int
    status: str
    created_at: datetime


class CurrencyView(msgspec.Struct, frozen=True):
    """A currency; `number` is its place in lists, and the negative of its external accounts' id."""

    code: str
    exponent: int
    name: str
    number: int


class HistoryEntry(msgspec.Struct, frozen=True):
    """One entry of an account's history. `version` is its seq, `balance` its result."""

    version: int
    transaction_id: int
    kind: Kind
    amount: int
    exponent: int
    balance: int
    key: str
    recorded_at: datetime


_ACCOUNT_COLUMNS = [accounts.c[name] for name in AccountView.__struct_fields__]

_ledger: Any = bindparam("ledger")

FIND_ACCOUNT = select(*_ACCOUNT_COLUMNS).where(
    accounts.c.ledger_id == _ledger, accounts.c.id == bindparam("account")
)

LIST_ACCOUNTS = (
    select(*_ACCOUNT_COLUMNS)
    .where(accounts.c.ledger_id == _ledger, accounts.c.id > bindparam("after"))
    .order_by(accounts.c.id)
    .limit(bindparam("rows"))
)

LIST_HISTORY = (
    select(
        entries.c.seq,
        entries.c.transaction_id,
        transactions.c.kind,
        entries.c.amount,
        accounts.c.exponent,
        entries.c.balance,
        transactions.c.idempotency_key,
        entries.c.recorded_at,
    )
    .join(
        transactions,
        (transactions.c.ledger_id == entries.c.ledger_id)
        & (transactions.c.id == entries.c.transaction_id),
    )
    .join(
        accounts,
        (accounts.c.ledger_id == entries.c.ledger_id) & (accounts.c.id == entries.c.account_id),
    )
    .where(
        entries.c.ledger_id == _ledger,
        entries.c.account_id == bindparam("account"),
        entries.c.seq < bindparam("before"),
    )
    .order_by(entries.c.seq.desc())
    .limit(bindparam("rows"))
)

_TRANSACTION = (
    select(
        transactions.c.id,
        transactions.c.kind,
        transactions.c.account_id,
        transactions.c.counterparty_id,
        transactions.c.idempotency_key,
        transactions.c.amount,
        accounts.c.currency,
        accounts.c.exponent,
        transactions.c.recorded_at,
        transactions.c.renderer,
        transactions.c.decline_reason,
        transactions.c.deciding_account_id,
        transactions.c.deciding_version,
        transactions.c.deciding_available,
    )
    .join(
        accounts,
        (accounts.c.ledger_id == transactions.c.ledger_id)
        & (accounts.c.id == transactions.c.account_id),
    )
    .where(transactions.c.ledger_id == _ledger)
)

FIND_TRANSACTION = _TRANSACTION.where(transactions.c.id == bindparam("transaction"))

FIND_KEY = _TRANSACTION.where(
    transactions.c.account_id == bindparam("account"),
    transactions.c.idempotency_key == bindparam("key"),
)

LIST_ENTRIES = select(*(entries.c[name] for name in Entry.__struct_fields__)).where(
    entries.c.ledger_id == _ledger, entries.c.transaction_id == bindparam("transaction")
)

_CURRENCY = select(currencies.c.code, currencies.c.exponent, currencies.c.name, currencies.c.number)

FIND_CURRENCY = _CURRENCY.where(currencies.c.code == bindparam("code"))

LIST_CURRENCIES = (
    _CURRENCY.where(
        currencies.c.code
        > func.coalesce(
            select(currencies.c.code)
            .where(currencies.c.number == bindparam("after"))
            .scalar_subquery(),
            "",
        )
    )
    .order_by(currencies.c.code)
    .limit(bindparam("rows"))
)

PAST_ALL_VERSIONS = BIGGEST_ID

Fields = tuple[Any, ...]


class Reader:
    """Reads one ledger.

    Every method raises Unavailable while the database is away, or silent for `deadline_s`, and
    InternalFault if it refuses.
    """

    def __init__(self, engine: AsyncEngine, ledger: int, deadline_s: float) -> None:
        self._engine = engine
        self._ledger = ledger
        self._deadline_s = deadline_s

    async def account(self, account_id: int) -> AccountView | None:
        """The account as it stands, or None."""
        row = await self._one(FIND_ACCOUNT, account=account_id)
        return None if row is None else AccountView(*row)

    async def accounts(
        self, owner: str | None, currency: str | None, after: int, rows: int
    ) -> list[AccountView]:
        """Up to `rows` customers' accounts with ids above `after` (0: from the first)."""
        statement = LIST_ACCOUNTS
        if owner is not None:
            statement = statement.where(accounts.c.owner == owner)
        if currency is not None:
            statement = statement.where(accounts.c.currency == currency)
        return [AccountView(*row) for row in await self._all(statement, after=after, rows=rows)]

    async def history(
        self, account_id: int, rows: int, before: int = PAST_ALL_VERSIONS
    ) -> list[HistoryEntry]:
        """Up to `rows` entries with versions below `before`, newest first."""
        found = await self._all(LIST_HISTORY, account=account_id, before=before, rows=rows)
        return [HistoryEntry(*(*row[:2], Kind(row[2]), *row[3:])) for row in found]

    async def transaction(self, transaction_id: int) -> Transaction | None:
        """The recorded transaction of that id, or None."""
        return await self._transaction(FIND_TRANSACTION, transaction=transaction_id)

    async def outcome(self, account_id: int, key: str) -> Transaction | None:
        """The recorded outcome of a key, or None."""
        return await self._transaction(FIND_KEY, account=account_id, key=key)

    async def currency(self, code: str) -> CurrencyView | None:
        """The currency of that code, or None."""
        row = await self._one(FIND_CURRENCY, code=code)
        return None if row is None else CurrencyView(*row)

    async def currencies(self, after: int, rows: int) -> list[CurrencyView]:
        """Up to `rows` currencies by code, after the one of that number (0: from the first)."""
        found = await self._all(LIST_CURRENCIES, after=after, rows=rows)
        return [CurrencyView(*row) for row in found]

    async def scalar(self, statement: Any) -> Any:
        """The one value of a statement, such as the schema's revision."""
        async with self._connection() as connection:
            return await connection.scalar(statement)

    async def _transaction(self, statement: Select[Any], **values: Any) -> Transaction | None:
        row = await self._one(statement, **values)
        if row is None:
            return None
        rows = await self._all(LIST_ENTRIES, transaction=row[0])
        return Transaction.of_row(row, [Entry(*entry) for entry in rows])

    async def _one(self, statement: Select[Any], **values: Any) -> Fields | None:
        rows = await self._all(statement, **values)
        return rows[0] if rows else None

    async def _all(self, statement: Select[Any], **values: Any) -> list[Fields]:
        async with self._connection() as connection:
            found = await connection.execute(statement, {"ledger": self._ledger, **values})
            return [tuple(row) for row in found]

    @asynccontextmanager
    async def _connection(self) -> AsyncIterator[AsyncConnection]:
        try:
            async with asyncio.timeout(self._deadline_s), self._engine.connect() as connection:
                yield connection
        except (DBAPIError, PoolTimeout, OSError) as error:  # TimeoutError is an OSError
            log.warning("a read failed: %s", " ".join(str(error).split()) or "no answer in time")
            if isinstance(error, ProgrammingError):
                raise InternalFault from error
            raise Unavailable from error
