"""`make bench`: the service beside a yardstick server, over HTTP, in turns.

Starts everything, measures, prints Markdown, and proves that every 200 is in the journal exactly
once. Exit code 1 if a proof fails; a speed that is missed is said, but is no failure.
"""

import argparse
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

# The path comes first.
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

import bulk
import load
import machine
import overload
import proof
import servers
from servers import BARE, LEDGER, YARDSTICK

WORKLOADS = ("uniform", "hot", "pair")
WARM_UP_PHASE = "warm"
WARM_UP = ("uniform", 16, 2)  # workload, connections, seconds
SETTLE_S = 0.3
SHOWN_FAULTS = 20
WIDTH = 200  # A table in Markdown must not be wrapped, wherever it is printed.

BULK = ("bare uniform", "post uniform", "ndjson uniform", "bare hot", "post hot")

OVER_YARDSTICK = {1: 2.5, 64: 35.0}  # by connections
HOT_OVER_UNIFORM = 1.0

console = Console(highlight=False, width=WIDTH)


@dataclass(frozen=True, slots=True)
class Step:
    """A run that is to come."""

    phase: str
    server: str
    workload: str
    connections: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Figures:
    """One server's runs of one workload and number of connections: medians, and the slowest."""

    transfers_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float


Case = tuple[str, int]  # workload, connections
Results = dict[Case, dict[str, Figures]]


def main() -> None:
    """Run the benchmark."""
    options = _options()
    stop_at_sigterm()
    load.require_wrk()
    started_s = time.monotonic()
    try:
        proven = _bench(options)
    except KeyboardInterrupt:
        sys.exit(130)
    console.print(f"The whole took {time.monotonic() - started_s:.0f} s.")
    if not proven:
        console.print("[bold red]FAILED[/]: a proof does not hold; see above.")
        sys.exit(1)


def stop_at_sigterm() -> None:
    """So that what was started is stopped too."""
    signal.signal(signal.SIGTERM, _stop)


def _stop(*_: object) -> NoReturn:
    sys.exit(143)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="of each run (default %(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="of all runs (default %(default)s)")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=WORKLOADS)
    parser.add_argument("--accounts", type=int, default=10_000)
    options = parser.parse_args()
    numbers = (options.seconds, options.rounds, *options.connections)
    if min(numbers) < 1 or options.accounts < 2:
        parser.error("numbers are 1 or more, accounts 2 or more")
    return options


def _bench(options: argparse.Namespace) -> bool:
    with servers.workplace() as folder, servers.databases(folder) as urls:
        _print_facts(options, folder, urls[LEDGER])
        firsts = servers.fund(urls, options.accounts)
        with servers.serving(urls) as bases:
            targets = {
                name: load.Target(name, base, firsts[name], options.accounts)
                for name, (base, _) in bases.items()
            }
            # First, while the ledger is as small as the tables of the bare work.
            target, service = targets[LEDGER], bases[LEDGER][1]
            runs = _bulk(options.rounds, urls, target, servers.postmaster(folder), service.pid)
            runs += _measure(_plan(options), targets, folder)
            _print_results(results := _results(runs))
            _print_expected(results)
        runs += overload.measure(urls[LEDGER], target, folder, console)
        return _prove(urls, runs)


def _bulk(
    rounds: int, urls: dict[str, str], target: load.Target, postmaster: int, service: int
) -> list[load.Run]:
    """Many movements a call, in turns with the bare work; prints the table."""
    costs: dict[str, list[bulk.Cost]] = {}
    runs = []
    bare = bulk.Bare(urls[BARE])
    with bulk.opened(urls[LEDGER]) as (runner, ledger):
        for number in range(rounds):
            for name in BULK:
                workload = "hot" if "hot" in name else "uniform"
                label = f"bulk{number}-{name.replace(' ', '-')}"
                asked = bulk.movements(label, target.first_account, target.accounts, workload)
                if name.startswith("bare"):
                    cost = bare.run(postmaster, asked)
                elif name.startswith("post"):
                    cost, run = runner.run(bulk.post(ledger, postmaster, label, asked))
                    runs.append(run)
                else:
                    cost, run = bulk.stream(target.url, postmaster, service, label, asked)
                    runs.append(run)
                costs.setdefault(name, []).append(cost)
    _print_bulk(
        {
            name: bulk.Cost(*map(statistics.median, zip(*c, strict=True)))
            for name, c in costs.items()
        }
    )
    return runs


def _print_bulk(costs: dict[str, bulk.Cost]) -> None:
    table = Table(box=box.MARKDOWN)
    table.add_column("8,000 a call")
    for what in ("transfers/s", "server CPU µs", "over bare", "Python CPU µs"):
        table.add_column(what, justify="right")
    for name, cost in costs.items():
        bare = costs["bare hot" if "hot" in name else "bare uniform"]
        table.add_row(
            name,
            f"{cost.transfers_s:,.0f}",
            f"{cost.server_us:.1f}",
            f"{cost.server_us / bare.server_us:.2f}",
            "" if name.startswith("bare") else f"{cost.python_us:.1f}",
        )
    console.print(table)
    share = costs["ndjson uniform"].transfers_s / costs["post uniform"].transfers_s
    for what, measured, wanted in (
        ("post uniform: transfers/s", costs["post uniform"].transfers_s, 40_000),
        ("ndjson / post, uniform", share, 0.6),
    ):
        verdict = "[green]reached[/]" if measured >= wanted else "[yellow]missed[/]"
        console.print(f"- {what} {measured:,.2f}, goal at least {wanted:g}: {verdict}")
    for what, measured, wanted in (
        (
            "post / bare, uniform: server CPU",
            costs["post uniform"].server_us / costs["bare uniform"].server_us,
            1.3,
        ),
        ("post uniform: Python CPU µs", costs["post uniform"].python_us, 10),
    ):
        verdict = "[green]reached[/]" if measured <= wanted else "[yellow]missed[/]"
        console.print(f"- {what} {measured:,.2f}, goal at most {wanted:g}: {verdict}")
    console.print()


