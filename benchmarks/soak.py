"""`make bench-soak`: ten minutes of steady load, to find drift of latency, bloat or memory.

Once a minute the same load runs for one slice on the control: a fresh copy of the ledger as it was
at the start, on the same server. A change that the control shows too comes from the machine. The
thirds of the run are printed, and all slices are drawn into docs/soak.svg.
"""

import argparse
import statistics
import sys
from pathlib import Path
from typing import Any, NamedTuple

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

# After the change of sys.path.
import matplotlib as mpl
import psutil
import psycopg
from rich import box
from rich.console import Console
from rich.progress import track
from rich.table import Table
from sqlalchemy import make_url

mpl.use("svg")
import matplotlib.pyplot as plt

import load
import machine
import proof
import servers
from bench import exit_on_sigterm
from servers import LEDGER, ROOT

CONNECTIONS, ACCOUNTS = 64, 10_000
SLICES_A_MINUTE = 6  # Without that of the control.
CONTROL = "control"
PICTURE = ROOT / "docs" / "soak.svg"

console = Console(highlight=False, width=200)


class Sample(NamedTuple):
    """The figures of one slice of the load, and the state after it."""

    transfers_s: float
    p50_ms: float
    p99_ms: float
    accounts_mb: float
    dead_rows: int
    memory_mb: float


def main() -> None:
    """Run the soak."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--minutes", type=int, default=10)
    parser.add_argument("--slice", type=int, default=10, help="duration of each slice in seconds")
    options = parser.parse_args()
    exit_on_sigterm()
    load.require_wrk()
    with servers.workplace() as folder, servers.databases(folder) as urls:
        for line in machine.facts(folder, urls[LEDGER]):
            console.print(f"- {line}")
        first = servers.fund(urls, ACCOUNTS)[LEDGER]
        control = _Control(urls[LEDGER], first, folder)
        runs, samples, controls = [], [], []
        with servers.server(LEDGER, urls[LEDGER]) as (base, process):
            target = load.Target(LEDGER, base, first, ACCOUNTS)
            service = psutil.Process(process.pid)
            for number in track(range(options.minutes * SLICES_A_MINUTE), "Soaking"):
                if number % SLICES_A_MINUTE == 0:
                    controls.append(control.run(options.slice))
                name = f"soak{number}-slice"
                run = load.run(name, target, "uniform", CONNECTIONS, options.slice, folder)
                runs.append(run)
                state = _state(urls[LEDGER])
                memory_mb = service.memory_info().rss / 1e6
                samples.append(Sample(run.transfers_s, run.p50_ms, run.p99_ms, *state, memory_mb))
        controls.append(control.run(options.slice))
        _print(samples, controls)
        _draw(samples, controls, options.slice)
        count = proof.exactly_once(LEDGER, urls[LEDGER], runs)
        for fault in count.faults[:20]:
            console.print(f"  - [red]{fault}[/]")
        console.print(f"- {count.acknowledged:,} answers of 200")
        if count.faults or not proof.invariants_hold(urls[LEDGER]):
            console.print("[bold red]FAILED[/]: a proof failed; see above.")
            sys.exit(1)


class _Control:
    """Runs slices of the load on fresh copies of a ledger."""

    def __init__(self, url: str, first: int, folder: Path) -> None:
        self._url, self._first, self._folder = url, first, folder
        self._made = 0
        self._copy(make_url(url).database or "", "origin")

    def run(self, seconds: int) -> load.Run:
        self._made += 1
        self._copy("origin", CONTROL)
        try:
            with servers.server(LEDGER, servers.other_database(self._url, CONTROL)) as (base, _):
                target = load.Target(LEDGER, base, self._first, ACCOUNTS)
                name = f"{CONTROL}{self._made}-slice"
                return load.run(name, target, "uniform", CONNECTIONS, seconds, self._folder)
        finally:
            self._administer(f"DROP DATABASE {CONTROL}")

    def _copy(self, template: str, name: str) -> None:
        self._administer(f"CREATE DATABASE {name} TEMPLATE {template}")

    def _administer(self, statement: str) -> None:
        url = servers.other_database(self._url, "postgres")
        with psycopg.connect(url, autocommit=True) as connection:
            connection.execute(statement)


def _state(url: str) -> tuple[float, int]:
    with psycopg.connect(url) as connection:
        row: Any = connection.execute(
            "SELECT pg_total_relation_size('ledger.accounts'), n_dead_tup"
            " FROM pg_stat_user_tables WHERE relid = 'ledger.accounts'::regclass"
        ).fetchone()
        return row[0] / 1e6, row[1]


def _print(samples: list[Sample], controls: list[load.Run]) -> None:
    table = Table(box=box.MARKDOWN)
    for name in ("", "transfers/s", "p50 ms", "p99 ms", "accounts MB", "memory MB",
                 "control: transfers/s", "p50 ms", "of the control"):  # fmt: skip
        table.add_column(name, justify="right")
    third, control_third = max(1, len(samples) // 3), max(1, len(controls) // 3)
    for name, part, beside in (
        ("first third", samples[:third], controls[:control_third]),
        ("middle", samples[third:-third], controls[control_third:-control_third]),
        ("last third", samples[-third:], controls[-control_third:]),
    ):
        medians = [statistics.median(column) for column in zip(*part, strict=True)]
        control = statistics.median(run.transfers_s for run in beside)
        table.add_row(name, f"{medians[0]:,.0f}", f"{medians[1]:.1f}", f"{medians[2]:.1f}",
                      f"{medians[3]:.1f}", f"{medians[5]:.0f}", f"{control:,.0f}",
                      f"{statistics.median(run.p50_ms for run in beside):.1f}",
                      f"{medians[0] / control:.2f}")  # fmt: skip
    console.print(table)


def _draw(samples: list[Sample], controls: list[load.Run], slice_s: int) -> None:
    minutes = [(number + 1) * slice_s / 60 for number in range(len(samples))]
    between = [number * SLICES_A_MINUTE * slice_s / 60 for number in range(len(controls))]
    panels = {
        "transfers/s": ([s.transfers_s for s in samples], [r.transfers_s for r in controls]),
        "p99 ms": ([s.p99_ms for s in samples], [r.p99_ms for r in controls]),
        "accounts, MB with indexes": ([s.accounts_mb for s in samples], []),
        "memory of the service, MB": ([s.memory_mb for s in samples], []),
    }
    figure, axes = plt.subplots(len(panels), sharex=True, figsize=(8, 8), layout="constrained")
    for axis, (name, (values, beside)) in zip(axes, panels.items(), strict=True):
        axis.plot(minutes, values, label="the growing ledger")
        if beside:
            axis.plot(between, beside, "o", label="fresh copies")
            axis.legend()
        axis.set_ylim(bottom=0)
        axis.set_ylabel(name)
    axes[-1].set_xlabel("minutes of load")
    figure.savefig(PICTURE, metadata={"Date": None})


if __name__ == "__main__":
    main()
