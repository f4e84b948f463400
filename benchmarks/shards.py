"""The CPU time of a transfer with one, two and three shards that are used at the same time.

    python3 benchmarks/shards.py [--turns 5]

Three databases on one server are shards of one process. In each turn the same number of transfers
is posted on one ledger, on two and on three, each on a shard of its own, 200 a call. The CPU time
of the process and of the server is taken; a turn of nothing is subtracted for what both do
by themselves. Throughput on one machine would only show its cores.
"""

import argparse
import asyncio
import itertools
import os
import statistics
import tempfile
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from pathlib import Path

import psutil
import psycopg
from pydantic import SecretStr
from sqlalchemy import make_url

from ledgerservice.domain.accounts import Opened
from ledgerservice.domain.ledgers import LedgerRequest
from ledgerservice.domain.movements import transfer
from ledgerservice.embedded.server import EmbeddedServer, bundled_binaries
from ledgerservice.ledger import Ledger
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.sharding import adding
from ledgerservice.postgres.sharding.chunks import SEQUENCES
from ledgerservice.postgres.urls import parse_url
from ledgerservice.runtime import running, upgrade
from ledgerservice.settings import Settings
from ledgerservice.shards import Shards, sharded

NAMES = ("main", "b", "c")
TRANSFERS = 24_000
BATCH = 200
ACCOUNTS = 100

_numbers = itertools.count()


@contextmanager
def three_shards(url: str) -> Iterator[Settings]:
    """Settings of a service with three databases on a server."""
    with psycopg.connect(url.replace("+psycopg", ""), autocommit=True) as server:
        for name in NAMES[1:]:
            server.execute(f"CREATE DATABASE {name}")
    urls = {"main": url} | {
        name: make_url(url).set(database=name).render_as_string(hide_password=False)
        for name in NAMES[1:]
    }
    settings = Settings.load().model_copy(
        update={"database_url": SecretStr(url), "verify_interval_s": 0.0}
    )
    databases = {name: Database(parse_url(one), settings) for name, one in urls.items()}
    for database in databases.values():
        upgrade(database)
    with databases["main"].owner_engine().begin() as main:
        identity = adding.begin(main)
        for sequence in SEQUENCES:
            adding.bound(main, sequence)
    for name in NAMES[1:]:
        with databases[name].owner_engine().begin() as shard:
            adding.identify(shard, identity._replace(shard=name))
        with databases["main"].owner_engine().begin() as main:
            adding.enter(main, name)
    named = " ".join(f"{name}={urls[name]}" for name in NAMES[1:])
    yield settings.model_copy(update={"shards": SecretStr(named)})


@asynccontextmanager
async def ledgers_of(settings: Settings) -> AsyncIterator[list[tuple[Ledger, list[int]]]]:
    """A ledger on each shard, with funded accounts."""
    async with running(settings) as runtime, sharded(runtime, reading=True) as shards:
        yield [await funded(shards, name) for name in NAMES]


async def funded(shards: Shards, shard: str) -> tuple[Ledger, list[int]]:
    """A ledger on a shard, and its accounts."""
    added = await shards.add_ledger(LedgerRequest(f"on-{shard}", shard=shard))
    ledger = Ledger(shards, added.id)  # type: ignore[union-attr]
    accounts = []
    for number in range(ACCOUNTS):
        opened = await ledger.open_account("o", "USD", key=f"{number}")
        assert isinstance(opened, Opened)
        accounts.append(opened.account_id)
        await ledger.deposit(opened.account_id, "1000000", key="funds")
    return ledger, accounts


async def post_on(ledger: Ledger, accounts: list[int], transfers: int) -> None:
    """Transfers, 200 a call, one call after another."""
    pairs = list(itertools.pairwise(accounts))
    for _ in range(transfers // BATCH):
        batch = [
            transfer(*pairs[next(_numbers) % len(pairs)], "1", f"k{next(_numbers)}")
            for _ in range(BATCH)
        ]
        outcomes = await ledger.post(batch)
        assert all(one.posted for one in outcomes)


class Clock:
    """The CPU time of this process and of a server."""

    def __init__(self, server: int) -> None:
        self._server = psutil.Process(server)
        self._own = psutil.Process()

    def now(self) -> float:
        """Seconds."""
        total = float(sum(self._own.cpu_times()[:2]))
        for one in (self._server, *self._server.children()):
            with suppress(psutil.Error):
                times = one.cpu_times()
                total += times.user + times.system
        return total


async def compare(settings: Settings, clock: Clock, turns: int) -> None:
    """Print the CPU time of a transfer with each number of shards."""
    async with ledgers_of(settings) as ledgers:
        await asyncio.gather(*(post_on(*one, BATCH * 3) for one in ledgers))
        spent: dict[int, list[float]] = {1: [], 2: [], 3: []}
        for turn in range(turns):
            idle = await idle_share(clock)
            for count, times in spent.items():
                # Another one each time, so that none is favoured.
                chosen = [ledgers[(turn + place) % 3] for place in range(count)]
                began, began_s = clock.now(), time.perf_counter()
                await asyncio.gather(*(post_on(*one, TRANSFERS // count) for one in chosen))
                own = clock.now() - began - idle * (time.perf_counter() - began_s)
                times.append(own / TRANSFERS * 1e6)
        for count, times in spent.items():
            quotients = [one / first for one, first in zip(times, spent[1], strict=True)]
            print(
                f"{count} shards: {statistics.median(times):6.1f} us of CPU a transfer,"
                f" {statistics.median(quotients):.3f} of one shard's; load {os.getloadavg()[0]:.1f}"
            )


async def idle_share(clock: Clock) -> float:
    """The CPU seconds a second of doing nothing."""
    began, began_s = clock.now(), time.perf_counter()
    await asyncio.sleep(1.0)
    return (clock.now() - began) / (time.perf_counter() - began_s)


def main(turns: int) -> None:
    """On a server of its own, which is removed again."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        with EmbeddedServer(Path(folder) / "data", bundled_binaries(), lambda _: None) as server:
            [file] = Path(folder).rglob("postmaster.pid")
            clock = Clock(int(file.read_text().split()[0]))
            with three_shards(server.url) as settings:
                asyncio.run(compare(settings, clock, turns))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--turns", type=int, default=5)
    main(parser.parse_args().turns)
