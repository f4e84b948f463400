"""The ledger in your own process: the same engine as behind HTTP, without HTTP.

    async with Ledger.open("postgresql://...") as ledger:
        outcome = await ledger.transfer(1, 2, "50.00", key="order-77")

An outcome is a value: `Recorded` (posted or declined; `outcome.posted` says which) or `Rejected`.
Faults are exceptions (`ledgerservice.errors`): after `Unavailable` send the same with the same key.
"""

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from decimal import Decimal
from typing import Any, Literal, Self, overload

import psycopg
from pydantic import SecretStr
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from ledgerservice import journal, planner
from ledgerservice.errors import CannotJoin
from ledgerservice.model import (
    BIGGEST_ID,
    Currency,
    Failed,
    Group,
    Kind,
    Movement,
    Opened,
    Opening,
    Outcome,
    Outcomes,
    Rejected,
    Transaction,
    is_currency,
    is_key,
)
from ledgerservice.money import is_positive_amount
from ledgerservice.reads import AccountView, HistoryEntry
from ledgerservice.runtime import Runtime, running
from ledgerservice.schema import DEFAULT_LEDGER
from ledgerservice.settings import Settings
from ledgerservice.wire import Wire

Amount = str | int | Decimal
"""A positive amount in major units: "50.00", 50 or Decimal("50.00"); never a float."""


def deposit(account_id: int, amount: Amount, key: str) -> Movement:
    """Money into an account, from outside. Raises ValueError if it is no such movement."""
    return _movement(Kind.DEPOSIT, account_id, None, amount, key)


def withdrawal(account_id: int, amount: Amount, key: str) -> Movement:
    """Money out of an account, to the outside. Raises ValueError if it is no such movement."""
    return _movement(Kind.WITHDRAWAL, account_id, None, amount, key)


def transfer(from_account_id: int, to_account_id: int, amount: Amount, key: str) -> Movement:
    """Money from one account to another. Raises ValueError if it is no such movement."""
    return _movement(Kind.TRANSFER, from_account_id, to_account_id, amount, key)


def _movement(kind: Kind, account: int, other: int | None, amount: Amount, key: str) -> Movement:
    plain = format(amount, "f") if isinstance(amount, Decimal) else amount
    if isinstance(plain, int) and not isinstance(plain, bool):
        plain = str(plain)
    if not isinstance(plain, str) or not is_positive_amount(plain):
        raise ValueError("the amount is no positive plain decimal (a float never is)")
    if not is_key(key):
        raise ValueError("a key is 1 to 255 printable ASCII characters")
    if any(type(i) is not int or abs(i) > BIGGEST_ID for i in (account, other or 0)):
        raise ValueError("an account's id is an integer of 64 bits")
    return Movement(kind, account, other, plain, key)


