"""The readers of a ledger, or of the parts of it, on the shards that have them."""

from collections.abc import Sequence
from typing import NamedTuple

from ledgerservice.domain.instructions import BIGGEST_ID
from ledgerservice.domain.transactions import Transaction
from ledgerservice.errors import LedgerHasParts
from ledgerservice.postgres.queries.gathered.holds import HoldRead
from ledgerservice.postgres.queries.gathered.transactions import KeyRead, TransactionRead
from ledgerservice.postgres.queries.holds import HoldView
from ledgerservice.postgres.queries.transactions import Sited
from ledgerservice.postgres.reader import Reader
from ledgerservice.runtime import Runtime
from ledgerservice.shards import Shards


def possible_id(number: int) -> int:
    """The number, or 0, which is no id, for one that the database cannot look for."""
    return number if abs(number) <= BIGGEST_ID else 0


class Located(NamedTuple):
    """A ledger, or a part of one, and the running parts of the shard that has it."""

    ledger_id: int
    runtime: Runtime

    @property
    def reader(self) -> Reader:
        """The reader of this ledger."""
        return self.runtime.reader.of(self.ledger_id)


class Readers:
    """The readers of a ledger. Every method that waits raises Unavailable."""

    def __init__(self, shards: Shards, ledger_id: int) -> None:
        self._shards, self._ledger_id = shards, ledger_id
        self._crossings = shards.main.crossings
        self.parts = self._crossings.parts.get(ledger_id)

    async def home(self, account_id: int) -> Located:
        """The home of an account."""
        if self.parts is None:
            return self._whole
        return await self._part(self.parts.home(account_id))

    async def having(self, transaction_id: int) -> Located:
        """The home of a transaction."""
        if self.parts is None:
            return self._whole
        return await self._part(await self._crossings.routes.home_of(self.parts, transaction_id))

    @property
    def _whole(self) -> Located:
        return Located(self._ledger_id, self._shards.now(self._ledger_id))

    async def _part(self, ledger_id: int) -> Located:
        return Located(ledger_id, await self._shards.runtime_of(ledger_id))

    @property
    def only(self) -> Reader:
        """The reader of the whole ledger. Raises LedgerHasParts."""
        if self.parts is not None:
            raise LedgerHasParts
        return self._whole.reader

    async def of(self, account_id: int) -> Reader:
        """The reader of an account."""
        return (await self.home(account_id)).reader

    async def all(self) -> list[Reader]:
        """The readers of all parts."""
        if self.parts is None:
            return [self.only]
        return [(await self._part(one)).reader for one in self.parts.ids]

    async def transaction(self, transaction_id: int) -> Transaction | None:
        """The transaction with this id, or None."""
        transaction_id = possible_id(transaction_id)
        home = await self.having(transaction_id)
        return await self._find(home, TransactionRead(home.ledger_id, transaction_id))

    async def transaction_of_key(self, account_id: int, key: str) -> Transaction | None:
        """The transaction of a caller's key, or None."""
        account_id = possible_id(account_id)
        if not key.isascii() or "\0" in key:
            return None  # no such key is recorded
        home = await self.home(account_id)
        return await self._find(home, KeyRead(home.ledger_id, account_id, key))

    async def _find(self, home: Located, read: TransactionRead | KeyRead) -> Transaction | None:
        """A transaction; one to another part has the entries of both."""
        built = await home.runtime.reads.transactions.post(read)
        if built is None:
            return None
        return await self._crossings.shown(home.ledger_id, built.transaction)

    async def shown_all(self, listed: Sequence[Sited]) -> list[Transaction]:
        """Transactions of a list; those to other parts have the entries of both."""
        return await self._crossings.shown_all(listed)

    async def hold(self, hold_id: int) -> HoldView | None:
        """The hold with this id, or None."""
        hold_id = possible_id(hold_id)
        home = await self.having(hold_id)
        return await home.runtime.reads.holds.post(HoldRead(home.ledger_id, hold_id))
