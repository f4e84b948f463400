"""`make bench-console`: the pages of the console on a large ledger, and what an open page costs.

First each page, as a reader gets it who opens it: how long it takes, and how much CPU. Then
transfers without and with a reader whose overview is open and loads itself again, in turns.
"""

import argparse
import os
import statistics
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "src"))

# After the change of sys.path.
import httpx

import growth
import load
import machine
import servers
from bench import exit_on_sigterm
from ledgerservice.embedded.server import EmbeddedServer
from servers import LEDGER

ACCOUNTS, ENTRIES = 1_000_000, 5_000_000
CONNECTIONS = 64
RELOAD_S = 2.0
"""How often a page loads itself again at most, as its script does."""
GOAL_MS = 100.0

PAGES = (
    *("", "/accounts", "/accounts/1", "/accounts/1?days=90", "/transactions"),
    *("/transactions?account_id=1", "/transactions/{transaction}", "/find?q=owner%207"),
    *("/find?q=nothing", "/reports", "/reports/owners", "/reports/months", "/health", "/approvals"),
)
AFTER = ("?figures=all", "/transactions?figures=all", "/reports?figures=all",
         "/reports/months?figures=all")  # fmt: skip
"""What a page loads after it, where it does not wait for it."""


def main() -> None:
    """Run the benchmark."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scale", type=float, default=1.0, help="factor of the size, for a trial")
    parser.add_argument("--rounds", type=int, default=7, help="rounds of pages, and of runs")
    parser.add_argument("--seconds", type=int, default=10, help="duration of each run")
    options = parser.parse_args()
    exit_on_sigterm()
    load.require_wrk()
    size = growth.Size(round(ACCOUNTS * options.scale), round(ENTRIES * options.scale))
    with servers.workplace() as folder, EmbeddedServer(folder / "data", announce=print) as server:
        for line in machine.facts(folder, server.url):
            print(f"- {line}")
        url = growth.database(server.url, "pages")
        growth.grow(url, size)
        with servers.server(LEDGER, url) as (base, service):
            pids = service.pid, servers.postmaster(folder)
            slow = measure_pages(base, pids, options.rounds)
            measure_polling(base, size.accounts, options.rounds, options.seconds, folder)
    if slow:
        raise SystemExit(f"Slower than {GOAL_MS:.0f} ms: {', '.join(slow)}")


def measure_pages(base: str, pids: tuple[int, int], rounds: int) -> list[str]:
    """Print the times of all pages; returns those whose median misses the goal."""
    slow = []
    with httpx.Client(base_url=base, timeout=120) as client:
        newest = client.get("/transactions/?limit=1").json()[0]["transaction_id"]
        print("\n| page | first ms | median ms | service CPU ms | PostgreSQL CPU ms | kB |")
        print("|---|---|---|---|---|---|")
        for path in (*PAGES, *AFTER):
            place = f"/console{path.format(transaction=newest)}"
            first_ms, _ = timed(client, place)
            if f"{path}?figures=all" in AFTER:  # what the first page has begun is over then
                timed(client, f"{place}?figures=all")
            before = cpu_s(pids)
            times_ms, sizes = zip(*(timed(client, place) for _ in range(rounds)), strict=True)
            used_ms = [(b - a) * 1e3 / rounds for a, b in zip(before, cpu_s(pids), strict=True)]
            median = statistics.median(times_ms)
            print(f"| `{path or '/'}` | {first_ms:.0f} | {median:.0f} | {used_ms[0]:.0f} |"
                  f" {used_ms[1]:.0f} | {sizes[0] / 1e3:.0f} |", flush=True)  # fmt: skip
            if path not in AFTER and median > GOAL_MS:
                slow.append(place)
    return slow


def timed(client: httpx.Client, place: str) -> tuple[float, int]:
    """The milliseconds until a page is there, and its bytes."""
    began_s = time.perf_counter()
    answer = client.get(place)
    if answer.status_code not in (200, 303):
        raise SystemExit(f"{place} answers {answer.status_code}")
    return (time.perf_counter() - began_s) * 1e3, len(answer.content)


def cpu_s(pids: tuple[int, int]) -> tuple[float, float]:
    """The CPU time of the service, and of PostgreSQL's processes. On a busy machine it says more
    than the time that passes; 0 where there is no /proc.
    """
    service, postmaster = pids
    times = [_times_of(stat) for stat in Path("/proc").glob("[0-9]*/stat")]
    own = sum(used for pid, _, used in times if pid == service)
    others = sum(used for pid, parent, used in times if postmaster in (pid, parent))
    return own, others


def _times_of(stat: Path) -> tuple[int, int, float]:
    """The id of a process, of its parent, and its CPU time in seconds; 0 if it has ended."""
    try:
        fields = stat.read_text().rpartition(")")[2].split()
    except OSError:
        return 0, 0, 0.0
    ticks = int(fields[11]) + int(fields[12])
    return int(stat.parent.name), int(fields[1]), ticks / os.sysconf("SC_CLK_TCK")


def measure_polling(base: str, accounts: int, rounds: int, seconds: int, folder: Path) -> None:
    """Print what an open overview costs the write path."""
    target = load.Target(LEDGER, base, 1, accounts)
    load.run("warmup0", target, "uniform", CONNECTIONS, seconds, folder)
    ratios = []
    for turn in range(rounds):
        # Each second turn begins with the page: what the first run leaves is shared out.
        for is_open in (False, True) if turn % 2 else (True, False):
            with reading(base) if is_open else nobody() as loads:
                run = load.run(f"turn{turn}{is_open:d}", target, "uniform", CONNECTIONS, seconds,
                               folder)  # fmt: skip
            if is_open:
                opened_s, count = run.transfers_s, len(loads)
            else:
                alone_s = run.transfers_s
        ratios.append(opened_s / alone_s)
        print(f"turn {turn}: {alone_s:,.0f} transfers/s, with an open overview {opened_s:,.0f}"
              f" ({count} loads)", flush=True)  # fmt: skip
    low, high = min(ratios), max(ratios)
    print(f"with an open overview: {statistics.median(ratios):.3f} ({low:.3f} to {high:.3f})")


@contextmanager
def nobody() -> Iterator[list[float]]:
    """No reader."""
    yield []


@contextmanager
def reading(base: str) -> Iterator[list[float]]:
    """A reader whose overview follows the events, and loads itself again; the times of the loads.

    It does what `console.js` does: at most every two seconds, and figures that come after the page
    once.
    """
    is_over, loads = threading.Event(), list[float]()

    def follow() -> None:
        with httpx.Client(base_url=base, timeout=120) as client:
            client.get("/console")
            client.get("/console?figures=all")
            with client.stream("GET", "/console/events") as events:
                for _ in events.iter_lines():
                    if is_over.is_set():
                        return

    def reload() -> None:
        with httpx.Client(base_url=base, timeout=120) as client:
            while not is_over.wait(RELOAD_S):
                began_s = time.perf_counter()
                client.get("/console")
                loads.append(time.perf_counter() - began_s)

    threads = [threading.Thread(target=one, daemon=True) for one in (follow, reload)]
    for thread in threads:
        thread.start()
    try:
        yield loads
    finally:
        is_over.set()
        threads[1].join()


if __name__ == "__main__":
    main()
