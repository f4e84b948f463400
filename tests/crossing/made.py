"""A ledger of three parts with accounts in each, from Python."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from ledgerservice.domain.accounts import Opened
from ledgerservice.domain.instructions import Crossing, Group
from ledgerservice.ledger import Ledger
from ledgerservice.postgres.connections import Database
from ledgerservice.posting.parts.crossing import OpenHold
from ledgerservice.runtime import Runtime, posting
from ledgerservice.shards import Shards

PARTS = 3


class Market(NamedTuple):
    """The ledger, its process, and an account in each part, by its number."""

    ledger: Ledger
    runtime: Runtime
    accounts: list[int]


@asynccontextmanager
async def market(database: Database, funds: str = "1000") -> AsyncIterator[Market]:
    """Accounts with `funds` USD each, in the three parts of a new ledger."""
    async with posting(database) as runtime:
        ledger = await Ledger(Shards(runtime)).add_ledger("market", shards=PARTS)
        accounts = await account_in_each_part(ledger)
        for number in accounts:
            await ledger.deposit(number, funds, key="funding")
        yield Market(ledger, runtime, accounts)


async def account_in_each_part(ledger: Ledger, currency: str = "USD") -> list[int]:
    """Keys decide at random, so accounts are opened until each part has one."""
    by_part: dict[int, int] = {}
    number = 0
    while len(by_part) < PARTS:
        opened = await ledger.open_account("o", currency, key=f"{currency} {number}")
        assert isinstance(opened, Opened)
        by_part.setdefault(opened.account_id % PARTS, opened.account_id)
        number += 1
    return [by_part[part] for part in range(PARTS)]


def hold_of(made: Market, amount: str = "30", key: str = "k") -> Crossing:
    """The first step of a transfer from part 0 to part 1."""
    a, b, _ = made.accounts
    parts = made.runtime.crossings.parts
    [ours] = parts.values()
    return Crossing(a, b, ours.ids[1], ours.clearing_id(a, b, 1), amount, key)


async def held(made: Market) -> OpenHold:
    """A transfer whose process dies after the first step."""
    [ours] = made.runtime.crossings.parts.values()
    home = await made.runtime.crossings.home_of(ours.ids[0])
    [outcome] = await home.post(Group([hold_of(made)], ledger=ours.ids[0]))  # type: ignore[misc]
    assert outcome.posted
    return OpenHold(ours.ids[0], outcome.transaction)


async def credited(made: Market) -> OpenHold:
    """A transfer whose process dies after the second step."""
    hold = await held(made)
    home = await made.runtime.crossings.home_of(hold.to_ledger_id)
    [outcome] = await home.post(Group([hold.credit()], ledger=hold.to_ledger_id))  # type: ignore[misc]
    assert outcome.posted
    return hold
