"""The ledger in your own process: the same engine as behind HTTP, without HTTP.

    async with Ledger.open("postgresql://...") as ledger:
        outcome = await ledger.transfer(1, 2, "50.00", key="order-77")

An outcome is a value: `Recorded` (posted or declined; `outcome.posted` says which) or `Rejected`.
Faults are exceptions (`ledgerservice.errors`): after `Unavailable` send the same with the same key.
"""

from collections.abc import AsyncIterator, Iterable, Sequence
from contextlib import asynccontextmanager
from datetime import datetime
from itertools import chain
from typing import Any, Literal, Self, overload

import msgspec
from pydantic import SecretStr
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncSession

from ledgerservice.domain import currencies
from ledgerservice.domain.accounts import Opened, Opening
from ledgerservice.domain.currencies import Currency, CurrencyRequest
from ledgerservice.domain.history import PastCurrency
from ledgerservice.domain.instructions import (
    BIGGEST_ID,
    Detail,
    FieldType,
    Group,
    Instruction,
    Movement,
)
from ledgerservice.domain.ledgers import LedgerRequest, check_shards, is_ledger_name
from ledgerservice.domain.metadata import text_of_metadata
from ledgerservice.domain.movements import Amount, deposit, transfer, withdrawal
from ledgerservice.domain.timestamps import TimeOf
from ledgerservice.domain.transactions import Outcome, Outcomes, Rejected, Transaction
from ledgerservice.domain.validation import (
    check_by,
    check_instructions,
    check_list,
    check_period,
    check_time,
    checked,
)
from ledgerservice.errors import CannotJoin, InvalidField
from ledgerservice.feed.balances import find_account
from ledgerservice.feed.reading import Chunk, Position
from ledgerservice.postgres.queries import (
    accounts,
    as_of,
    effective,
    holds,
    reports,
    schedules,
    statements,
    transactions,
)
from ledgerservice.postgres.queries.accounts import (
    AccountFilter,
    AccountView,
    HistoryEntry,
    NamedAccount,
    PolicyView,
)
from ledgerservice.postgres.queries.gathered.accounts import AccountRead, HistoryRead
from ledgerservice.postgres.queries.holds import HoldView
from ledgerservice.postgres.queries.schedules import ScheduleView
from ledgerservice.postgres.queries.transaction_filters import TransactionFilter
from ledgerservice.postgres.schema import DEFAULT_LEDGER
from ledgerservice.postgres.search import Place
from ledgerservice.postgres.sharding.identity import MAIN
from ledgerservice.posting.history import Counts, Part, import_history
from ledgerservice.posting.joining import post_in
from ledgerservice.readers import Readers, is_id
from ledgerservice.runtime import Runtime, running
from ledgerservice.settings import Settings
from ledgerservice.shards import Shards, sharded

__all__ = ["Amount", "Ledger", "deposit", "transfer", "withdrawal"]

ALL_ACCOUNTS, ALL_TRANSACTIONS = AccountFilter(), TransactionFilter()


