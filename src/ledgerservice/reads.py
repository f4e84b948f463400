"""What can be read of a ledger in Python.

Amounts are in minor units. A timestamp without a zone raises InvalidField. What has an id that the
database cannot have, such as 2**63, is not there.
"""

from collections.abc import AsyncIterator, Sequence
from datetime import datetime
from itertools import chain

from ledgerservice.domain.instructions import (
    BIGGEST_ID,
    FieldType,
)
from ledgerservice.domain.timestamps import TimeOf
from ledgerservice.domain.transactions import Transaction
from ledgerservice.domain.validation import (
    check_by,
    check_list,
    check_period,
    check_storable,
    check_time,
    checked,
    is_storable,
)
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
from ledgerservice.readers import Readers, possible_id
from ledgerservice.runtime import Runtime
from ledgerservice.shards import Shards

ALL_ACCOUNTS, ALL_TRANSACTIONS = AccountFilter(), TransactionFilter()


class LedgerReads:
    """The reads of a ledger."""

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

    async def account(
        self, account_id: int, *, cached: bool = False, standby: bool = False, min_version: int = 0
    ) -> AccountView | None:
        """The account as it stands, or None.

        With `cached` it may come from the cache (LEDGER_CACHE) and be older: then it is a
        `ledgerservice.feed.balances.CachedAccount`, of `min_version` or a newer one. With `standby`
        it may be a `ledgerservice.posting.standby.StandbyAccount` from LEDGER_STANDBY_URL.
        """
        account_id = possible_id(account_id)
        ledger_id, runtime = await self._readers.home(account_id)
        cache = runtime.standby if standby else runtime.cache if cached else None
        read = AccountRead(ledger_id, account_id)
        return await find_account(cache, runtime.reads.accounts.post, read, min_version)

    async def account_at(self, account_id: int, at: datetime) -> as_of.AccountAt | None:
        """The account as of a time, as recorded and as effective; or None."""
        account_id = possible_id(account_id)
        checked(at=(FieldType.TIME, at))
        return await as_of.account_at(await self._readers.of(account_id), account_id, at)

    async def accounts(
        self, filters: AccountFilter = ALL_ACCOUNTS, limit: int = 100, *, after: Place | None = None
    ) -> tuple[list[AccountView], Place | None]:
        """Up to `limit` accounts, and the place after which the next page begins, if any."""
        check_list(filters, after)
        readers = await self._readers.all()
        return await accounts.list_filtered_of_all(readers, filters, limit, after)

    async def named_accounts(
        self, references: Sequence[str], ids: Sequence[int]
    ) -> list[NamedAccount]:
        """The accounts that have one of these references or ids."""
        texts = [text for text in references if is_storable(text)]
        numbers = [possible_id(number) for number in ids]
        readers = await self._readers.all()
        lists = [await accounts.list_named(reader, texts, numbers) for reader in readers]
        return list(chain.from_iterable(lists))

    async def transactions(
        self,
        filters: TransactionFilter = ALL_TRANSACTIONS,
        limit: int = 100,
        *,
        after: Place | None = None,
    ) -> tuple[list[Transaction], Place | None]:
        """As `accounts`, of transactions, the latest first by the time that `filters.by` names.

        Of a ledger with parts with `filters.whole`: a transfer between two parts is listed once,
        with both halves.
        """
        check_list(filters, after)
        check_by(filters.by)
        readers = await self._readers.all()
        rows, end = await transactions.list_filtered_of_all(readers, filters, limit, after)
        if filters.whole:
            return await self._readers.shown_all(rows), end
        return [row.transaction for row in rows], end

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
        account_id = possible_id(account_id)
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
        check_storable(key=key)
        readers = await self._readers.all()
        return await reports.list_totals_of_all(readers, key, since, until, limit, after, by)

    async def hold(self, transaction_id: int) -> HoldView | None:
        """The hold that a transaction placed, as it stands; or None."""
        return await self._readers.hold(transaction_id)

    async def schedule(self, transaction_id: int) -> ScheduleView | None:
        """The transfer that a transaction scheduled, as it stands; or None."""
        transaction_id = possible_id(transaction_id)
        reader = (await self._readers.having(transaction_id)).reader
        return await schedules.find(reader, transaction_id)

    async def holds(
        self, account_id: int, limit: int = 100, *, after: HoldView | None = None
    ) -> list[HoldView]:
        """Up to `limit` open holds of an account, ordered by `ends_at`; those without come last."""
        account_id = possible_id(account_id)
        place = None if after is None else (after.ends_at, after.id)
        return await holds.list_open(await self._readers.of(account_id), account_id, limit, place)

    async def schedules(
        self, account_id: int, limit: int = 100, *, after: ScheduleView | None = None
    ) -> list[ScheduleView]:
        """Up to `limit` pending scheduled transfers from an account, ordered by `execute_at`."""
        account_id = possible_id(account_id)
        place = None if after is None else (after.execute_at, after.id)
        reader = await self._readers.of(account_id)
        return await schedules.list_pending(reader, account_id, limit, place)

    async def policies(
        self, account_id: int, limit: int = 100, *, before_version: int = BIGGEST_ID
    ) -> list[PolicyView]:
        """Up to `limit` policies with versions below `before_version`, newest first."""
        account_id = possible_id(account_id)
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
        account_id = possible_id(account_id)
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
