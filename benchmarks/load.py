"""The load generator: wrk as a child process, one run at a time."""

import json
import os
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

SCRIPT = Path(__file__).with_name("transfer.lua")
READ_SCRIPT = Path(__file__).with_name("read.lua")
TIMEOUT_S = 20
HOW_TO_INSTALL = "wrk is missing. Install it: apt-get install -y wrk (macOS: brew install wrk)"


@dataclass(frozen=True, slots=True)
class Run:
    """One run against one server. Every key of it starts with `name:`.

    `transactions` are the ids in its 200s. `failed` counts answers other than 200, and connections
    that broke or timed out. The latencies are those of wrk, which corrects them for coordinated
    omission: a stall counts once for each request that would have been sent during it.
    """

    name: str
    server: str
    workload: str
    connections: int
    transactions: list[int]
    failed: int
    transfers_s: float
    p50_ms: float
    p99_ms: float
    max_ms: float


@dataclass(frozen=True, slots=True)
class Target:
    """A server, the accounts that a run uses on it, and the key that each request sends."""

    server: str
    url: str
    first_account: int
    accounts: int
    key: str | None = None


def require_wrk() -> None:
    """Exit unless wrk is installed. Root on Debian installs it."""
    if shutil.which("wrk"):
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        print("Installing wrk, the load generator.", flush=True)
        command = ["apt-get", "install", "-y", "--no-install-recommends", "wrk"]
        quiet = {**os.environ, "DEBIAN_FRONTEND": "noninteractive"}
        if subprocess.run(command, capture_output=True, env=quiet, check=False).returncode != 0:
            subprocess.run(["apt-get", "update"], capture_output=True, env=quiet, check=False)
            subprocess.run(command, capture_output=True, env=quiet, check=False)
    if not shutil.which("wrk"):
        raise SystemExit(HOW_TO_INSTALL)


def version() -> str:
    """The version of wrk."""
    output = subprocess.run(["wrk", "-v"], capture_output=True, text=True, check=False).stdout
    return " ".join(output.split()[:2])


def run(
    name: str,
    target: Target,
    workload: str,
    connections: int,
    seconds: float,
    folder: Path,
    wait_ms: int = 0,
) -> Run:
    """Load `target` for `seconds`. Every key of the run starts with `name:`.

    A client whose request was refused waits `wait_ms` before its next one.
    """
    answers = folder / f"{name}.json"
    command = ["wrk", "--threads", "1", "--connections", str(connections)]
    command += ["--duration", f"{round(seconds)}s", "--timeout", f"{TIMEOUT_S}s"]
    command += ["--script", os.fspath(SCRIPT), target.url, "--", name, workload]
    command += [str(target.first_account), str(target.accounts), _seed(name), os.fspath(answers)]
    command += [str(wait_ms), *_key(target)]
    subprocess.run(command, stdout=subprocess.DEVNULL, start_new_session=True, check=True)
    return _read(answers, name, target.server, workload, connections)


class Reads(NamedTuple):
    """The reads of a run per second, and their p99."""

    reads_s: float
    p99_ms: float


def read(target: Target, path: str, connections: int, seconds: float) -> Reads:
    """Load `target` with GET /accounts/{any}`path` of its accounts."""
    command = ["wrk", "--threads", "1", "--connections", str(connections)]
    command += ["--duration", f"{round(seconds)}s", "--script", os.fspath(READ_SCRIPT), target.url]
    command += ["--", path, str(target.first_account), str(target.accounts)]
    command += _key(target)
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    reads_s, p99_us, faults = done.stdout.rsplit("READ ", 1)[1].split()
    if faults != "0":
        raise SystemExit(f"{faults} reads failed.\n{done.stdout}")
    return Reads(float(reads_s), float(p99_us) / 1e3)


def _key(target: Target) -> list[str]:
    return [target.key] if target.key else []


def _seed(name: str) -> str:
    return str(int("".join(filter(str.isdigit, name)) or 0) * 1_000)


def _read(answers: Path, name: str, server: str, workload: str, connections: int) -> Run:
    results = json.loads(answers.read_text())
    transactions: list[int] = results["transactions"]
    others = sum(count for status, count in results["statuses"] if status != 200)
    return Run(
        name,
        server,
        workload,
        connections,
        transactions,
        others + results["broken"],
        len(transactions) / (results["duration_us"] / 1e6),
        results["p50_us"] / 1e3,
        results["p99_us"] / 1e3,
        results["max_us"] / 1e3,
    )