class Ledger:
    """A ledger of a database. Safe to be shared by the tasks of one event loop."""

    def __init__(self, shards: Shards, ledger: int = DEFAULT_LEDGER, principal_id: int = 0) -> None:
        self._shards = shards
        self._ledger = ledger
        self._principal_id = principal_id

    @property
    def _runtime(self) -> Runtime:
        return self._shards.now(self._ledger)

    @property
    def _readers(self) -> Readers:
        return Readers(self._shards, self._ledger)

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

    # Reads return amounts in minor units. A timestamp without a zone raises InvalidField.

    async def account(
        self, account_id: int, *, cached: bool = False, standby: bool = False, min_version: int = 0
    ) -> AccountView | None:
        """The account as it stands, or None.

        With `cached` it may come from the cache (LEDGER_CACHE) and be older: then it is a
        `ledgerservice.feed.balances.CachedAccount`, of `min_version` or a newer one. With `standby`
        it may be a `ledgerservice.posting.standby.StandbyAccount` from LEDGER_STANDBY_URL.
        """
        if not is_id(account_id):
            return None
        ledger_id, runtime = await self._readers.home(account_id)
        cache = runtime.standby if standby else runtime.cache if cached else None
        read = AccountRead(ledger_id, account_id)
        return await find_account(cache, runtime.reads.accounts.post, read, min_version)

    async def account_at(self, account_id: int, at: datetime) -> as_of.AccountAt | None:
        """The account as of a time, as recorded and as effective; or None."""
        checked(at=(FieldType.TIME, at))
        return await as_of.account_at(await self._readers.of(account_id), account_id, at)

    async def accounts(
        self, filters: AccountFilter = ALL_ACCOUNTS, limit: int = 100, *, after: Place | None = None
    ) -> tuple[list[AccountView], Place | None]:
        """Up to `limit` accounts, and the place after which the next page begins, if any."""
        check_list(filters, after)
        return await accounts.list_filtered(self._readers.only, filters, limit, after)

    async def named_accounts(
        self, references: Sequence[str], ids: Sequence[int]
    ) -> list[NamedAccount]:
        """The accounts that have one of these references or ids."""
        lists = [
            await accounts.list_named(one, references, ids) for one in await self._readers.all()
        ]
        return list(chain.from_iterable(lists))

    async def transactions(
        self,
        filters: TransactionFilter = ALL_TRANSACTIONS,
        limit: int = 100,
        *,
        after: Place | None = None,
    ) -> tuple[list[Transaction], Place | None]:
        """As `accounts`, of transactions, the latest first by the time that `filters.by` names."""
        check_list(filters, after)
        check_by(filters.by)
        return await transactions.list_filtered(self._readers.only, filters, limit, after)

    async def statement(
        self,
        account_id: int,
        since: datetime | None = None,
        until: datetime | None = None,
        *,
        by: TimeOf = "recorded",
    ) -> statements.StatementPeriod | effective.EffectivePeriod | None:
        """Opening and closing balance of what was recorded in [since, until), or None. With
        `by="effective"`: of what takes effect in that time.

        Raises InvalidField if `until` is before `since`.
        """
        check_period(since, until)
        check_by(by)
        find = effective.find_period if by == "effective" else statements.find_period
        return await find(await self._readers.of(account_id), account_id, since, until)

    async def lines(
        self, statement: statements.StatementPeriod | effective.EffectivePeriod
    ) -> AsyncIterator[statements.StatementLine]:
        """The entries of a statement, oldest first."""
        reader = await self._readers.of(statement.account_id)
        if isinstance(statement, effective.EffectivePeriod):
            chunks = effective.list_all_lines(reader, statement)
        else:
            chunks = statements.list_all_lines(reader, statement)
        async for chunk in chunks:
            for line in chunk:
                yield line

    async def trial_balance(
        self, at: datetime | None = None, *, by: TimeOf = "recorded"
    ) -> tuple[list[reports.TrialBalanceRow], bool]:
        """All balances by currency, as they stand or as of a time, and whether they are final.
        With `by="effective"`: the balances of all that takes effect by `at`, which must be there.
        """
        check_time(at, by)
        readers = await self._readers.all()
        return await reports.trial_balance_of_all(readers, at, by)

    async def owner_balances(
        self,
        limit: int = 100,
        *,
        after: tuple[str, str] | None = None,
        at: datetime | None = None,
        by: TimeOf = "recorded",
    ) -> list[reports.OwnerBalance]:
        """Up to `limit` balances ordered by owner and currency, after that pair; `at` and `by` are
        as in `trial_balance`. As effective nothing is held: `held` is None.
        """
        check_time(at, by)
        readers = await self._readers.all()
        return await reports.list_owner_balances_of_all(readers, limit, after, at, by)

    async def totals(
        self,
        key: str,
        since: datetime | None = None,
        until: datetime | None = None,
        limit: int = 100,
        *,
        after: reports.TotalPlace | None = None,
        by: TimeOf = "recorded",
    ) -> list[tuple[reports.MetadataTotal, reports.TotalPlace]]:
        """Up to `limit` sums of what was recorded in [since, until), or takes effect then, by the
        values of a metadata key, each with the place after which the next page begins.
        """
        check_period(since, until)
        check_by(by)
        return await reports.list_totals(self._readers.only, key, since, until, limit, after, by)

    async def hold(self, transaction_id: int) -> HoldView | None:
        """The hold that a transaction placed, as it stands; or None."""
        return await self._readers.hold(transaction_id)

    async def schedule(self, transaction_id: int) -> ScheduleView | None:
        """The transfer that a transaction scheduled, as it stands; or None."""
        reader = (await self._readers.having(transaction_id)).reader
        return await schedules.find(reader, transaction_id)

    async def holds(
        self, account_id: int, limit: int = 100, *, after: HoldView | None = None
    ) -> list[HoldView]:
        """Up to `limit` open holds of an account, ordered by `ends_at`; those without come last."""
        place = None if after is None else (after.ends_at, after.id)
        return await holds.list_open(await self._readers.of(account_id), account_id, limit, place)

    async def schedules(
        self, account_id: int, limit: int = 100, *, after: ScheduleView | None = None
    ) -> list[ScheduleView]:
        """Up to `limit` pending scheduled transfers from an account, ordered by `execute_at`."""
        place = None if after is None else (after.execute_at, after.id)
        reader = await self._readers.of(account_id)
        return await schedules.list_pending(reader, account_id, limit, place)

    async def policies(
        self, account_id: int, limit: int = 100, *, before_version: int = BIGGEST_ID
    ) -> list[PolicyView]:
        """Up to `limit` policies with versions below `before_version`, newest first."""
        reader = await self._readers.of(account_id)
        return await accounts.list_policies(reader, account_id, limit, before_version)

    async def history(
        self,
        account_id: int,
        limit: int = 100,
        *,
        before_version: int = BIGGEST_ID,
        from_store: bool = False,
    ) -> list[HistoryEntry]:
        """Up to `limit` entries with versions below `before_version`, newest first.

        `from_store`: out of the store of LEDGER_HISTORY, if it provably has what the journal has.
        """
        ledger_id, runtime = await self._readers.home(account_id)
        if from_store and (history := runtime.history) is not None:
            reader = await self._readers.of(account_id)
            entries = await history.page(reader, account_id, limit, before_version)
            if entries is not None:
                return entries
        read = HistoryRead(ledger_id, account_id, before_version, limit)
        return await runtime.reads.histories.post(read)

    async def transaction(self, transaction_id: int) -> Transaction | None:
        """The transaction with this id, posted or declined, or None."""
        return await self._readers.transaction(transaction_id)

    async def events(
        self, after: Position | None = None, limit: int = 1_000, *, wait_s: float = 0
    ) -> Chunk:
        """Up to `limit` events after a position, oldest first, and the position after them.

        None: from the first event. It waits for an event up to `wait_s` seconds. Begin again with
        the position of the chunk: each event comes once. Raises PositionLost if the database lost
        what the position stands for, and Unavailable.
        """
        feed = self._runtime.feed
        start = await feed.start() if after is None else after
        return await feed.read(start, limit, ledger=self._readers.only.ledger_id, wait_s=wait_s)

    async def outcome_of(self, account_id: int, key: str) -> Transaction | None:
        """The transaction recorded for an account's idempotency key, or None."""
        return await self._readers.transaction_of_key(account_id, key)
