"""A hundred shards at a million transfers a second, by numbers: prints the tables of docs/scale.md.

    python benchmarks/scale.py [--shards 100] [--rate 1000000] [--average 0.2]

The figures under MEASURED are those of docs/performance.md and of log_bytes.py, from one machine
with two cores; those under ASSUMED are stated on the page. The waiting is simulated: group commit
on one shard, batch by batch. The random numbers have a seed, so the output is always the same.
"""

import argparse
import random
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import pairwise

# MEASURED. CPU in µs: of a batch, of a transfer below 500 in a batch, and from there on by COPY.
BATCH_US, COPY_FROM = 700, 500
SERVER_US, SERVER_COPY_US = 54, 23
POSTER_US, POSTER_COPY_US = 11, 11
FRONT_US = 82  # HTTP, parsing and rendering of one request
TRANSFER_BYTES = 598  # on disk, with all indexes
LOG_HOT_BYTES, LOG_COLD_BYTES = 1_500, 22_500  # few accounts in use; any of 10 million
CROSS_CPU = 2.5  # between 2.2 and 2.8 of a transfer within a shard
COPIED_S = 20_000  # transfers a second that a move copies through the trigger
VERIFIED_S = 23_000  # transfers a second that a verification reads
FAILOVER_S = 17
POLL_US = 300  # one look at the directory

# ASSUMED.
CROSS_BYTES = 2.7  # three transactions and five entries, for one and two
DISK_MS, STANDBY_MS = 0.6, 0.4  # the sync of a commit; the mean of what a standby adds to it
WIRE_BYTES = 1_100  # a request with its answer
STATEMENT_BYTES = 900  # what the service and the database exchange for a transfer
STANDBYS = 2
REPLAY = 0.3  # of the primary's CPU, on each standby
BUSY = 0.6  # of the cores that are paid for
PROCESSES, CONNECTIONS = 4, 14  # front ends of a shard; connections of a process to a database
CLEARING = 4  # accounts of each direction of a pair and currency
FAILURES_YEAR = 4  # of a server
CORE_HOUR, DISK_GB_MONTH, OBJECT_GB_MONTH = 0.04, 0.08, 0.02
SHRUNK, ARCHIVED_DAYS = 3, 7  # the archived log is compressed
DAY_S, MONTH_DAYS, MONTH_HOURS = 86_400, 30, 730

LIMIT_S = 1e6 / (SERVER_COPY_US + POSTER_COPY_US)
SHARES = (0.0, 0.1, 0.5, 0.99)
BATCHES = 20_000


@dataclass(frozen=True, slots=True)
class Load:
    """What all shards do together: transfers a second at the peak and on average."""

    shards: int
    peak: float
    average: float

    def work(self, share: float) -> float:
        """Transfers a second of one shard at the peak, a cross-shard one counted by its cost."""
        return self.peak / self.shards * (1 + share * (CROSS_CPU - 1))

    def day_bytes(self, share: float, each: float) -> float:
        """Bytes a day of one shard, if a transfer within a shard has `each`."""
        return self.average / self.shards * DAY_S * each * (1 + share * (CROSS_BYTES - 1))


@dataclass(frozen=True, slots=True)
class Waiting:
    """Group commit under a load: the mean batch, CPU µs of a transfer, latencies in ms."""

    batch: float
    cpu_us: float
    local: list[float]

    def percentile(self, part: float, steps: int = 1) -> float:
        """Of the sum of `steps` commits, each on a shard of its own."""
        chance = random.Random(7)
        sums = [sum(chance.choices(self.local, k=steps)) for _ in range(BATCHES)]
        return sorted(sums)[int(part * len(sums))]


