"""Ten times the load: what the service still does, and how it refuses the rest.

The load is ten times as many clients as saturate it. Polite ones wait for what Retry-After says
when they are refused; rude ones send again at once. A probe beside them sees how long a refusal
takes.
"""

import statistics
import threading
import time
from pathlib import Path

import httpx
import psutil
from rich.console import Console

import load
import servers
from servers import LEDGER

SATURATING, TIMES = 64, 10
QUEUE = 64  # waiting requests, beside those in the batch that is posted
SECONDS = 10
PROBE_EVERY_S = 0.02
RETRY_AFTER_MS = 1_000
AFTERWARDS_S = 10


def measure(url: str, target: load.Target, folder: Path, console: Console) -> list[load.Run]:
    """Print the figures; the runs are for the proof."""
    bound = {"LEDGER_QUEUE_LIMIT_REQUESTS": str(QUEUE)}
    with servers.server(LEDGER, url, **bound) as (base, process):
        aim = load.Target(LEDGER, base, target.first_account, target.accounts)
        service = psutil.Process(process.pid)
        before = load.run("overload1-calm", aim, "uniform", 1, 3, folder)
        peak = load.run("overload2-peak", aim, "uniform", SATURATING, SECONDS, folder)
        memory_mb = service.memory_info().rss / 1e6
        crowds = []
        for name, wait_ms in (("polite", RETRY_AFTER_MS), ("rude", 0)):
            probe = _Probe(base, target.first_account)
            label, clients = f"overload3-{name}", SATURATING * TIMES
            run = load.run(label, aim, "uniform", clients, SECONDS, folder, wait_ms)
            crowds.append(run)
            _print(console, name, run, peak, probe.stop())
        most_mb = service.memory_info().rss / 1e6
        time.sleep(AFTERWARDS_S)
        after = load.run("overload4-calm", aim, "uniform", 1, 3, folder)
    console.print(
        f"- memory {memory_mb:.0f} MB before, {most_mb:.0f} MB after; p50 of one client "
        f"{before.p50_ms:.1f} ms before, {after.p50_ms:.1f} ms {AFTERWARDS_S} s after\n"
    )
    # What was refused must not be in the journal: the proof counts all that is posted.
    return [_without_refusals(run) for run in (before, peak, *crowds, after)]


def _print(
    console: Console, name: str, crowd: load.Run, peak: load.Run, refusals_ms: list[float]
) -> None:
    share = crowd.transfers_s / peak.transfers_s
    p99_ms = statistics.quantiles(refusals_ms, n=100)[98] if len(refusals_ms) > 1 else 0
    console.print(
        f"- {crowd.connections} {name} clients: {crowd.transfers_s:,.0f} transfers/s, {share:.0%} "
        f"of what {SATURATING} clients get (goal: 80 %); {crowd.failed / SECONDS:,.0f} refusals/s, "
        f"which take {p99_ms:.0f} ms (p99 of {len(refusals_ms)}; goal: 100)"
    )


def _without_refusals(run: load.Run) -> load.Run:
    return load.Run(
        run.name, run.server, run.workload, run.connections, run.transactions, 0,
        run.transfers_s, run.p50_ms, run.p99_ms, run.max_ms,
    )  # fmt: skip


class _Probe:
    """One more client, which measures how long a refusal takes."""

    def __init__(self, base: str, account: int) -> None:
        self._base = base
        self._account = account
        self._stop = threading.Event()
        self._refusals_ms: list[float] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        # A transfer to itself is never posted: the probe leaves nothing in the journal.
        body = {"from_account_id": self._account, "to_account_id": self._account, "amount": 1}
        with httpx.Client(base_url=self._base, timeout=30) as client:
            while not self._stop.wait(PROBE_EVERY_S):
                began_s = time.perf_counter()
                answer = client.post("/transfer/", json={**body, "idempotency_key": "probe"})
                if answer.status_code == 503 and answer.headers["Retry-After"]:
                    self._refusals_ms.append((time.perf_counter() - began_s) * 1e3)

    def stop(self) -> list[float]:
        """The times of all refusals."""
        self._stop.set()
        self._thread.join()
        return self._refusals_ms
