"""How fast the feed leaves: rebuilds of each store, their lag under full load, and one HTTP reader.

rebuild  A publisher fills an empty store from the first event; rows are the entries of accounts.
lag      From `recorded_at` until the store has an event durably, while transfers are posted as fast
         as they go, with the publisher in a process of its own.
reader   Pages of 1,000 events, and server-sent events, to one client of `ledgerservice serve`.

    python benchmarks/publishers.py [--rows 40000] [--seconds 8] [--store kafka]

It starts the servers of the tests; Kafka and Cassandra need Java and Maven, dynalite needs npm.
"""

import argparse
import asyncio
import http.client
import multiprocessing
import random
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

# After the change of sys.path.
from rich import box
from rich.console import Console
from rich.table import Table
from tests.databases import quick_place, reachable_folder, settings_for_tests
from tests.engines.cassandra_store import CassandraStore
from tests.engines.dynamo_store import DynamoStore
from tests.engines.kafka_store import KafkaStore
from tests.engines.servers import Cassandra, Dynalite, Kafka, Valkey
from tests.engines.valkey_store import ValkeyStore
from tests.processes import RunningService, serving

from ledgerservice.domain.events import Event
from ledgerservice.feed.publisher import Progress, keep_publishing
from ledgerservice.feed.targets import Published, Target, target_of
from ledgerservice.ledger import Ledger, deposit, transfer
from ledgerservice.runtime import posting, started
from ledgerservice.settings import Settings
from ledgerservice.shards import Shards

STORES: dict[str, tuple[Any, Any]] = {
    "kafka": (Kafka, KafkaStore),
    "valkey": (Valkey, ValkeyStore),
    "cassandra": (Cassandra, CassandraStore),
    "dynalite": (Dynalite, DynamoStore),
}
USUAL = ("kafka", "valkey", "cassandra")  # dynalite says nothing about DynamoDB, and is slow
COLUMNS = ("store", "rows/s", "events/s", "transfers/s", "lag p50 ms", "p99 ms")
ACCOUNTS, CALL, AT_ONCE = 200, 8_000, 64
ALIKE = 3  # rebuilds of a store

console = Console(highlight=False, width=120)


class Figures(NamedTuple):
    """Rows and events a second of a rebuild; transfers a second and lags in ms under load."""

    rows_s: float
    events_s: float
    transfers_s: float
    lags_ms: Sequence[float]