def simulate(rate: float) -> Waiting:
    """Batches of one shard: what arrives during one commit is the next batch."""
    chance = random.Random(1)
    lengths_s, sizes, cpu_s = [0.001], [1], 0.0
    for _ in range(BATCHES):
        arrived = max(1, round(chance.gauss(rate * lengths_s[-1], (rate * lengths_s[-1]) ** 0.5)))
        worked_s = batch_us(arrived) / 1e6
        waited_s = (DISK_MS + chance.expovariate(1 / STANDBY_MS)) / 1e3
        cpu_s += worked_s
        sizes.append(arrived)
        lengths_s.append(worked_s + waited_s)
    latencies = [(chance.random() * before + own) * 1e3 for before, own in pairwise(lengths_s)]
    return Waiting(sum(sizes) / len(sizes), cpu_s / sum(sizes) * 1e6, latencies)


def batch_us(size: int) -> float:
    """CPU of one batch, server and poster, which work in turn."""
    by_copy = size >= COPY_FROM
    return BATCH_US + size * (SERVER_COPY_US + POSTER_COPY_US if by_copy else SERVER_US + POSTER_US)


@dataclass(frozen=True, slots=True)
class Column:
    """A share of cross-shard transfers, and what the shards then do."""

    load: Load
    share: float
    waiting: Waiting

    @property
    def cores(self) -> tuple[float, float]:
        """Of the posters and databases with their standbys, and of the front ends, at the peak."""
        work_s = self.load.work(self.share) * self.waiting.cpu_us / 1e6
        database = work_s * (1 + STANDBYS * REPLAY) / BUSY
        service = self.load.peak / self.load.shards * FRONT_US / 1e6 / BUSY
        return database * self.load.shards, service * self.load.shards

    @property
    def stored_day(self) -> float:
        """Bytes of tables and indexes of one shard a day, one copy."""
        return self.load.day_bytes(self.share, TRANSFER_BYTES)

    def log_s(self, each: float) -> float:
        """Bytes of log a second of one shard at the peak."""
        return self.load.peak / self.load.shards * each * (1 + self.share * (CROSS_BYTES - 1))

    def month(self) -> tuple[float, float, float]:
        """Prices of a month: cores, the disks that the month's data needs, the archive."""
        cores = sum(self.cores) * CORE_HOUR * MONTH_HOURS
        kept = self.stored_day * MONTH_DAYS * self.load.shards * (1 + STANDBYS)
        log = self.load.day_bytes(self.share, LOG_COLD_BYTES) * self.load.shards
        archive = log * ARCHIVED_DAYS / SHRUNK
        return cores, kept / 1e9 * DISK_GB_MONTH, archive / 1e9 * OBJECT_GB_MONTH


Row = tuple[str, Callable[[Column], str]]
ROWS: tuple[Row, ...] = (
    ("work of a shard, in local transfers/s", lambda c: f"{c.load.work(c.share):,.0f}"),
    ("transfers in a batch, mean", lambda c: f"{c.waiting.batch:,.0f}"),
    ("of the most that a shard can do", lambda c: f"{c.load.work(c.share) / LIMIT_S:.0%}"),
    ("a local transfer, p50 / p99 ms", lambda c: latencies(c, 1)),
    ("a cross-shard transfer, p50 / p99 ms", lambda c: latencies(c, 3) if c.share else ""),
    (
        "cores of databases and posters / of front ends",
        lambda c: "{:,.0f} / {:,.0f}".format(*c.cores),
    ),
    ("tables and indexes, TB a day, one copy", lambda c: f"{total(c) / 1e12:.1f}"),
    ("of one shard, GB a day", lambda c: f"{c.stored_day / 1e9:,.0f}"),
    ("log of a shard, MB/s, few accounts in use", lambda c: f"{c.log_s(LOG_HOT_BYTES) / 1e6:,.0f}"),
    ("log of a shard, MB/s, any of 10 million", lambda c: f"{c.log_s(LOG_COLD_BYTES) / 1e6:,.0f}"),
    ("network of a shard, Gbit/s, any of 10 million", lambda c: f"{network(c):.1f}"),
    ("credits/s of a clearing account", lambda c: f"{clearing(c):,.1f}"),
    ("cores, $ a month", lambda c: f"{c.month()[0]:,.0f}"),
    ("disks for each month of data, $ a month", lambda c: f"{c.month()[1]:,.0f}"),
    ("archived log, $ a month", lambda c: f"{c.month()[2]:,.0f}"),
    ("all of them, $ for a million transfers", lambda c: f"{price(c):.2f}"),
)


