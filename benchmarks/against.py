"""`make bench-against BASE=...`: compares this tree with the tree of another commit.

It measures the same load over HTTP on both services, and many movements per call through
`Ledger.post` in one process each. The two trees take turns. Both use one PostgreSQL, with a
database each that their own code migrates. The printed ratio is the median of the rounds' ratios
of this tree to the other one. With --key, each request to this tree sends a key of the API.
"""

import argparse
import io
import itertools
import json
import os
import statistics
import subprocess
import sys
import tarfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

# After the change of sys.path.
import psycopg
from rich import box
from rich.console import Console
from rich.table import Table

import load
import machine
import servers
from bench import SETTLE_S, WARM_UP, exit_on_sigterm
from bulk import Clock
from ledgerservice.embedded.server import EmbeddedServer
from servers import LEDGER, ROOT

ACCOUNTS = 10_000
WORKLOADS = ("uniform", "hot")


class Calls(NamedTuple):
    """The calls of `Ledger.post` of a run: size in transfers, number, those in flight."""

    size: int
    calls: int
    at_once: int

    def __str__(self) -> str:
        return f"{self.size:,} per call, {self.at_once} at once"


LARGE = (Calls(8_000, 6, 1), Calls(8_000, 6, 3))
SMALL = (
    Calls(1, 1_500, 1),
    Calls(2, 1_000, 1),
    Calls(8, 600, 1),
    Calls(32, 250, 1),
    Calls(100, 150, 1),
)
READS = {"balance": "", "history of 20": "/history?limit=20"}
READERS = 16
THIS, BASE = "this", "base"
DRIVER = Path(__file__).with_name("driver.py")

console = Console(highlight=False, width=120)


class Figures(NamedTuple):
    """The result of a run: transfers or reads per second, and CPU for each in µs."""

    transfers_s: float
    server_us: float
    python_us: float