class Timed:
    """A target that notes how late the events were when it had them."""

    def __init__(self, target: Target) -> None:
        self.name, self.rows = target.name, target.rows
        self.lags_ms: list[float] = []
        self.written = 0
        self._target = target

    def open(self) -> Published | None:
        """See Target."""
        return self._target.open()

    def write(self, events: Sequence[Event], published: Published) -> None:
        """See Target."""
        self._target.write(events, published)
        now = datetime.now(UTC)
        times = (event.lines[0].recorded_at for event in events if event.lines)
        self.lags_ms += [(now - time).total_seconds() * 1e3 for time in times]
        self.written += sum(len(event.lines) for event in events)

    def close(self) -> None:
        """See Target."""
        self._target.close()


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=40_000, help="entries of a rebuild")
    parser.add_argument("--seconds", type=float, default=8.0, help="of load")
    parser.add_argument("--store", action="append", choices=[*STORES], help="[all but dynalite]")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and end what was started
    for name in options.store or USUAL:
        with _ledger(options.rows // 2) as (settings, service):
            if name == (options.store or USUAL)[0]:
                _print_readers(service)
            table = Table(*COLUMNS, box=box.MARKDOWN)
            table.add_row(name, *_cells(_measure(settings, name, options.seconds)))
            console.print(table)


@contextmanager
def _ledger(transfers: int) -> Iterator[tuple[Settings, RunningService]]:
    """A service on a database of its own, in which there are some transfers."""
    with (
        reachable_folder(quick_place()) as folder,
        serving(LEDGER_DATA_FOLDER=f"{folder}/data") as service,
    ):
        settings = settings_for_tests(data_folder=folder / "data")
        asyncio.run(_fill(settings, transfers))
        yield settings, service


def _pair(draw: random.Random) -> tuple[int, int]:
    sender, receiver = draw.sample(range(1, ACCOUNTS + 1), 2)
    return sender, receiver


async def _fill(settings: Settings, number: int) -> None:
    draw = random.Random(1)
    with started(settings) as database:
        async with posting(database) as runtime:
            ledger = Ledger(Shards(runtime))
            for account in range(ACCOUNTS):
                await ledger.open_account("o", "USD", key=f"a{account}")
            await ledger.post([deposit(n + 1, "100000", f"d{n}") for n in range(ACCOUNTS)])
            for start in range(0, number, CALL):
                await ledger.post([
                    transfer(*_pair(draw), "0.01", f"fill{n}")
                    for n in range(start, min(start + CALL, number))
                ])  # fmt: skip


# The stores.


def _measure(settings: Settings, name: str, seconds: float) -> Figures:
    engine_of, store_of = STORES[name]
    with reachable_folder() as place, engine_of(place) as engine:
        rebuilds = sorted(
            asyncio.run(_rebuild(settings, store_of(engine, f"rebuild{n}").url))
            for n in range(ALIKE)
        )
        rows_s, events_s = rebuilds[ALIKE // 2]
        url = store_of(engine, "head").url
        transfers_s, lags_ms = asyncio.run(_load(settings, url, seconds))
    return Figures(rows_s, events_s, transfers_s, lags_ms)


async def _rebuild(settings: Settings, url: str) -> tuple[float, float]:
    """Rows and events a second, from the first page that is there to the last one. If all is one
    page, its time is that since the start.
    """
    target = Timed(target_of(url))
    steps: list[tuple[float, int, int]] = []
    done = asyncio.Event()

    def report(progress: Progress) -> None:
        if steps and progress.events == steps[-1][1]:  # There are no further events.
            done.set()
        else:
            steps.append((time.perf_counter(), progress.events, target.written))

    with started(settings) as database:
        start = time.perf_counter(), 0, 0
        publishing = asyncio.create_task(keep_publishing(database, target, report))
        await done.wait()
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
    (first_s, *first), (last_s, *last) = steps[0] if steps[1:] else start, steps[-1]
    events, rows = (b - a for a, b in zip(first, last, strict=True))
    return rows / (last_s - first_s), events / (last_s - first_s)


async def _load(settings: Settings, url: str, seconds: float) -> tuple[float, list[float]]:
    """Transfers a second, and the lags of those that were published meanwhile."""
    queue: Any = multiprocessing.Queue()
    stop = multiprocessing.Event()
    publisher = multiprocessing.Process(target=_publish, args=(settings, url, queue, stop))
    publisher.start()
    await asyncio.to_thread(queue.get)
    with started(settings) as database:
        async with posting(database) as runtime:
            transfers_s = await _transfer(Ledger(Shards(runtime)), url, seconds)
    stop.set()
    lags_ms: list[float] = await asyncio.to_thread(queue.get)
    publisher.join()
    return transfers_s, sorted(lags_ms)


async def _transfer(ledger: Ledger, name: str, seconds: float) -> float:
    """Transfers a second of many tasks, each of which waits for its answer."""
    began_s, done = time.perf_counter(), 0

    async def post(task: int) -> None:
        nonlocal done
        draw, number = random.Random(task), 0
        while time.perf_counter() - began_s < seconds:
            await ledger.transfer(*_pair(draw), "0.01", key=f"{name}-{task}-{number}")
            done, number = done + 1, number + 1

    await asyncio.gather(*map(post, range(AT_ONCE)))
    return done / seconds


def _publish(settings: Settings, url: str, queue: Any, stop: Any) -> None:
    asyncio.run(_publish_until(settings, url, queue, stop))


async def _publish_until(settings: Settings, url: str, queue: Any, stop: Any) -> None:
    """Publish; say when the store is at the end of the feed, and at last what the lags were."""
    target = Timed(target_of(url))
    at_head = asyncio.Event()
    events = -1

    def report(progress: Progress) -> None:
        nonlocal events
        if progress.events == events and not at_head.is_set():
            target.lags_ms.clear()
            at_head.set()
        events = progress.events

    with started(settings) as database:
        publishing = asyncio.create_task(keep_publishing(database, target, report))
        await at_head.wait()
        queue.put(None)
        await asyncio.to_thread(stop.wait)
        publishing.cancel()
        await asyncio.gather(publishing, return_exceptions=True)
    queue.put(target.lags_ms)


def _cells(figures: Figures) -> list[str]:
    lags = figures.lags_ms
    p50, p99 = lags[len(lags) // 2], lags[len(lags) * 99 // 100]
    numbers = figures.rows_s, figures.events_s, figures.transfers_s, p50, p99
    return [f"{number:,.0f}" for number in numbers]


# One reader over HTTP.


def _print_readers(service: RunningService) -> None:
    pages = sorted(_read_pages(service) for _ in range(ALIKE))[ALIKE // 2]
    streamed = sorted(_read_stream(service) for _ in range(ALIKE))[ALIKE // 2]
    console.print(f"One reader: {pages:,.0f} events/s in pages, {streamed:,.0f} server-sent.")


def _connect(service: RunningService) -> http.client.HTTPConnection:
    host, _, port = service.base.removeprefix("http://").partition(":")
    return http.client.HTTPConnection(host, int(port), timeout=10)


def _read_pages(service: RunningService) -> float:
    """Events a second; the next page is found in the last bytes, so the client costs little."""
    connection, after, number = _connect(service), "", 0
    began_s = time.perf_counter()
    while True:
        connection.request("GET", f"/events?limit=1000{after}")
        body = connection.getresponse().read()
        events = body.count(b'"type":"')
        if not events:
            return number / (time.perf_counter() - began_s)
        after = "&after=" + body.rpartition(b'"next":"')[2].rstrip(b'"}\n').decode()
        number += events


def _read_stream(service: RunningService) -> float:
    """Events a second, until none has come for a second."""
    connection, number = _connect(service), 0
    connection.request("GET", "/events", headers={"accept": "text/event-stream"})
    answer = connection.getresponse()
    assert connection.sock is not None
    connection.sock.settimeout(1.0)
    began_s = last_s = time.perf_counter()
    with suppress(TimeoutError):
        while piece := answer.read1(2**16):
            number += piece.count(b"\ndata: {")
            last_s = time.perf_counter()
    connection.close()
    return number / (last_s - began_s)


if __name__ == "__main__":
    main()
