"""A ledger moves while others write to it: nothing is lost, and nothing is recorded twice."""

import asyncio
from collections import Counter
from contextlib import AsyncExitStack
from typing import Any

import pytest

from ledgerservice import Ledger
from ledgerservice.domain.transactions import Recorded
from ledgerservice.errors import LedgerMoving, MoveFault
from ledgerservice.postgres.moving import mover
from ledgerservice.postgres.moving.mover import move
from tests.databases import connect
from tests.postgres.moving.places import Shards, home_of, ledger_of, quiet

OLD_S = 0.3
"""How old a writer's directory may be."""


class Load:
    """Writers that know the directory, each with a key of its own for every deposit."""

    def __init__(self, shards: Shards, ledger: int) -> None:
        self._shards = shards
        self._ledger = ledger
        self._read_at_s = -OLD_S
        self._home = "main"
        self.answered: set[str] = set()
        self.refused = 0
        self.longest_s = 0.0
        self.ended = False

    async def run(self, work: Any, writers: int = 4) -> Any:
        """What `work` returns. The writers write meanwhile, and some time before and after."""
        async with AsyncExitStack() as stack:
            ledgers = {
                name: await stack.enter_async_context(ledger_of(database, self._ledger))
                for name, database in self._shards.items()
            }
            running = [asyncio.create_task(self._write(ledgers, one)) for one in range(writers)]
            await asyncio.sleep(0.3)
            try:
                return await asyncio.to_thread(work)
            finally:
                await asyncio.sleep(0.3)
                self.ended = True
                await asyncio.gather(*running)

    async def _write(self, ledgers: dict[str, Ledger], writer: int) -> None:
        accounts, _ = await ledgers[await self._read_home()].accounts()
        number = 0
        while not self.ended:
            number += 1
            await self._deposit(ledgers, accounts[writer % 2].id, f"writer {writer} {number}")

    async def _deposit(self, ledgers: dict[str, Ledger], account: int, key: str) -> None:
        now_s = asyncio.get_running_loop().time
        begun_s = now_s()
        while True:
            try:
                outcome = await ledgers[await self._read_home()].deposit(account, "0.01", key=key)
            except LedgerMoving:
                self.refused += 1
                await asyncio.sleep(0.02)
            else:
                assert isinstance(outcome, Recorded)
                self.answered.add(key)
                self.longest_s = max(self.longest_s, now_s() - begun_s)
                return

    async def _read_home(self) -> str:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._read_at_s > OLD_S:
            self._read_at_s = now_s
            self._home = await asyncio.to_thread(home_of, self._shards, self._ledger)
        return self._home


def recorded_keys(shards: Shards, ledger: int) -> Counter[str]:
    query = "SELECT idempotency_key FROM ledger.transactions WHERE ledger_id = %s"
    with connect(shards[home_of(shards, ledger)]) as home:
        rows = home.execute(query + " AND idempotency_key LIKE 'writer %%'", [ledger]).fetchall()
    return Counter(key for (key,) in rows)


def there_and_back(shards: Shards) -> None:
    for target in ("b", "c", "main"):
        move(shards, "shop", target, quiet)


@pytest.fixture(autouse=True)
def _old_directories(_quick: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(mover, "OLD_DIRECTORY_S", 2 * OLD_S)


def test_nothing_is_lost_and_nothing_is_recorded_twice(
    shards: Shards, lived: int, no_violations: Any
) -> None:
    load = Load(shards, lived)
    asyncio.run(load.run(lambda: there_and_back(shards)))
    assert recorded_keys(shards, lived) == Counter(load.answered)
    assert load.refused > 0
    for database in shards.values():
        no_violations(database)


def test_a_move_without_the_fence_is_found(
    shards: Shards, lived: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the fence is for: without it, answered deposits are not in the new home."""
    monkeypatch.setattr(mover._Move, "_leave", lambda _: None)
    monkeypatch.setattr(mover._Move, "_copy_webhooks", lambda _: None)
    load = Load(shards, lived)
    try:
        asyncio.run(load.run(lambda: move(shards, "shop", "b", quiet)))
    except MoveFault:
        return  # the rows were not the same
    assert recorded_keys(shards, lived) != Counter(load.answered)
