"""Writers to a ledger that moves."""

import asyncio
from contextlib import AsyncExitStack
from typing import Any

from ledgerservice import Ledger
from ledgerservice.domain.transactions import Recorded
from ledgerservice.errors import LedgerMoving
from tests.postgres.moving.places import Shards, home_of, ledger_of

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
            home = await self._read_home()
            try:
                outcome = await ledgers[home].deposit(account, "0.01", key=key)
            except LedgerMoving:
                self.refused += 1
                await asyncio.sleep(0.02)
            else:
                if not isinstance(outcome, Recorded):
                    # A slow machine: the ledger has left meanwhile, and its old copy was removed.
                    self._read_at_s = 0.0
                    assert await self._read_home() != home, outcome
                    continue
                self.answered.add(key)
                self.longest_s = max(self.longest_s, now_s() - begun_s)
                return

    async def _read_home(self) -> str:
        now_s = asyncio.get_running_loop().time()
        if now_s - self._read_at_s > OLD_S:
            self._read_at_s = now_s
            self._home = await asyncio.to_thread(home_of, self._shards, self._ledger)
        return self._home
