"""`make bench-feed`: what a reader of the feed costs the write path, how late and how fast it is.

Rounds without a reader and with one at the head take turns, on one server. The reader is another
process, as a publisher is. Where the load keeps all cores busy it takes CPU from the load, as any
process does; what the write path itself uses for a transfer is shown beside that.
"""

import argparse
import asyncio
import multiprocessing
import statistics
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# After the change of sys.path.
import psutil
from rich import box
from rich.console import Console
from rich.table import Table
from tests.databases import quick_place, reachable_folder, settings_for_tests
from tests.processes import serving

from ledgerservice.feed.reading import Feed
from ledgerservice.ledger import Ledger, deposit, transfer
from ledgerservice.postgres.pipeline import Wire
from ledgerservice.runtime import posting, started
from ledgerservice.settings import Settings
from ledgerservice.shards import Shards

ACCOUNTS = 200
AT_ONCE = 64  # tasks that post one transfer after another
SECONDS = 4.0
ALONE, READ = "alone", "with a reader"


class Figures(NamedTuple):
    """Transfers a second, and the CPU of the write path for one in µs."""

    transfers_s: float
    cpu_us: float


console = Console(highlight=False, width=120)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--rate", type=int, default=4_000, help="transfers/s of a moderate load")
    options = parser.parse_args()
    with reachable_folder(quick_place()) as folder, serving(LEDGER_DATA_FOLDER=f"{folder}/data"):
        settings = settings_for_tests(data_folder=folder / "data")
        asyncio.run(_bench(settings, options.rounds, options.rate))


async def _bench(settings: Settings, rounds: int, rate: int) -> None:
    with started(settings) as database:
        async with posting(database) as runtime:
            ledger = Ledger(Shards(runtime))
            for number in range(ACCOUNTS):
                await ledger.open_account("o", "USD", key=f"a{number}")
            await ledger.post([deposit(n + 1, "100000", f"d{n}") for n in range(ACCOUNTS)])
            pid = int((settings.data_folder / "postgres/postmaster.pid").read_text().split()[0])
            postmaster = psutil.Process(pid)
            await _load(ledger, postmaster, "warm-up")
            for load in (None, rate):
                figures: dict[str, list[Figures]] = {ALONE: [], READ: []}
                lags: list[float] = []
                for number in range(rounds):
                    name = f"{load}-{number}"
                    alone = await _load(ledger, postmaster, f"{name}-alone", load)
                    figures[ALONE].append(alone)
                    with _reader(settings) as (backend, late):
                        read = await _load(ledger, postmaster, f"{name}-read", load, backend)
                    figures[READ].append(read)
                    lags += late
                _print("All that fits" if load is None else f"{load:,} a second", figures, lags)
            await _load_in_bulk(ledger)
            events_s, cpu_us = await _replay(Feed(database.connect_writer))
    console.print(f"Read from the start: {events_s:,.0f} events/s, {cpu_us:.1f} µs of Python each.")


def _cpu_s(postmaster: psutil.Process, reader: psutil.Process | None) -> float:
    """The CPU of this process and of the server, without a reader's connection."""
    used = psutil.Process().cpu_times()
    total = used.user + used.system
    for process in postmaster.children():
        if process != reader:
            times = process.cpu_times()
            total += times.user + times.system
    return float(total)


async def _load(
    ledger: Ledger,
    postmaster: psutil.Process,
    name: str,
    rate: int | None = None,
    reader: psutil.Process | None = None,
) -> Figures:
    """The load of many tasks, each of which waits for its answer, and for its turn at that rate."""
    cpu_s, began_s = _cpu_s(postmaster, reader), time.perf_counter()
    done = 0

    async def post(task: int) -> None:
        nonlocal done
        number = 0
        while (now_s := time.perf_counter() - began_s) < SECONDS:
            if rate is not None and (wait_s := number * AT_ONCE / rate - now_s) > 0:
                await asyncio.sleep(wait_s)
            pair = 1 + (task + number) % ACCOUNTS, 1 + (task + number * 7 + 1) % ACCOUNTS
            if pair[0] != pair[1]:
                await ledger.transfer(*pair, "0.01", key=f"{name}-{task}-{number}")
                done += 1
            number += 1

    await asyncio.gather(*map(post, range(AT_ONCE)))
    return Figures(done / SECONDS, (_cpu_s(postmaster, reader) - cpu_s) / done * 1e6)


async def _load_in_bulk(ledger: Ledger) -> None:
    for call in range(10):
        await ledger.post([transfer(1, 2, "0.01", f"bulk-{call}-{n}") for n in range(8_000)])


@contextmanager
def _reader(settings: Settings) -> Iterator[tuple[psutil.Process, list[float]]]:
    """A process at the head of the feed: its server process, and how late events were, in ms."""
    queue: Any = multiprocessing.Queue()
    stop = multiprocessing.Event()
    reading = multiprocessing.Process(target=_read, args=(settings, queue, stop))
    reading.start()
    backend = psutil.Process(queue.get())
    lags: list[float] = []
    yield backend, lags
    stop.set()
    lags += queue.get()
    reading.join()


def _read(settings: Settings, queue: Any, stop: Any) -> None:
    asyncio.run(_read_on(settings, queue, stop))


async def _read_on(settings: Settings, queue: Any, stop: Any) -> None:
    lags: list[float] = []
    with started(settings) as database:
        backend = 0

        async def connect() -> Wire:
            nonlocal backend
            wire = await database.connect_writer()
            backend = wire.connection.info.backend_pid
            return wire

        feed = Feed(connect)
        after = await feed.head()
        queue.put(backend)
        while not stop.is_set():
            chunk = await feed.read(after, 1_000, wait_s=0.2)
            after, now = chunk.position, datetime.now(UTC)
            times = (event.lines[0].recorded_at for event in chunk.events if event.lines)
            lags += [(now - time).total_seconds() * 1e3 for time in times]
        await feed.close()
    queue.put(lags)


async def _replay(feed: Feed) -> tuple[float, float]:
    """Events a second from the start, and Python's CPU for one in µs."""
    after, number = await feed.start(), 0
    began_s, cpu_s = time.perf_counter(), time.process_time()
    while chunk := await feed.read(after, 1_000):
        if not chunk.events:
            break
        after, number = chunk.position, number + len(chunk.events)
    await feed.close()
    wall_s, used_s = time.perf_counter() - began_s, time.process_time() - cpu_s
    return number / wall_s, used_s / number * 1e6


def _print(title: str, figures: dict[str, list[Figures]], lags: list[float]) -> None:
    table = Table(title, "transfers/s", "ratio", "µs of CPU", "ratio", box=box.MARKDOWN)
    for name, values in figures.items():
        cells = [name]
        for column in range(2):
            own = [one[column] for one in values]
            ratios = [a / b[column] for a, b in zip(own, figures[ALONE], strict=True)]
            cells += [f"{statistics.median(own):,.0f}", f"{statistics.median(ratios):.3f}"]
        table.add_row(*cells)
    console.print(table)
    lags.sort()
    p50, p99 = lags[len(lags) // 2], lags[len(lags) * 99 // 100]
    console.print(f"Lag from recorded_at: p50 {p50:.0f} ms, p99 {p99:.0f} ms, of {len(lags):,}.")


if __name__ == "__main__":
    main()
