"""Overload: throughput and refusals with ten times as many clients as saturate the service.

When a request is refused, a polite client waits for the time in Retry-After, and a rude client
sends again at once. One more client measures how long a refusal takes.
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
QUEUE = 64  # Waiting requests, without those of the batch that is being posted.
SECONDS = 10
PROBE_EVERY_S = 0.02
RETRY_AFTER_MS = 1_000
AFTERWARDS_S = 10


def measure(url: str, target: load.Target, folder: Path, console: Console) -> list[load.Run]:
    """Print the figures; return the runs for the proof."""
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
    # A refused request must not be in the journal; the proof counts everything that was posted.
    return [_without_refusals(run) for run in (before, peak, *crowds, after)]


def _print(
    console: Console, name: str, crowd: load.Run, peak: load.Run, refusals_ms: list[float]
) -> None:
    share = crowd.transfers_s / peak.transfers_s
    p99_ms = statistics.quantiles(refusals_ms, n=100)[98] if len(refusals_ms) > 1 else 0
    console.print(
        f"- {crowd.connections} {name} clients: {crowd.transfers_s:,.0f} transfers/s, {share:.0%} "
        f"of {SATURATING} clients (goal: 80%); {crowd.failed / SECONDS:,.0f} refusals/s, "
        f"p99 {p99_ms:.0f} ms of {len(refusals_ms)} (goal: 100 ms)"
    )


def _without_refusals(run: load.Run) -> load.Run:
    return load.Run(
        run.name, run.server, run.workload, run.connections, run.transactions, 0,
        run.transfers_s, run.p50_ms, run.p99_ms, run.max_ms,
    )  # fmt: skip


class _Probe:
    """A client that measures how long a refusal takes."""

    def __init__(self, base: str, account: int) -> None:
        self._base = base
        self._account = account
        self._stop = threading.Event()
        self._refusals_ms: list[float] = []
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        # The two accounts are the same, so the probe is always rejected and writes nothing.
        body = {"from_account_id": self._account, "to_account_id": self._account, "amount": 1}
        with httpx.Client(base_url=self._base, timeout=30) as client:
            while not self._stop.wait(PROBE_EVERY_S):
                began_s = time.perf_counter()
                answer = client.post("/transfer/", json={**body, "idempotency_key": "probe"})
                if answer.status_code == 503 and answer.headers["Retry-After"]:
                    self._refusals_ms.append((time.perf_counter() - began_s) * 1e3)

    def stop(self) -> list[float]:
        """Stop, and return the times of all refusals in ms."""
        self._stop.set()
        self._thread.join()
        return self._refusals_ms
