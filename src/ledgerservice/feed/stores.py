"""What is read back from a store: rows of accounts and their heads, for history and `compare`.

Each module of `targets` has `store_of(url) -> Store`.
"""

import hashlib
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple, Protocol, Self

import msgspec

from ledgerservice.domain.events import Event, Line
from ledgerservice.domain.timestamps import microseconds
from ledgerservice.errors import ConfigurationError
from ledgerservice.feed.targets import Published, module_of
from ledgerservice.feed.urls import scheme_of

HISTORIES = ("cassandra", "dynamodb")
BUCKET_VERSIONS = 1_000
"""The versions of an account that stand in one partition."""


class Account(NamedTuple):
    """An account of a ledger."""

    ledger_id: int
    account_id: int


class Row(NamedTuple):
    """An entry as a store has it. Amounts are in minor units, `recorded_at` in microseconds since
    1970. A row that somebody changed by hand can have anything in it, None too.
    """

    version: int
    transaction_id: int
    kind: int
    amount: int
    held_change: int
    balance: int
    held: int
    currency: str
    exponent: int
    key: str
    origin: int
    recorded_at: int
    checksum: int = 0

    @classmethod
    def of(cls, epoch: int, account: Account, line: Line) -> Self:
        """The row of a line, with its checksum."""
        return cls(
            line.version,
            line.transaction_id,
            int(line.kind),
            line.amount,
            line.held_change,
            line.balance,
            line.held,
            line.currency,
            line.exponent,
            line.key,
            int(line.origin),
            microseconds(line.recorded_at),
        ).sealed(epoch, account)

    def sealed(self, epoch: int, account: Account) -> Self:
        """The row with the checksum of its other fields and its place."""
        return self._replace(checksum=_checksum(epoch, *account, *self[:-1]))

    def is_intact(self, epoch: int, account: Account) -> bool:
        """Whether the row is as it was written."""
        return self.checksum == _checksum(epoch, *account, *self[:-1])


_encode = msgspec.msgpack.Encoder().encode


def _checksum(*values: int | str | None) -> int:
    return int.from_bytes(hashlib.sha256(_encode(values)).digest()[:8], signed=True)


class Head(NamedTuple):
    """What an account has after its newest entry, as a store has it."""

    version: int
    balance: int
    held: int
    transaction_id: int

    @classmethod
    def of(cls, row: Row) -> Self:
        """The head after a row."""
        return cls(row.version, row.balance, row.held, row.transaction_id)


class WholeHead(NamedTuple):
    """The same with what readers of balances get beside them."""

    version: int
    balance: int
    held: int
    transaction_id: int
    currency: str
    exponent: int
    recorded_at: int

    @classmethod
    def of(cls, row: Row) -> Self:
        """The head after a row."""
        numbers = row.version, row.balance, row.held, row.transaction_id
        return cls(*numbers, row.currency, row.exponent, row.recorded_at)


class Span(NamedTuple):
    """The versions from `first` to `last` of an account, both included."""

    account: Account
    first: int
    last: int


OPENED = -1


class Place(NamedTuple):
    """That a store has something of an account: of its versions from `version` on, 0 for a head,
    OPENED for an account without entries.
    """

    account: Account
    version: int


class Store(Protocol):
    """A server that events were published to, seen by a reader. It makes and changes nothing.

    The methods block, and threads may share them. They raise TargetFault, also when the server does
    not answer within about ten seconds.
    """

    name: str
    """The address without passwords."""
    head: type[Head] | type[WholeHead]
    """What `heads` returns."""

    def open(self) -> Published | None:
        """Connect, and return how far the store is."""

    def rows(self, epoch: int, spans: Sequence[Span]) -> list[list[Row]] | None:
        """The rows of each span in the order in which a reader gets them, which is that of their
        versions; None if the store keeps no rows.
        """

    def heads(
        self, epoch: int, accounts: Sequence[Account]
    ) -> Sequence[Head | WholeHead | None] | None:
        """The head of each account, None if it has none; None if the store keeps no heads."""

    def places(self, epoch: int) -> Iterator[Place]:
        """Everywhere that the store has something, in any order, also more than once."""

    def close(self) -> None:
        """Disconnect. It may be called at any time, and raises nothing."""


def store_of(url: str, setting: str = "--store") -> Store:
    """The store of a URL. Raises ConfigurationError."""
    store: Store = module_of(url, setting).store_of(url)
    return store


def history_of(url: str) -> Store:
    """The store of LEDGER_HISTORY, which finds rows by account. Raises ConfigurationError."""
    store = store_of(url, "LEDGER_HISTORY")
    if scheme_of(url) not in HISTORIES:
        raise ConfigurationError(f"LEDGER_HISTORY begins with {' or '.join(HISTORIES)}.")
    return store


def buckets_of(first: int, last: int) -> range:
    """The buckets of the versions from `first` to `last`."""
    return range(first // BUCKET_VERSIONS, last // BUCKET_VERSIONS + 1)


def rows_of(epoch: int, events: Iterable[Event]) -> dict[tuple[Account, int], list[Row]]:
    """The rows of events by account and bucket."""
    rows: dict[tuple[Account, int], list[Row]] = {}
    for event in events:
        for line in event.lines:
            account = Account(event.ledger_id, line.account_id)
            partition = account, line.version // BUCKET_VERSIONS
            rows.setdefault(partition, []).append(Row.of(epoch, account, line))
    return rows


def heads_of(events: Iterable[Event]) -> dict[Account, Head]:
    """The newest heads of the accounts of events, which are in order."""
    return {
        Account(event.ledger_id, line.account_id): Head(
            line.version, line.balance, line.held, line.transaction_id
        )
        for event in events
        for line in event.lines
    }
