"""One process, two workers and two acceptors, in turns: transfers a second, CPU and batches.

    python benchmarks/acceptors.py [--rounds 5] [--seconds 6] [--connections 64]

All serve the same database. Each figure is the median of its rounds; the ratios are to one process.
The CPU is that of the service's processes and of PostgreSQL together.
"""

import argparse
import re
import statistics
import tempfile
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.request import urlopen

import psutil

import load
import servers

ACCOUNTS = 10_000
WORKLOADS = ("uniform", "hot")
WAYS = {"one": (), "workers": ("--workers", "2"), "acceptors": ("--acceptors", "2")}
METRICS_PORTS = 5
SUM_AND_COUNT = re.compile(rb'ledger_batch_requests_(sum|count){queue="movements"} (\S+)')


@dataclass(frozen=True, slots=True)
class Service:
    """A service that runs."""

    url: str
    pid: int
    metrics_port: int

    def cpu_s(self) -> float:
        """The CPU seconds of its processes."""
        return _cpu_s(psutil.Process(self.pid))

    def batches(self) -> tuple[float, float]:
        """The movements in all batches, and the number of batches."""
        totals = {b"sum": 0.0, b"count": 0.0}
        for port in range(self.metrics_port, self.metrics_port + METRICS_PORTS):
            with suppress(OSError), urlopen(f"http://127.0.0.1:{port}/metrics", timeout=5) as page:
                for name, number in SUM_AND_COUNT.findall(page.read()):
                    totals[name] += float(number)
        return totals[b"sum"], totals[b"count"]


@dataclass(frozen=True, slots=True)
class Figures:
    """Of a run."""

    transfers_s: float
    cpu_us: float
    batch_requests: float


def _cpu_s(parent: psutil.Process) -> float:
    total = 0.0
    for process in (parent, *parent.children(recursive=True)):
        with suppress(psutil.NoSuchProcess):
            times = process.cpu_times()
            total += times.user + times.system
    return total


@contextmanager
def _services(url: str) -> Iterator[dict[str, Service]]:
    with ExitStack() as stack:
        services = {}
        for number, (name, options) in enumerate(WAYS.items()):
            port = 19_400 + number * METRICS_PORTS
            server = servers.server(servers.LEDGER, url, options, LEDGER_METRICS_PORT=str(port))
            base, child = stack.enter_context(server)
            services[name] = Service(base, child.pid, port)
        yield services


def _run(name: str, service: Service, target: load.Target, args: argparse.Namespace) -> Figures:
    workload, _, _ = name.partition(" ")
    postmaster = psutil.Process(args.postmaster)
    cpu_s = service.cpu_s() + _cpu_s(postmaster)
    requests, batches = service.batches()
    with tempfile.TemporaryDirectory() as folder:
        run = load.run(
            name.replace(" ", "-"), target, workload, args.connections, args.seconds, Path(folder)
        )
    if run.failed:
        raise SystemExit(f"{name}: {run.failed} requests failed")
    cpu_s = service.cpu_s() + _cpu_s(postmaster) - cpu_s
    more_requests, more_batches = service.batches()
    return Figures(
        run.transfers_s,
        cpu_s / len(run.transactions) * 1e6,
        (more_requests - requests) / (more_batches - batches),
    )


def _median(figures: list[Figures], name: str) -> float:
    return float(statistics.median(getattr(one, name) for one in figures))


def _report(workload: str, runs: dict[str, list[Figures]]) -> None:
    one = runs["one"]
    for name, figures in runs.items():
        shown = {field: _median(figures, field) for field in Figures.__slots__}
        # Each round beside its neighbour: the speed of the machine changes from minute to minute.
        ratio = statistics.median(
            mine.transfers_s / its.transfers_s for mine, its in zip(figures, one, strict=True)
        )
        print(
            f"{workload:8} {name:10} {shown['transfers_s']:8,.0f}/s  {ratio:5.2f} of one  "
            f"{shown['cpu_us']:6.0f} us CPU ({shown['cpu_us'] / _median(one, 'cpu_us'):.2f})  "
            f"{shown['batch_requests']:5.1f} in a batch",
            flush=True,
        )


def main() -> None:
    """Print the figures of each workload."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--seconds", type=float, default=6)
    parser.add_argument("--connections", type=int, default=64)
    args = parser.parse_args()
    load.require_wrk()
    with servers.workplace() as folder, servers.databases(folder) as urls:
        args.postmaster = servers.postmaster(folder)
        first = servers.fund_ledger(urls[servers.LEDGER], ACCOUNTS)
        key = servers.make_key(urls[servers.LEDGER])
        with _services(urls[servers.LEDGER]) as services:
            for workload in WORKLOADS:
                runs: dict[str, list[Figures]] = {name: [] for name in WAYS}
                for number in range(args.rounds + 1):
                    for name, service in services.items():
                        target = load.Target(name, service.url, first, ACCOUNTS, key)
                        figures = _run(f"{workload} {name} {number}", service, target, args)
                        if number:  # the first is the warm-up
                            runs[name].append(figures)
                _report(workload, runs)


if __name__ == "__main__":
    main()
