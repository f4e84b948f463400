"""`make bench-against BASE=...`: this tree beside the tree of another commit, in turns.

What a change costs: the same load over HTTP on both services, and many movements a call by
`Ledger.post` in a process of each. One PostgreSQL, a database for each tree, migrated by its own
code. The ratio is this tree over the other, taken in each round by itself; its median is told.
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
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

# The path comes first.
import psycopg
from rich import box
from rich.console import Console
from rich.table import Table

import load
import machine
import servers
from bench import SETTLE_S, WARM_UP, stop_at_sigterm
from bulk import Clock
from ledgerservice.embedded.server import EmbeddedServer
from servers import LEDGER, ROOT

ACCOUNTS = 10_000
WORKLOADS = ("uniform", "hot")
HERE, THERE = "here", "there"
DRIVER = Path(__file__).with_name("driver.py")

console = Console(highlight=False, width=120)


class Figures(NamedTuple):
    """What a run has taken: transfers a second, and µs of CPU a transfer."""

    transfers_s: float
    server_us: float
    python_us: float


class Driver:
    """A process that has a tree's `Ledger` open; see driver.py."""

    def __init__(self, tree: Path, url: str) -> None:
        self._child = subprocess.Popen(
            [sys.executable, os.fspath(DRIVER), url, str(ACCOUNTS)],
            env={**os.environ, "PYTHONPATH": os.fspath(tree / "src")},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            start_new_session=True,
        )
        self.first_account = int(self._told())

    def post(self, postmaster: int, workload: str, name: str) -> Figures:
        """One run of 8,000 transfers a call."""
        clock = Clock(postmaster, self._child.pid)
        transfers = int(self._ask({"workload": workload, "name": name}))
        return Figures(*clock.cost(transfers))

    def close(self) -> None:
        """End it."""
        assert self._child.stdin is not None
        self._child.stdin.close()
        self._child.wait()

    def _ask(self, asked: dict[str, str]) -> str:
        assert self._child.stdin is not None
        self._child.stdin.write(json.dumps(asked) + "\n")
        self._child.stdin.flush()
        return self._told()

    def _told(self) -> str:
        assert self._child.stdout is not None
        if not (line := self._child.stdout.readline()):
            raise SystemExit("A driver ended; what it said is above.")
        return line


def main() -> None:
    """Run the comparison."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", help="the other commit")
    parser.add_argument("--seconds", type=int, default=4, help="of each run over HTTP")
    parser.add_argument("--rounds", type=int, default=15, help="of all runs")
    parser.add_argument("--connections", type=int, nargs="*", default=[1, 64])
    options = parser.parse_args()
    stop_at_sigterm()
    load.require_wrk()
    with servers.workplace() as folder, tree_of(options.base, folder) as other:
        _compare(options, folder, {HERE: ROOT, THERE: other})


@contextmanager
def tree_of(commit: str, folder: Path) -> Iterator[Path]:
    """The sources of a commit, in a folder of their own."""
    packed = subprocess.run(
        ["git", "archive", commit, "src"], cwd=ROOT, capture_output=True, check=True
    ).stdout
    place = folder / "tree"
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        archive.extractall(place, filter="data")
    yield place


Rounds = dict[str, list[dict[str, Figures]]]
"""The figures of both trees in each round, by case."""


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
        rounds = _bulk(options.rounds, drivers, postmaster)
        children = {
            name: stack.enter_context(
                servers.server(LEDGER, urls[name], PYTHONPATH=os.fspath(tree / "src"))
            )
            for name, tree in trees.items()
        }
        bases = {name: base for name, (base, _) in children.items()}
        pids = {name: child.pid for name, (_, child) in children.items()}
        targets = {
            name: load.Target(LEDGER, base, drivers[name].first_account, ACCOUNTS)
            for name, base in bases.items()
        }
        _print(rounds | _over_http(options, folder, targets, pids, postmaster))


def _bulk(rounds: int, drivers: dict[str, Driver], postmaster: int) -> Rounds:
    """Many movements a call."""
    found: Rounds = {}
    for number, workload in itertools.product(range(rounds), WORKLOADS):
        label = f"{number}-{workload}"
        figures = {n: drivers[n].post(postmaster, workload, label) for n in _in_turn(number)}
        found.setdefault(f"post {workload}", []).append(figures)
    return found


def _over_http(
    options: argparse.Namespace,
    folder: Path,
    targets: dict[str, load.Target],
    pids: dict[str, int],
    postmaster: int,
) -> Rounds:
    """One transfer a request."""
    for name, target in targets.items():
        load.run(f"warm-{name}", target, *WARM_UP, folder)
    found: Rounds = {}
    cases = itertools.product(range(options.rounds), WORKLOADS, options.connections)
    for number, workload, connections in cases:
        figures = {}
        for name in _in_turn(number):
            clock = Clock(postmaster, pids[name])
            label = f"round{number}-{name}-{workload}-{connections}"
            run = load.run(label, targets[name], workload, connections, options.seconds, folder)
            figures[name] = Figures(run.transfers_s, *clock.cost(len(run.transactions))[1:])
            time.sleep(SETTLE_S)
        found.setdefault(f"{workload}, {connections} connections", []).append(figures)
    return found


def _in_turn(number: int) -> tuple[str, str]:
    return (HERE, THERE) if number % 2 else (THERE, HERE)


def _database(url: str, name: str) -> str:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    return servers.other_database(url, name)


def _print(rounds: Rounds) -> None:
    table = Table(box=box.MARKDOWN)
    table.add_column("case")
    for what in ("transfers/s", "there", "ratio", "server µs", "there", "Python µs", "there"):
        table.add_column(what, justify="right", no_wrap=True)
    for case, found in rounds.items():
        here, there = (
            Figures(*map(statistics.median, zip(*(r[name] for r in found), strict=True)))
            for name in (HERE, THERE)
        )
        ratio = statistics.median(r[HERE].transfers_s / r[THERE].transfers_s for r in found)
        table.add_row(
            case,
            f"{here.transfers_s:,.0f}",
            f"{there.transfers_s:,.0f}",
            f"{ratio:.3f}",
            *(f"{value:.1f}" for pair in zip(here[1:], there[1:], strict=True) for value in pair),
        )
    console.print(table)


if __name__ == "__main__":
    main()