class Driver:
    """A process in which the `Ledger` of a tree is open; see driver.py."""

    def __init__(self, tree: Path, url: str) -> None:
        self._child = subprocess.Popen(
            [sys.executable, os.fspath(DRIVER), url, str(ACCOUNTS)],
            env={
                **os.environ,
                "PYTHONPATH": os.fspath(tree / "src"),
                "LEDGER_REQUEST_DEADLINE_S": "300",  # a busy machine is no reason to give up
            },
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.first_account = int(self._read())

    def post(self, postmaster: int, workload: str, name: str, calls: Calls) -> Figures:
        """One run."""
        clock = Clock(postmaster, self._child.pid)
        run = json.dumps({"workload": workload, "name": name, **calls._asdict()})
        transfers = int(self._request(run))
        return Figures(*clock.cost(transfers))

    def close(self) -> None:
        """End the process."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait()

    def _request(self, run: str) -> str:
        assert self._child.stdin is not None
        self._child.stdin.write(f"{run}\n")
        self._child.stdin.flush()
        return self._read()

    def _read(self) -> str:
        assert self._child.stdout is not None
        if not (line := self._child.stdout.readline()):
            raise SystemExit("A driver ended; its output is above.")
        return line


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", help="the other commit")
    parser.add_argument("--seconds", type=int, default=4, help="duration of each run over HTTP")
    parser.add_argument("--rounds", type=int, default=15, help="number of rounds")
    parser.add_argument("--connections", type=int, nargs="*", default=[1, 64])
    parser.add_argument("--bulk", action="store_true", help="only calls of Ledger.post")
    parser.add_argument("--small", action="store_true", help="few movements per call, not many")
    parser.add_argument("--key", action="store_true", help="send a key to this tree")
    options = parser.parse_args()
    exit_on_sigterm()
    load.require_wrk()
    with servers.workplace() as folder, tree_of(options.base, folder) as other:
        _compare(options, folder, {THIS: ROOT, BASE: other})


@contextmanager
def tree_of(commit: str, folder: Path) -> Iterator[Path]:
    """The sources of a commit, in a folder below `folder`."""
    packed = subprocess.run(
        ["git", "archive", commit, "src"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    place = folder / "tree"
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(place, filter="data")
    yield place


Rounds = dict[str, list[dict[str, Figures]]]
"""The figures of both trees in each round, by name of the case."""


def _compare(options: argparse.Namespace, folder: Path, trees: dict[str, Path]) -> None:
    with EmbeddedServer(folder / "data", announce=print) as server, ExitStack() as stack:
        for line in machine.facts(folder, server.url):
            console.print(f"- {line}")
        urls = {name: _database(server.url, name) for name in trees}
        drivers = {name: Driver(tree, urls[name]) for name, tree in trees.items()}
        for name, driver in drivers.items():
            stack.callback(driver.close)
            with psycopg.connect(urls[name], autocommit=True) as connection:
                connection.execute("VACUUM ANALYZE")
        postmaster = servers.postmaster(folder)
        calls = SMALL if options.small else LARGE
        rounds = _calls(options.rounds, calls, drivers, postmaster)
        if options.bulk:
            _print(rounds)
            return
        children = {
            name: stack.enter_context(
                servers.server(LEDGER, urls[name], PYTHONPATH=os.fspath(tree / "src"))
            )
            for name, tree in trees.items()
        }
        bases = {name: base for name, (base, _) in children.items()}
        pids = {name: child.pid for name, (_, child) in children.items()}
        sent = {THIS: servers.make_key(urls[THIS])} if options.key else {}
        targets = {
            name: load.Target(LEDGER, base, drivers[name].first_account, ACCOUNTS, sent.get(name))
            for name, base in bases.items()
        }
        rounds |= _over_http(options, folder, targets, pids, postmaster)
        _print(rounds | _reads(options, targets, pids, postmaster))


def _calls(
    count: int, kinds: Sequence[Calls], drivers: dict[str, Driver], postmaster: int
) -> Rounds:
    """Calls of `Ledger.post`."""
    rounds_by_case: Rounds = {}
    for number, workload, calls in itertools.product(range(count), WORKLOADS, kinds):
        label = f"{number}-{workload}-{calls.size}-{calls.at_once}"
        figures = {
            name: drivers[name].post(postmaster, workload, label, calls)
            for name in _in_turn(number)
        }
        rounds_by_case.setdefault(f"post {workload}, {calls}", []).append(figures)
    return rounds_by_case


def _over_http(
    options: argparse.Namespace,
    folder: Path,
    targets: dict[str, load.Target],
    pids: dict[str, int],
    postmaster: int,
) -> Rounds:
    """One transfer per request."""
    for name, target in targets.items():
        load.run(f"warm-{name}", target, *WARM_UP, folder)
    rounds_by_case: Rounds = {}
    cases = itertools.product(range(options.rounds), WORKLOADS, options.connections)
    for number, workload, connections in cases:
        figures = {}
        for name in _in_turn(number):
            clock = Clock(postmaster, pids[name])
            label = f"round{number}-{name}-{workload}-{connections}"
            run = load.run(label, targets[name], workload, connections, options.seconds, folder)
            figures[name] = Figures(run.transfers_s, *clock.cost(len(run.transactions))[1:])
            time.sleep(SETTLE_S)
        rounds_by_case.setdefault(f"{workload}, {connections} connections", []).append(figures)
    return rounds_by_case


def _reads(
    options: argparse.Namespace,
    targets: dict[str, load.Target],
    pids: dict[str, int],
    postmaster: int,
) -> Rounds:
    """One read per request."""
    rounds_by_case: Rounds = {}
    for number, (case, path) in itertools.product(range(options.rounds), READS.items()):
        figures = {}
        for name in _in_turn(number):
            clock = Clock(postmaster, pids[name])
            run = load.read(targets[name], path, READERS, options.seconds)
            cost = clock.cost(round(run.reads_s * options.seconds))
            figures[name] = Figures(run.reads_s, *cost[1:])
            time.sleep(SETTLE_S)
        rounds_by_case.setdefault(f"{case}, {READERS} connections", []).append(figures)
    return rounds_by_case


def _in_turn(number: int) -> tuple[str, str]:
    return (THIS, BASE) if number % 2 else (BASE, THIS)


def _database(url: str, name: str) -> str:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return servers.other_database(url, name)


def _print(rounds: Rounds) -> None:
    table = Table(box=box.MARKDOWN)
    table.add_column("case")
    for title in ("per second", "base", "ratio", "server µs", "base", "Python µs", "base"):
        table.add_column(title, justify="right", no_wrap=True)
    for case, figures in rounds.items():
        this, base = (
            Figures(*map(statistics.median, zip(*(r[name] for r in figures), strict=True)))
            for name in (THIS, BASE)
        )
        ratio = statistics.median(r[THIS].transfers_s / r[BASE].transfers_s for r in figures)
        table.add_row(
            case,
            f"{this.transfers_s:,.0f}",
            f"{base.transfers_s:,.0f}",
            f"{ratio:.3f}",
            *(f"{value:.1f}" for pair in zip(this[1:], base[1:], strict=True) for value in pair),
        )
    console.print(table)


if __name__ == "__main__":
    main()