def latencies(column: Column, steps: int) -> str:
    """The median and the 99th percentile, in ms."""
    waiting = column.waiting
    return f"{waiting.percentile(0.5, steps):.0f} / {waiting.percentile(0.99, steps):.0f}"


def total(column: Column) -> float:
    """Bytes of all shards a day, one copy."""
    return column.stored_day * column.load.shards


def network(column: Column) -> float:
    """What a shard's primary and its front ends send and receive, in Gbit/s."""
    each = column.load.peak / column.load.shards
    requests = each * WIRE_BYTES + column.load.work(column.share) * STATEMENT_BYTES
    return (requests + STANDBYS * column.log_s(LOG_COLD_BYTES)) * 8 / 1e9


def clearing(column: Column) -> float:
    """Postings a second of one clearing account, if the pairs are alike."""
    load = column.load
    pairs = load.shards * (load.shards - 1)
    return load.peak * column.share / pairs / CLEARING


def price(column: Column) -> float:
    """Of a million transfers, in the first month."""
    return sum(column.month()) / (column.load.average * DAY_S * MONTH_DAYS) * 1e6


def by_share(load: Load) -> Iterator[str]:
    """The table by the share of cross-shard transfers."""
    columns = [Column(load, share, simulate(load.work(share))) for share in SHARES]
    yield "| cross-shard transfers | " + " | ".join(f"{share:.0%}" for share in SHARES) + " |"
    yield "|---|" + "--:|" * len(SHARES)
    for name, cell in ROWS:
        yield f"| {name} | " + " | ".join(cell(column) for column in columns) + " |"


def by_size(load: Load) -> Iterator[str]:
    """What depends on the number of shards alone."""
    yield "| what | figure |\n|---|--:|"
    processes = load.shards * PROCESSES
    average = load.average / load.shards
    failovers = load.shards * FAILURES_YEAR
    month_days = average * DAY_S * MONTH_DAYS / COPIED_S / DAY_S
    facts = {
        "processes of the service": f"{processes:,}",
        "looks at the directory a second": f"{processes:,}",
        "cores of the directory for them": f"{processes * POLL_US / 1e6:.2f}",
        "connections of a shard, if each process serves all": f"{processes * CONNECTIONS:,}",
        "connections of a shard, if only its own do": f"{PROCESSES * CONNECTIONS}",
        "clearing accounts of a currency": f"{load.shards * (load.shards - 1) * 2 * CLEARING:,}",
        "failovers a year": f"{failovers:,}",
        "days between two failovers": f"{365 / failovers:.1f}",
        "share of the time in which one fails over": f"{failovers * FAILOVER_S / 365 / DAY_S:.3%}",
        "transfers that fail then: local": f"{1 / load.shards:.1%}",
        "transfers that fail then: cross-shard": f"{2 / load.shards:.1%}",
        "days to copy a month of a shard's data": f"{month_days:.1f}",
        "core of a shard that verifies all the time": f"{average / VERIFIED_S:.0%}",
    }
    for name, figure in facts.items():
        yield f"| {name} | {figure} |"


def main() -> None:
    """Print both tables."""
    arguments = argparse.ArgumentParser(description=__doc__)
    arguments.add_argument("--shards", type=int, default=100)
    arguments.add_argument("--rate", type=float, default=1e6, help="transfers a second, peak")
    arguments.add_argument("--average", type=float, default=0.2, help="of the peak")
    options = arguments.parse_args()
    load = Load(options.shards, options.rate, options.rate * options.average)
    if load.work(max(SHARES)) > 0.95 * LIMIT_S:
        arguments.error(f"a shard posts at most {LIMIT_S:,.0f} transfers a second: more --shards")
    print("\n".join(by_share(load)))
    print()
    print("\n".join(by_size(load)))


main()
