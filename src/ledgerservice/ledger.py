"""The ledger in your own process: the same engine as behind HTTP, without HTTP.

    async with Ledger.open("postgresql://...") as ledger:
        outcome = await ledger.transfer(1, 2, "50.00", key="order-77")

An outcome is a value: `Recorded` (posted or declined; `outcome.posted` says which) or `Rejected`.
Faults are exceptions (`ledgerservice.errors`): after `Unavailable` send the same with the same key.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from typing import Any, Literal, Self, overload

import msgspec
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from ledgerservice.domain import currencies
from ledgerservice.domain.accounts import Opened, Opening
from ledgerservice.domain.currencies import Currency, CurrencyRequest
from ledgerservice.domain.history import PastCurrency
from ledgerservice.domain.instructions import (
    Detail,
    FieldType,
    Group,
    Instruction,
    Movement,
)
from ledgerservice.domain.ledgers import LedgerRequest, check_shards, is_ledger_name
from ledgerservice.domain.metadata import text_of_metadata
from ledgerservice.domain.movements import Amount, deposit, transfer, withdrawal
from ledgerservice.domain.transactions import Outcome, Outcomes, Rejected
from ledgerservice.domain.validation import (
    check_instructions,
    checked,
)
from ledgerservice.errors import CannotJoin, InvalidField
from ledgerservice.postgres.sharding.identity import MAIN
from ledgerservice.posting.history import Counts, Part, import_history
from ledgerservice.posting.joining import post_in
from ledgerservice.reads import LedgerReads
from ledgerservice.runtime import running
from ledgerservice.settings import Settings
from ledgerservice.shards import sharded

__all__ = ["Amount", "Ledger", "deposit", "transfer", "withdrawal"]


class Ledger(LedgerReads):
    """A ledger of a database. Safe to be shared by the tasks of one event loop."""

    @property
    def parts(self) -> list[Self]:
        """The parts of the ledger, which are ledgers to read: what lists all of it lists a part."""
        ids = () if self._readers.parts is None else self._readers.parts.ids
        return [type(self)(self._shards, one, self._principal_id) for one in ids]

    @classmethod
    @asynccontextmanager
    async def open(
        cls, url: str | None = None, *, principal: str | None = None
    ) -> AsyncIterator[Self]:
        """The ledger of the database at `url`, migrated if need be; None: as the environment says.

        What is written has `principal`, the name of one in the database, as its maker. On leaving,
        what was asked for is answered first. Raises LedgerError, whose message says what to do.
        """
        settings = Settings.load()
        if url is not None:
            settings = settings.model_copy(update={"database_url": SecretStr(url)})
        async with running(settings) as runtime, sharded(runtime, reading=True) as shards:
            yield cls(shards, principal_id=await runtime.principal_id(principal))

    async def add_currency(
        self, code: str, exponent: int, name: str, *, own: bool = False
    ) -> Currency | Rejected:
        """Add a currency; the same again is harmless, another of the code is rejected.

        `own`: only this ledger gets it. Raises InvalidField if a value is not valid: see
        `ledgerservice.domain.currencies`.
        """
        ledger = self._readers.only.ledger_id if own else None
        facts = code, exponent, name, False, self._principal_id
        currency = CurrencyRequest(*facts, ledger)
        if (fault := currencies.fault_of(currency)) is not None:
            raise fault
        return await self._shards.add_currency(currency)

    async def add_ledger(self, name: str, *, shards: int | None = None) -> Self:
        """The ledger of that name, which is added if it is not there; with `shards`, 2 to 64, of
        that many parts.

        Raises InvalidField if the name is not valid (see `ledgerservice.domain.ledgers`), or if the
        ledger is there and has another number of parts.
        """
        if not isinstance(name, str) or not is_ledger_name(name):
            raise InvalidField("name", "must be 1 to 63 small letters, digits, - and _")
        check_shards(shards)
        shard = MAIN if shards is not None else self._shards.roomiest()
        request = LedgerRequest(name, False, self._principal_id, shard, shards)
        added = await self._shards.add_ledger(request)
        if isinstance(added, Rejected):
            raise InvalidField("shards", "the ledger has another number of parts")
        return type(self)(self._shards, added.id, self._principal_id)

    async def ledger(self, name: str) -> Self | None:
        """The ledger of that name, or None."""
        ledger_id = await self._shards.main.ledger_id(name)
        if ledger_id is None:
            return None
        await (await self._shards.runtime_of(ledger_id)).parts_of(ledger_id)
        return type(self)(self._shards, ledger_id, self._principal_id)

    async def open_account(
        self,
        owner: str,
        currency: str,
        *,
        key: str,
        reference: str | None = None,
        metadata: str | dict[str, Any] | None = None,
    ) -> Opened | Rejected:
        """Open an account. `key` and `reference` keep a repeat from opening another.

        `metadata` is a dict, or the text of a JSON object. Raises InvalidField.
        """
        content = text_of_metadata(metadata) if isinstance(metadata, dict) else metadata
        checked(
            owner=(FieldType.NAME, owner or ""),
            currency=(FieldType.NAME, currency or ""),
            reference=(FieldType.NAME, reference),
            metadata=(FieldType.METADATA, content),
            key=(FieldType.KEY, key or ""),
        )
        return await self._runtime.open_account(
            Opening(
                owner,
                currency,
                reference,
                key,
                self._ledger,
                metadata=content,
                principal_id=self._principal_id,
            )
        )

    async def open_accounts(self, openings: Sequence[Opening]) -> list[Opened | Rejected]:
        """The answers to checked openings, in order; their `ledger` does not matter."""
        ours = {"ledger": self._ledger, "principal_id": self._principal_id}
        own = [msgspec.structs.replace(one, **ours) for one in openings]
        return await self._runtime.open_accounts(own)

    async def deposit(
        self, account_id: int, amount: Amount, *, key: str, detail: Detail | None = None
    ) -> Outcome:
        """Money into an account, from outside."""
        return await self._post_one(deposit(account_id, amount, key, detail))

    async def withdraw(
        self, account_id: int, amount: Amount, *, key: str, detail: Detail | None = None
    ) -> Outcome:
        """Money out of an account, to the outside."""
        return await self._post_one(withdrawal(account_id, amount, key, detail))

    async def transfer(
        self,
        from_account_id: int,
        to_account_id: int,
        amount: Amount,
        *,
        key: str,
        detail: Detail | None = None,
    ) -> Outcome:
        """Money from one account to another of the same currency."""
        return await self._post_one(transfer(from_account_id, to_account_id, amount, key, detail))

    async def _post_one(self, movement: Movement) -> Outcome:
        [outcome] = await self.post([movement])
        return outcome

    @overload
    async def post(
        self,
        movements: Sequence[Instruction],
        *,
        linked: Literal[False] = False,
        dry_run: bool = False,
    ) -> list[Outcome]: ...
    @overload
    async def post(
        self, movements: Sequence[Instruction], *, linked: Literal[True], dry_run: bool = False
    ) -> Outcomes: ...
    async def post(
        self, movements: Sequence[Instruction], *, linked: bool = False, dry_run: bool = False
    ) -> Outcomes:
        """The durable outcomes of `movements`, in order; each succeeds or fails for itself.

        `linked`: all are posted or none. If one fails, the answer is `Failed`: nothing was moved,
        no key is recorded, and the same may be sent again. Some thousand a call are fastest.
        Besides movements there are all instructions of `ledgerservice.domain.instructions`: holds,
        reversals, transactions of many legs. `dry_run`: the outcomes are what they would be, and
        nothing is written. Raises InvalidField if one is not valid.
        """
        check_instructions(movements)
        group = Group(movements, linked, self._ledger, dry_run, self._principal_id)
        return await self._shards.post(group)

    async def post_in(
        self,
        connection: AsyncConnection | AsyncSession,
        movements: Sequence[Instruction],
        *,
        linked: bool = False,
    ) -> Outcomes:
        """Post within a transaction of your own, on the same database, for you to commit.

        Provisional until you commit: give no answer to anyone before. The accounts stay locked
        until then, so commit soon. `connection` is SQLAlchemy's, or the session on one, which is
        flushed first. It has the driver psycopg, is at READ COMMITTED, and may be used for this
        once a transaction; its user needs the rights of the service's role. Your session's settings
        are the same afterwards; only synchronous_commit is on for this transaction if it was off or
        local. Nothing is retried: on an exception roll back, and do all of it again. Raises
        CannotJoin, InvalidField, or psycopg's errors.
        """
        check_instructions(movements)
        if isinstance(connection, AsyncSession):
            await connection.flush()
            connection = await connection.connection()
        if self._readers.parts is not None:
            raise CannotJoin("A ledger with parts has several journals.")
        schema = self._runtime.settings.schema_name
        group = Group(movements, linked, self._ledger, principal_id=self._principal_id)
        return await post_in(connection, schema, group)

    async def import_history(
        self,
        currencies: Iterable[PastCurrency],
        parts: Iterable[Part],
        *,
        dry_run: bool = False,
    ) -> Counts:
        """Continue a history that another ledger began: `ledgerservice.files.history` reads it.

        The ledger must be empty. All is imported, or nothing: then it raises HistoryFault, whose
        text says why, or Unavailable. A dry run does the same, and takes it back.
        """
        return await import_history(
            self._runtime.connect,
            self._readers.only.ledger_id,
            currencies,
            parts,
            dry_run=dry_run,
            principal_id=self._principal_id,
        )
