"""The service on the server of DATABASE_URL beside the service on the embedded one, in turns.

It shows what another major version, or a distribution's build and settings, cost.
"""

import argparse
import asyncio
import os
import statistics
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import psycopg
from rich import box
from rich.console import Console
from rich.table import Table

import bulk
import load
import machine
import proof
import servers
from ledgerservice.embedded.server import EmbeddedServer
from ledgerservice.ledger import Ledger
from servers import LEDGER

EMBEDDED, GIVEN = "embedded", "given"
GIVEN_OVER_EMBEDDED = 0.9
OPENINGS = 200
SETTLE_S = 0.3
WARM_UP_S = 2


@dataclass
class Side:
    """One server: its version, the database on it, and what was measured."""

    version: str
    url: str
    runs: list[load.Run] = field(default_factory=list)
    figures: dict[str, list[float]] = field(default_factory=dict)

    def note(self, name: str, figure: float) -> None:
        """Keep a figure of a round; the table has the medians."""
        self.figures.setdefault(name, []).append(figure)


def compare(options: argparse.Namespace, given: str, console: Console) -> bool:
    """Measure, and print the table. True if all proofs hold."""
    with servers.workplace() as folder, ExitStack() as stack:
        embedded = stack.enter_context(EmbeddedServer(folder / "data", announce=print))
        urls = {EMBEDDED: embedded.url, GIVEN: stack.enter_context(_new_database(given))}
        sides = {name: Side(_version(url), url) for name, url in urls.items()}
        for line in machine.facts(folder, embedded.url):
            if not line.startswith("PostgreSQL"):  # there are two
                console.print(f"- {line}")
        firsts = {name: servers.fund_ledger(side.url, options.accounts) for name, side in
                  sides.items()}  # fmt: skip
        _measure(options, sides, firsts, folder)
        _print(sides, console)
        proven = [_proven(side, console) for side in sides.values()]
        return all(proven)


@contextmanager
def _new_database(url: str) -> Iterator[str]:
    """A new database on the server of `url`, whose user may create databases."""
    name = f"ledger_bench_{os.getpid()}"
    plain = url.replace("+psycopg", "")
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0")
    yield servers.other_database(plain, name)
    with psycopg.connect(plain, autocommit=True) as connection:
        connection.execute(f"DROP DATABASE {name} WITH (FORCE)")


def _version(url: str) -> str:
    with psycopg.connect(url) as connection:
        version = connection.info.parameter_status("server_version") or "?"
        return f"PostgreSQL {version.split()[0]}"


def _measure(
    options: argparse.Namespace, sides: dict[str, Side], firsts: dict[str, int], folder: Path
) -> None:
    with ExitStack() as stack:
        targets, ledgers = {}, {}
        for name, side in sides.items():
            base, _ = stack.enter_context(servers.server(LEDGER, side.url))
            targets[name] = load.Target(LEDGER, base, firsts[name], options.accounts)
            ledgers[name] = stack.enter_context(bulk.opened(side.url))
            sides[name].runs.append(
                load.run(f"warm-{name}", targets[name], "uniform", 16, WARM_UP_S, folder)
            )
        for number in range(1, options.rounds + 1):
            order = (EMBEDDED, GIVEN) if number % 2 else (GIVEN, EMBEDDED)
            for name in order:
                runner, ledger = ledgers[name]
                runner.run(_in_process(sides[name], ledger, targets[name], number))
            for workload in options.workloads:
                for connections in options.connections:
                    for name in order:
                        label = f"round{number}-{name}-{workload}-{connections}"
                        case = workload, connections, options.seconds
                        run = load.run(label, targets[name], *case, folder)
                        sides[name].runs.append(run)
                        sides[name].note(f"{workload} at {connections}", run.transfers_s)
                        time.sleep(SETTLE_S)


async def _in_process(side: Side, ledger: Ledger, target: load.Target, number: int) -> None:
    """Open accounts one by one, and post 8,000 movements per call."""
    began_s = time.perf_counter()
    for account in range(OPENINGS):
        await ledger.open_account("someone", "USD", key=f"bench-{number}-{account}")
    side.note("accounts opened one by one", OPENINGS / (time.perf_counter() - began_s))
    name = f"post{number}"
    transfers = bulk.movements(name, target.first_account, target.accounts, "uniform")
    cost, run = await bulk.post(ledger, os.getpid(), name, transfers)
    side.runs.append(run)
    side.note(f"{bulk.CALL:,} per call", cost.transfers_s)
    await asyncio.sleep(SETTLE_S)


def _print(sides: dict[str, Side], console: Console) -> None:
    embedded, given = sides[EMBEDDED], sides[GIVEN]
    table = Table(box=box.MARKDOWN)
    table.add_column("a second")
    for title in (f"{embedded.version}, embedded", f"{given.version}, DATABASE_URL", "ratio"):
        table.add_column(title, justify="right")
    for name, figures in embedded.figures.items():
        pairs = list(zip(given.figures[name], figures, strict=True))
        theirs, ours = map(statistics.median, zip(*pairs, strict=True))
        ratio = statistics.median(one / other for one, other in pairs)
        reached = "" if ratio >= GIVEN_OVER_EMBEDDED else " [yellow]missed[/]"
        table.add_row(name, f"{ours:,.0f}", f"{theirs:,.0f}", f"{ratio:.2f}{reached}")
    console.print(table)
    console.print(f"- a ratio is the median of the rounds' ratios; its goal: {GIVEN_OVER_EMBEDDED}")


def _proven(side: Side, console: Console) -> bool:
    """Print the proofs of one side. True if they hold."""
    count = proof.exactly_once(LEDGER, side.url, side.runs)
    verified = proof.invariants_hold(side.url)
    holds = not count.faults and verified
    console.print(
        f"- {side.version}: {count.acknowledged:,} answers of 200, each in the journal exactly "
        f"once, and verify: {'[green]yes[/]' if holds else f'[bold red]NO[/] {count.faults[:5]}'}"
    )
    return holds
