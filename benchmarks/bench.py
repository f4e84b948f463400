"""`make bench`: compares the service with a yardstick server, over HTTP, in turns.

With DATABASE_URL it compares the service on that server with the service on the embedded one.
It starts both servers, measures, and prints Markdown. Then it proves that every 200 is in the
journal exactly once. The exit code is 1 if a proof fails. A missed goal is printed, but is not a
failure.
"""

import argparse
import math
import os
import signal
import statistics
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

# After the change of sys.path.
from rich import box
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

import beside
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
WIDTH = 200  # A Markdown table must not be wrapped on a narrow terminal.

BULK = ("bare uniform", "post uniform", "ndjson uniform", "bare hot", "post hot")

OVER_YARDSTICK = {1: 2.5, 64: 35.0}  # by connections
HOT_OVER_UNIFORM = 1.0

console = Console(highlight=False, width=WIDTH)


@dataclass(frozen=True, slots=True)
class Step:
    """One planned run."""

    phase: str
    server: str
    workload: str
    connections: int
    seconds: int


@dataclass(frozen=True, slots=True)
class Figures:
    """The medians of one server's runs of one case, and its slowest answer."""

    transfers_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float


Case = tuple[str, int]  # workload, connections
Results = dict[Case, dict[str, Figures]]


def main() -> None:
    """Run the benchmark."""
    options = _options()
    exit_on_sigterm()
    load.require_wrk()
    started_s = time.monotonic()
    try:
        given = os.environ.get("DATABASE_URL")
        proven = beside.compare(options, given, console) if given else _bench(options)
    except KeyboardInterrupt:
        sys.exit(130)
    console.print(f"The benchmark took {time.monotonic() - started_s:.0f} s.")
    if not proven:
        console.print("[bold red]FAILED[/]: a proof failed; see above.")
        sys.exit(1)


def exit_on_sigterm() -> None:
    """Exit by an exception on SIGTERM, so that the started servers are stopped."""
    signal.signal(signal.SIGTERM, _stop)


def _stop(*_: object) -> NoReturn:
    sys.exit(143)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seconds", type=int, default=5, help="duration of each run (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="number of rounds (%(default)s)")
    parser.add_argument("--connections", type=int, nargs="+", default=[1, 16, 64])
    parser.add_argument("--workloads", nargs="+", default=list(WORKLOADS), choices=WORKLOADS)
    parser.add_argument("--accounts", type=int, default=10_000)
    options = parser.parse_args()
    numbers = (options.seconds, options.rounds, *options.connections)
    if min(numbers) < 1 or options.accounts < 2:
        parser.error("--accounts must be 2 or more, the other numbers 1 or more")
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
            # First, while the ledger is as small as the tables of the bare statements.
            target, service = targets[LEDGER], bases[LEDGER][1]
            runs = _bulk(options.rounds, urls, target, servers.postmaster(folder), service.pid)
            runs += _measure(_plan(options), targets, folder)
            _print_results(results := _results(runs))
            _print_goals(results)
        runs += overload.measure(urls[LEDGER], target, folder, console)
        return _prove(urls, runs)


def _bulk(
    rounds: int, urls: dict[str, str], target: load.Target, postmaster: int, service: int
) -> list[load.Run]:
    """Measure many movements per call, in turns with the bare statements; print the table."""
    costs: dict[str, list[bulk.Cost]] = {}
    runs = []
    bare = bulk.Bare(urls[BARE])
    with bulk.opened(urls[LEDGER]) as (runner, ledger):
        for number in range(rounds):
            for name in BULK:
                workload = "hot" if "hot" in name else "uniform"
                label = f"bulk{number}-{name.replace(' ', '-')}"
                transfers = bulk.movements(label, target.first_account, target.accounts, workload)
                if name.startswith("bare"):
                    cost = bare.run(postmaster, transfers)
                elif name.startswith("post"):
                    cost, run = runner.run(bulk.post(ledger, postmaster, label, transfers))
                    runs.append(run)
                else:
                    cost, run = bulk.stream(target.url, postmaster, service, label, transfers)
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
    table.add_column("8,000 per call")
    for title in ("transfers/s", "server CPU µs", "over bare", "Python CPU µs"):
        table.add_column(title, justify="right")
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
    bare, post, ndjson = (costs[f"{name} uniform"] for name in ("bare", "post", "ndjson"))
    _print_goal("post uniform: transfers/s", post.transfers_s, at_least=40_000)
    _print_goal("ndjson / post, uniform", ndjson.transfers_s / post.transfers_s, at_least=0.6)
    _print_goal("post / bare, uniform: server CPU", post.server_us / bare.server_us, at_most=1.3)
    _print_goal("post uniform: Python CPU µs", post.python_us, at_most=10)
    console.print()


