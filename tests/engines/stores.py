"""Targets under test, as their readers see them, and their comparison with the journal."""

import asyncio
from abc import ABC, abstractmethod
from collections import Counter
from collections.abc import Iterator
from itertools import pairwise
from typing import NamedTuple

from ledgerservice.domain.events import Event
from ledgerservice.feed.reading import Feed
from ledgerservice.postgres.connections import Database
from tests.databases import connect
from tests.engines.process import Engine

Account = tuple[int, int]
"""Ledger and account."""


class EntryRow(NamedTuple):
    """An entry as a reader gets it. Amounts are in minor units."""

    ledger_id: int
    account_id: int
    version: int
    transaction_id: int
    amount: int
    held_change: int
    balance: int
    held: int


class Balance(NamedTuple):
    """What an account has, by the newest version that a reader gets."""

    version: int
    balance: int
    held: int


class State(NamedTuple):
    """What a reader gets of an epoch: the entries, those of an account in the order in which it
    gets them, oldest first; and the balances. None: the target does not keep them.
    """

    entries: list[EntryRow] | None = None
    balances: dict[Account, Balance] | None = None


class Store(ABC):
    """A target in an engine, with a name of its own in it."""

    engine: Engine
    url: str
    """As in LEDGER_PUBLISH."""

    @abstractmethod
    def state(self, epoch: int = 1) -> State:
        """What a reader of this epoch gets."""

    @abstractmethod
    def forget_position(self) -> None:
        """Delete the position, so that the next publisher begins from the start."""


def events_of(database: Database) -> list[Event]:
    """All events, as the feed has them."""

    async def read() -> list[Event]:
        feed = Feed(database.connect_writer)
        chunk = await feed.read(await feed.start(), 1_000_000)
        await feed.close()
        return chunk.events

    return asyncio.run(read())


def differences(database: Database, state: State) -> list[str]:
    """What is missing, extra, twice, out of order or gone back, compared with the journal."""
    entries, balances = journal(database)
    found: list[str] = []
    if state.entries is not None:
        found += _entry_differences(entries, state.entries)
    if state.balances is not None:
        found += [f"account {a}: missing" for a in balances.keys() - state.balances.keys()]
        found += [f"account {a}: extra" for a in state.balances.keys() - balances.keys()]
        found += [
            f"account {a}: {state.balances[a]}, not {balance}"
            for a, balance in balances.items()
            if a in state.balances and state.balances[a] != balance
        ]
    return found


def _entry_differences(expected: list[EntryRow], entries: list[EntryRow]) -> Iterator[str]:
    counts = Counter(entries)
    yield from (f"missing: {entry}" for entry in expected if entry not in counts)
    yield from (f"extra: {entry}" for entry in counts.keys() - set(expected))
    yield from (f"{number} times: {entry}" for entry, number in counts.items() if number > 1)
    by_account: dict[Account, list[int]] = {}
    for entry in entries:
        by_account.setdefault(entry[:2], []).append(entry.version)
    for account, versions in by_account.items():
        if any(after <= before for before, after in pairwise(versions)):
            yield f"account {account}: out of order"


def journal(database: Database) -> tuple[list[EntryRow], dict[Account, Balance]]:
    """All entries of customers' accounts, and of external ones; and the accounts that have some."""
    columns = ", ".join(EntryRow._fields).replace("version", "seq")
    with connect(database) as owner:
        rows = owner.execute(
            f"SELECT {columns} FROM ledger.entries ORDER BY ledger_id, account_id, seq"
        ).fetchall()
    entries = [EntryRow(*row) for row in rows]
    return entries, {e[:2]: Balance(e.version, e.balance, e.held) for e in entries}
