"""The client library beside plain HTTP, in turns: the same transfers from the same tasks.

    python3 benchmarks/client.py [--seconds 5] [--rounds 3]

Plain HTTP is httpx with one request for each call, from the same process. `wrk` is the load
generator of the other benchmarks, in C, with as many connections: what the service gives to a
client that costs nothing.
"""

import argparse
import asyncio
import os
import random
import resource
import statistics
import sys
import time
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import NamedTuple

import httpx
import psycopg
from rich.box import MARKDOWN
from rich.console import Console
from rich.table import Table

import load
import servers
from ledgerservice.client import AsyncClient
from servers import LEDGER

ACCOUNTS = 10_000
PLAIN, LIBRARY, WRK = "httpx, a request a call", "ledgerservice.client", "wrk"
TURNS = ((PLAIN, 1), (LIBRARY, 1), (PLAIN, 64), (LIBRARY, 64), (WRK, 64), (LIBRARY, 1_000))
Call = Callable[[int, int, str], Awaitable[object]]


class Run(NamedTuple):
    """Calls with an answer, their time, and the CPU that they took in this process, in seconds."""

    calls: int
    seconds: float
    cpu_s: float
    p50_ms: float
    p99_ms: float


async def _load(call: Call, name: str, first: int, tasks: int, seconds: float) -> Run:
    latencies: list[float] = []
    start_s, cpu_s = time.perf_counter(), _cpu_s()
    end_s = start_s + seconds

    async def work(task: int) -> None:
        chance, number = random.Random(f"{name} {task}"), 0
        while (begun_s := time.perf_counter()) < end_s:
            sender, receiver = chance.sample(range(first, first + ACCOUNTS), 2)
            await call(sender, receiver, f"{name}:{task}:{number}")
            latencies.append(time.perf_counter() - begun_s)
            number += 1

    await asyncio.gather(*(work(task) for task in range(tasks)))
    took_s = time.perf_counter() - start_s
    cuts = statistics.quantiles(latencies, n=100)
    cpu_s = _cpu_s() - cpu_s
    return Run(len(latencies), took_s, cpu_s, cuts[49] * 1e3, cuts[98] * 1e3)


def _cpu_s() -> float:
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime


async def _plain(base: str, name: str, first: int, tasks: int, seconds: float) -> Run:
    limits = httpx.Limits(max_connections=tasks, max_keepalive_connections=tasks)
    async with httpx.AsyncClient(base_url=base, limits=limits, timeout=60) as client:

        async def call(sender: int, receiver: int, key: str) -> None:
            accounts = {"from_account_id": sender, "to_account_id": receiver}
            body = {**accounts, "amount": "0.01", "idempotency_key": key}
            (await client.post("/transfer/", json=body)).raise_for_status().json()

        return await _load(call, name, first, tasks, seconds)


async def _library(base: str, name: str, first: int, tasks: int, seconds: float) -> Run:
    async with AsyncClient(base) as client:

        async def call(sender: int, receiver: int, key: str) -> None:
            await client.transfer(sender, receiver, "0.01", key=key)

        return await _load(call, name, first, tasks, seconds)


def _wrk(base: str, name: str, first: int, tasks: int, seconds: float, folder: Path) -> Run:
    target = load.Target(LEDGER, base, first, ACCOUNTS)
    run = load.run(name, target, "uniform", tasks, seconds, folder)
    posted = len(run.transactions)
    return Run(posted, posted / run.transfers_s, 0.0, run.p50_ms, run.p99_ms)


def _one(kind: str, base: str, name: str, first: int, tasks: int, seconds: float, at: Path) -> Run:
    if kind == WRK:
        return _wrk(base, name, first, tasks, seconds, at)
    run = _plain if kind == PLAIN else _library
    return asyncio.run(run(base, name, first, tasks, seconds))


def _print(runs: dict[tuple[str, int], list[Run]]) -> None:
    names = ("client", "tasks", "calls/s", "p50 ms", "p99 ms", "client CPU µs a call")
    table = Table(*names, "beside httpx", "beside wrk", box=MARKDOWN)
    for kind, tasks in TURNS:
        rounds = runs[kind, tasks]
        cpu_us = statistics.median(one.cpu_s / one.calls * 1e6 for one in rounds)
        table.add_row(
            kind,
            f"{tasks:,}",
            f"{statistics.median(map(_rate, rounds)):,.0f}",
            f"{statistics.median(one.p50_ms for one in rounds):.1f}",
            f"{statistics.median(one.p99_ms for one in rounds):.1f}",
            "" if kind == WRK else f"{cpu_us:.0f}",
            _ratio(rounds, runs.get((PLAIN, tasks), [])),
            _ratio(rounds, runs[WRK, 64] if tasks >= 64 else []),
        )
    Console(width=120).print(table)


def _rate(run: Run) -> float:
    return run.calls / run.seconds


def _ratio(rounds: list[Run], others: list[Run]) -> str:
    """The median of the ratios of turns in the same round; empty without others."""
    ratios = [_rate(one) / _rate(other) for one, other in zip(rounds, others, strict=False)]
    return f"{statistics.median(ratios):.1f}" if ratios else ""


def main() -> None:
    """Run all turns, print the table, and compare the ledger with the answers."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n", maxsplit=1)[0])
    parser.add_argument("--seconds", type=float, default=5.0)
    parser.add_argument("--rounds", type=int, default=3)
    options = parser.parse_args()
    load.require_wrk()
    runs: dict[tuple[str, int], list[Run]] = {turn: [] for turn in TURNS}
    with servers.workplace() as folder, servers.databases(folder) as urls:
        first = servers.fund_ledger(urls[LEDGER], ACCOUNTS)
        print(f"load before: {os.getloadavg()[0]:.1f}", file=sys.stderr)
        with servers.server(LEDGER, urls[LEDGER]) as (base, _):
            for number in range(options.rounds):
                for kind, tasks in TURNS:
                    name = f"{number}-{tasks}-{kind.split(',', maxsplit=1)[0]}"
                    run = _one(kind, base, name, first, tasks, options.seconds, folder)
                    runs[kind, tasks].append(run)
        print(f"load after: {os.getloadavg()[0]:.1f}", file=sys.stderr)
        _print(runs)
        answered = sum(one.calls for rounds in runs.values() for one in rounds)
        with psycopg.connect(urls[LEDGER]) as connection:
            query = "SELECT count(*) FROM ledger.transactions WHERE idempotency_key LIKE '%:%:%'"
            [posted] = connection.execute(query).fetchone() or (0,)
    print(f"{answered:,} answers, {posted:,} transfers in the ledger")


if __name__ == "__main__":
    main()