def _print_goal(
    name: str, measured: float, *, at_least: float = -math.inf, at_most: float = math.inf
) -> None:
    reached = at_least <= measured <= at_most
    goal = f"at most {at_most:g}" if at_most < math.inf else f"at least {at_least:g}"
    result = "[green]reached[/]" if reached else "[yellow]missed[/]"
    console.print(f"- {name} {measured:,.2f}, goal {goal}: {result}")


def _print_facts(options: argparse.Namespace, folder: Path, url: str) -> None:
    for line in machine.facts(folder, url):
        console.print(f"- {line}")
    console.print(
        f"- {load.version()} with one thread, on the same cores; {options.accounts:,} accounts; "
        f"medians of {options.rounds} runs of {options.seconds} s, in turns\n"
    )


def _plan(options: argparse.Namespace) -> list[Step]:
    """All runs. The servers take turns, and each is the first of the pair in turn."""
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
        for title in ("req/s", "p50 ms", "p99 ms"):
            table.add_column(f"{server} {title}", justify="right", no_wrap=True)
    table.add_column("ratio", justify="right")
    for (workload, connections), by_server in results.items():
        cells = [cell for server in (LEDGER, YARDSTICK) for cell in _cells(by_server[server])]
        table.add_row(workload, str(connections), *cells, f"{_ratio(by_server):.1f}")
    console.print(table)
    for server in (LEDGER, YARDSTICK):
        slowest = max(by_server[server].max_ms for by_server in results.values())
        console.print(f"- slowest answer of the {server}: {slowest:,.0f} ms")


def _cells(figures: Figures) -> list[str]:
    return [f"{figures.transfers_s:,.0f}", f"{figures.p50_ms:.1f}", f"{figures.p99_ms:.1f}"]


def _ratio(by_server: dict[str, Figures]) -> float:
    return by_server[LEDGER].transfers_s / by_server[YARDSTICK].transfers_s


def _print_goals(results: Results) -> None:
    for name, measured, expected in _goals(results):
        _print_goal(name, measured, at_least=expected)
    console.print()


def _goals(results: Results) -> Iterator[tuple[str, float, float]]:
    """The name of each goal, the measured value, and the least value that reaches it."""
    for (workload, connections), by_server in results.items():
        if connections in OVER_YARDSTICK:
            name = f"{workload} at {connections}: ledger / yardstick"
            yield name, _ratio(by_server), OVER_YARDSTICK[connections]
    hot, uniform = results.get(("hot", 64)), results.get(("uniform", 64))
    if hot and uniform:
        measured = hot[LEDGER].transfers_s / uniform[LEDGER].transfers_s
        yield "ledger at 64: hot / uniform", measured, HOT_OVER_UNIFORM


def _prove(urls: dict[str, str], runs: list[load.Run]) -> bool:
    """Print the proofs. True if all of them hold."""
    holds = True
    for server in (LEDGER, YARDSTICK):
        url = urls[server]
        count = proof.exactly_once(server, url, runs)
        console.print(
            f"- {server}: {count.acknowledged:,} answers of 200, each in the journal exactly once: "
            f"{_verdict(not count.faults)}. {count.posted - count.acknowledged:,} more transfers "
            "were posted; their requests were in flight when a run ended."
        )
        for fault in count.faults[:SHOWN_FAULTS]:
            console.print(f"  - [red]{fault}[/]")
        holds = holds and not count.faults
    verified = proof.invariants_hold(urls[LEDGER])
    console.print(f"- verify over the whole ledger: {_verdict(verified)}")
    return holds and verified


def _verdict(holds: bool) -> str:
    return "[green]yes[/]" if holds else "[bold red]NO[/]"


if __name__ == "__main__":
    main()