class Ledger:
    """The default ledger of a database. Safe to be shared by the tasks of one event loop."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime

    @classmethod
    @asynccontextmanager
    async def open(cls, url: str | None = None) -> AsyncIterator[Self]:
        """The ledger of the database at `url`; None: as the environment says.

        It is migrated if need be. Raises a LedgerError whose message says what to do. On leaving,
        what was asked for is answered first.
        """
        settings = Settings.load()
        if url is not None:
            settings = settings.model_copy(update={"database_url": SecretStr(url)})
        async with running(settings) as runtime:
            yield cls(runtime)

    async def add_currency(self, code: str, exponent: int, name: str) -> Currency | Rejected:
        """Add a currency; the same again is harmless, another of the code is rejected.

        Raises ValueError if it is none: see `ledgerservice.model.is_currency`.
        """
        currency = Currency(code, exponent, name)
        if not is_currency(currency):
            raise ValueError("a currency has a code like BTC, 0 to 12 decimals, and a short name")
        return await self._runtime.currencies.post(currency)

    async def open_account(
        self, owner: str, currency: str, *, key: str, reference: str | None = None
    ) -> Opened | Rejected:
        """Open an account. `key` and `reference` keep a repeat from opening another."""
        return await self._runtime.openings.post(Opening(owner, currency, reference, key))

    async def deposit(self, account_id: int, amount: Amount, *, key: str) -> Outcome:
        """Money into an account, from outside."""
        return await self._post_one(deposit(account_id, amount, key))

    async def withdraw(self, account_id: int, amount: Amount, *, key: str) -> Outcome:
        """Money out of an account, to the outside."""
        return await self._post_one(withdrawal(account_id, amount, key))

    async def transfer(
        self, from_account_id: int, to_account_id: int, amount: Amount, *, key: str
    ) -> Outcome:
        """Money from one account to another of the same currency."""
        return await self._post_one(transfer(from_account_id, to_account_id, amount, key))

    async def _post_one(self, movement: Movement) -> Outcome:
        [outcome] = await self.post([movement])
        return outcome

    @overload
    async def post(
        self, movements: Sequence[Movement], *, linked: Literal[False] = False
    ) -> list[Outcome]: ...
    @overload
    async def post(self, movements: Sequence[Movement], *, linked: Literal[True]) -> Outcomes: ...
    async def post(self, movements: Sequence[Movement], *, linked: bool = False) -> Outcomes:
        """The durable outcomes of `movements`, in order; each succeeds or fails for itself.

        `linked`: all are posted or none. If one fails, the answer is `Failed`: nothing was moved,
        no key is recorded, and the same may be sent again. Some thousand a call are fastest.
        """
        return await self._runtime.movements.post(Group(movements, linked))

    async def post_in(
        self, connection: AsyncConnection, movements: Sequence[Movement], *, linked: bool = False
    ) -> Outcomes:
        """Post within a transaction of your own, on the same database, for you to commit.

        Provisional until you commit: give no answer to anyone before. The accounts stay locked
        until then, so commit soon. `connection` is SQLAlchemy's, with the driver psycopg, at READ
        COMMITTED, and may be used for this once a transaction; its user needs the rights of the
        service's role. Nothing is retried: on an exception roll back, and do all of it again.
        Raises CannotJoin, or psycopg's errors.
        """
        wire = Wire(await _join(connection), lasting=False)
        try:
            return await _post_in(wire, Group(movements, linked))
        except psycopg.Error:
            raise
        except BaseException:
            # Left in mid-exchange, it is of no use to anyone.
            await connection.invalidate()
            raise
        finally:
            wire.release()

    async def account(self, account_id: int) -> AccountView | None:
        """The account as it stands, amounts in minor units; or None."""
        return await self._runtime.reader.account(account_id)

    async def history(
        self, account_id: int, limit: int = 100, *, before_version: int = BIGGEST_ID
    ) -> list[HistoryEntry]:
        """Up to `limit` entries with versions below `before_version`, newest first."""
        return await self._runtime.reader.history(account_id, limit, before_version)

    async def transaction(self, transaction_id: int) -> Transaction | None:
        """The transaction, or the record of a decline; or None."""
        return await self._runtime.reader.transaction(transaction_id)

    async def outcome_of(self, account_id: int, key: str) -> Transaction | None:
        """What became of a key of an account; None if it has no record."""
        return await self._runtime.reader.outcome(account_id, key)


async def _join(connection: AsyncConnection) -> "psycopg.AsyncConnection[Any]":
    """The driver's connection. Raises CannotJoin if its transaction is none to post in."""
    driver = (await connection.get_raw_connection()).driver_connection
    if not isinstance(driver, psycopg.AsyncConnection):
        raise CannotJoin("Its driver is not psycopg (postgresql+psycopg://).")
    row: Any = (await connection.execute(text(journal.JOIN_TRANSACTION))).one()
    if row.isolation != "read committed":
        raise CannotJoin(f"It is at {row.isolation.upper()}, not at READ COMMITTED.")
    if row.posted:
        raise CannotJoin("It has been posted in once; a second time could deadlock.")
    if driver.info.transaction_status == psycopg.pq.TransactionStatus.IDLE:
        raise CannotJoin("It is in autocommit: there is no transaction to join.")
    return driver


async def _post_in(wire: Wire, group: Group) -> list[Outcome] | Failed:
    blocks = -(-len(group.movements) // journal.ID_BLOCK)
    locked = await journal.lock(wire, DEFAULT_LEDGER, group.movements, blocks)
    ids = (number for block in locked.blocks for number in range(block, block + journal.ID_BLOCK))
    plan = planner.plan([group], locked.accounts, locked.earlier, locked.now, ids)
    await journal.write(wire, DEFAULT_LEDGER, plan)
    return plan.answers[0]