def _print_facts(options: argparse.Namespace, folder: Path, url: str) -> None:
    for line in machine.facts(folder, url):
        console.print(f"- {line}")
    console.print(
        f"- {load.version()} with one thread, on the same cores; {options.accounts:,} accounts; "
        f"medians of {options.rounds} runs of {options.seconds} s, in turns\n"
    )


def _plan(options: argparse.Namespace) -> list[Step]:
    """Every run. The servers take turns, and also turns at being the first of the two."""
    cases = [
        (workload, c)
        for workload in dict.fromkeys(options.workloads)
        for c in sorted(set(options.connections))
    ]
    plan = [Step(WARM_UP_PHASE, name, *WARM_UP) for name in (LEDGER, YARDSTICK)]
    for number in range(1, options.rounds + 1):
        for place, case in enumerate(cases):
            pair = (LEDGER, YARDSTICK) if (number + place) % 2 else (YARDSTICK, LEDGER)
            plan += [Step(f"round{number}", name, *case, options.seconds) for name in pair]
    return plan


def _measure(plan: list[Step], targets: dict[str, load.Target], folder: Path) -> list[load.Run]:
    runs = []
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        for step in bar.track(plan, description="Measuring"):
            name = f"{step.phase}-{step.server}-{step.workload}-{step.connections}"
            target = targets[step.server]
            runs.append(
                load.run(name, target, step.workload, step.connections, step.seconds, folder)
            )
            time.sleep(SETTLE_S)
    return runs


def _results(runs: list[load.Run]) -> Results:
    same: dict[Case, dict[str, list[load.Run]]] = {}
    for run in runs:
        if run.name.startswith("round"):
            by_server = same.setdefault((run.workload, run.connections), {})
            by_server.setdefault(run.server, []).append(run)
    return {
        case: {server: _figures(of_server) for server, of_server in by_server.items()}
        for case, by_server in same.items()
    }


def _figures(runs: list[load.Run]) -> Figures:
    return Figures(
        statistics.median(run.transfers_s for run in runs),
        statistics.median(run.p50_ms for run in runs),
        statistics.median(run.p99_ms for run in runs),
        max(run.max_ms for run in runs),
    )


def _print_results(results: Results) -> None:
    table = Table(box=box.MARKDOWN)
    table.add_column("workload")
    table.add_column("conns", justify="right")
    for server in (LEDGER, YARDSTICK):
        for what in ("req/s", "p50 ms", "p99 ms"):
            table.add_column(f"{server} {what}", justify="right", no_wrap=True)
    table.add_column("ratio", justify="right")
    for (workload, connections), by_server in results.items():
        cells = [cell for server in (LEDGER, YARDSTICK) for cell in _cells(by_server[server])]
        table.add_row(workload, str(connections), *cells, f"{_ratio(by_server):.1f}")
    console.print(table)
    for server in (LEDGER, YARDSTICK):
        slowest = max(by_server[server].max_ms for by_server in results.values())
        console.print(f"- the slowest answer of the {server}: {slowest:,.0f} ms")


def _cells(figures: Figures) -> list[str]:
    return [f"{figures.transfers_s:,.0f}", f"{figures.p50_ms:.1f}", f"{figures.p99_ms:.1f}"]


def _ratio(by_server: dict[str, Figures]) -> float:
    return by_server[LEDGER].transfers_s / by_server[YARDSTICK].transfers_s


def _print_expected(results: Results) -> None:
    for what, measured, expected in _expectations(results):
        verdict = "[green]reached[/]" if measured >= expected else "[yellow]missed[/]"
        console.print(f"- {what} {measured:.2f}, expected at least {expected:g}: {verdict}")
    console.print()


def _expectations(results: Results) -> Iterator[tuple[str, float, float]]:
    """What is compared, its measure, and the least that is expected of it."""
    for (workload, connections), by_server in results.items():
        if connections in OVER_YARDSTICK:
            what = f"{workload} at {connections}: ledger / yardstick"
            yield what, _ratio(by_server), OVER_YARDSTICK[connections]
    hot, uniform = results.get(("hot", 64)), results.get(("uniform", 64))
    if hot and uniform:
        measured = hot[LEDGER].transfers_s / uniform[LEDGER].transfers_s
        yield "ledger at 64: hot / uniform", measured, HOT_OVER_UNIFORM


def _prove(urls: dict[str, str], runs: list[load.Run]) -> bool:
    """Print the proofs; whether all hold."""
    holds = True
    for server in (LEDGER, YARDSTICK):
        url = urls[server]
        count = proof.exactly_once(server, url, runs)
        console.print(
            f"- {server}: {count.acknowledged:,} answers of 200; each is in the journal exactly "
            f"once: {_verdict(not count.faults)}. {count.posted - count.acknowledged:,} more were "
            "posted, in flight when a run ended."
        )
        for fault in count.faults[:SHOWN_FAULTS]:
            console.print(f"  - [red]{fault}[/]")
        holds = holds and not count.faults
    verified = proof.invariants_hold(urls[LEDGER])
    console.print(f"- verify, over the whole ledger: {_verdict(verified)}")
    return holds and verified


def _verdict(holds: bool) -> str:
    return "[green]yes[/]" if holds else "[bold red]NO[/]"


if __name__ == "__main__":
    main()
