"""What a move costs: the pause that a writer sees, and what a fence costs the other ledgers.

    python benchmarks/moves.py [--entries 10000 1000000] [--rounds 15]

The ledger moves from one database to another on one server, while a writer posts deposits to it,
one after the other, and looks for its home once a second, as a process of the service does. A fence
is measured in turns: batches of 1,000 transfers with and without a fence of another ledger.
"""

import argparse
import asyncio
import statistics
import sys
import time
from contextlib import AsyncExitStack
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# After the change of sys.path.
from rich.console import Console
from tests.databases import (
    connect,
    empty_database,
    reachable_folder,
    settings_for_tests,
)
from tests.postgres.moving.places import add_shards, home_of

from ledgerservice.domain.instructions import Movement
from ledgerservice.embedded.server import EmbeddedServer
from ledgerservice.errors import LedgerMoving
from ledgerservice.ledger import Ledger, deposit, transfer
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.migrations import upgrade
from ledgerservice.postgres.moving.fences import HOME, LEFT, set_fence
from ledgerservice.postgres.moving.mover import Moved, move
from ledgerservice.postgres.urls import parse_url
from ledgerservice.runtime import Runtime, posting
from ledgerservice.shards import Shards as Running

ACCOUNTS = 1_000
BATCH = 4_000
FENCED_BATCH = 1_000
DIRECTORY_S = 1.0

console = Console(highlight=False, width=120)
Shards = dict[str, Database]


def main() -> None:
    """Run both measurements."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--entries", type=int, nargs="*", default=[10_000, 1_000_000])
    parser.add_argument("--rounds", type=int, default=15)
    options = parser.parse_args()
    with (
        reachable_folder(Path("/var/tmp")) as folder,
        EmbeddedServer(folder / "data") as server,
    ):
        first = Database(parse_url(server.url), settings_for_tests())
        shards = {name: empty_database(first, name) for name in ("main", "b")}
        for database in shards.values():
            upgrade(database.owner_engine(), None)
        add_shards(shards)
        asyncio.run(_measure(options, shards))


async def _measure(options: argparse.Namespace, shards: Shards) -> None:
    async with AsyncExitStack() as stack:
        runtimes = {
            name: await stack.enter_async_context(posting(database))
            for name, database in shards.items()
        }
        if options.rounds:
            await _measure_fence(Ledger(Running(runtimes["main"])), shards["main"], options.rounds)
        for entries in options.entries:
            await _measure_move(shards, runtimes, entries)


async def _fill(ledger: Ledger, entries: int) -> list[int]:
    accounts = []
    for number in range(ACCOUNTS):
        opened = await ledger.open_account("o", "USD", key=f"a{number}")
        accounts.append(int(opened.account_id or 0))
    await ledger.post([deposit(one, "1000000", key=f"f{one}") for one in accounts])
    for begin in range(0, entries // 2 - ACCOUNTS, BATCH):
        await ledger.post(_transfers(accounts, str(begin), BATCH))
    return accounts


def _transfers(accounts: list[int], name: str, count: int) -> list[Movement]:
    return [
        transfer(
            accounts[n % ACCOUNTS], accounts[(n * 7 + 1) % ACCOUNTS], "0.01", key=f"{name} {n}"
        )
        for n in range(count)
    ]


async def _measure_fence(default: Ledger, database: Database, rounds: int) -> None:
    """Milliseconds of a batch, in turns: without a fence, and with one of another ledger."""
    ledger = await default.add_ledger("fast")
    await default.add_ledger("fenced")
    other = _number_of(database, "fenced")
    accounts = await _fill(ledger, 2 * ACCOUNTS)
    times: dict[bool, list[float]] = {False: [], True: []}
    generation = 0
    for turn in range(2 * rounds):
        fenced, generation = bool(turn % 2), generation + 1
        with database.owner_engine().connect() as connection:
            set_fence(connection, other, generation, LEFT if fenced else HOME)
        await ledger.post(_transfers(accounts, f"warm {turn}", FENCED_BATCH))
        for part in range(5):
            begun_s = time.perf_counter()
            await ledger.post(_transfers(accounts, f"turn {turn} {part}", FENCED_BATCH))
            times[fenced].append((time.perf_counter() - begun_s) * 1000)
    without, with_one = (statistics.median(times[fenced]) for fenced in (False, True))
    console.print(
        f"batch of {FENCED_BATCH:,}: {without:.1f} ms without a fence, {with_one:.1f} ms with one "
        f"of another ledger: {with_one / without:.3f}"
    )


def _number_of(database: Database, name: str) -> int:
    with connect(database) as connection:
        query = "SELECT ledger_id FROM ledger.ledgers WHERE name = %s"
        [(number,)] = connection.execute(query, [name]).fetchall()
    return int(number)


async def _measure_move(shards: Shards, runtimes: dict[str, Runtime], entries: int) -> None:
    ledger = await Ledger(Running(runtimes["main"])).add_ledger(f"with-{entries}")
    number = _number_of(shards["main"], f"with-{entries}")
    account = (await _fill(ledger, entries))[0]
    for target in ("b", "main"):
        homes = {name: Ledger(Running(runtime), number) for name, runtime in runtimes.items()}
        writer = asyncio.create_task(_write(shards, homes, number, account, target))
        begun_s = time.perf_counter()
        moved: Moved = await asyncio.to_thread(move, shards, f"with-{entries}", target, _quiet)
        all_s = time.perf_counter() - begun_s
        await asyncio.sleep(2 * DIRECTORY_S)
        writer.cancel()
        waits = (await asyncio.gather(writer, return_exceptions=True), _waits.copy())[1]
        _waits.clear()
        console.print(
            f"{entries:,} entries to {target}: {moved.rows:,} rows in {all_s:.1f} s; refused for "
            f"{moved.paused_s:.1f} s; the longest wait of the writer {max(waits):.1f} s"
        )


_waits: list[float] = []


async def _write(
    shards: Shards, ledgers: dict[str, Ledger], number: int, account: int, name: str
) -> None:
    """Post one deposit after the other, and note how long each took with all its repeats."""
    home, read_at_s, count = home_of(shards, number), time.monotonic(), 0
    while True:
        count, begun_s = count + 1, time.monotonic()
        while True:
            if time.monotonic() - read_at_s > DIRECTORY_S:
                home = await asyncio.to_thread(home_of, shards, number)
                read_at_s = time.monotonic()
            try:
                await ledgers[home].deposit(account, "0.01", key=f"{name} {count}")
            except LedgerMoving:
                await asyncio.sleep(0.05)
            else:
                break
        _waits.append(time.monotonic() - begun_s)


def _quiet(*_: object) -> None:
    pass


if __name__ == "__main__":
    main()
