"""Processes for tests: run the service and its commands, and wait for a condition."""

import itertools
import multiprocessing
import os
import resource
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import httpx

from ledgerservice.cli import main

_numbers = itertools.count(1)
ROOT = Path(__file__).resolve().parent.parent

if sys.platform == "linux":
    _forks = multiprocessing.get_context("forkserver")
    _forks.set_forkserver_preload(["tests.preloaded"])
else:
    _forks = multiprocessing.get_context("spawn")


class Fork:
    """A process of the command line, forked from one that has imported it, which takes a second.

    It has its own pid, signals and exit code. What is used of it is named as in `subprocess.Popen`.
    `python -m ledgerservice` itself is run by tests/cli and test_readme.py.
    """

    def __init__(
        self,
        arguments: Sequence[str],
        environment: Mapping[str, str],
        stdout: Path | None = None,
        stderr: Path | None = None,
    ) -> None:
        self.args = ["ledgerservice", *arguments]
        values = self.args, dict(environment), stdout, stderr
        self._process = _forks.Process(target=_run, args=values)
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        # As in subprocess: it may have ended since, and the server has taken its exit code.
        if self.poll() is None:
            with suppress(ProcessLookupError):
                os.kill(self.pid, number)

    def terminate(self) -> None:
        self.send_signal(signal.SIGTERM)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _run(
    arguments: list[str], environment: dict[str, str], stdout: Path | None, stderr: Path | None
) -> None:
    assert Path(main.__code__.co_filename).is_relative_to(ROOT), "another tree is installed"
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(ROOT)
    for number, path in ((1, stdout), (2, stderr)):
        if path is not None:
            os.dup2(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND), number)
    if "OPEN_FILES" in environment:
        limits = environment["OPEN_FILES"].split(":")
        resource.setrlimit(resource.RLIMIT_NOFILE, (int(limits[0]), int(limits[-1])))
    sys.argv = arguments
    main()


@dataclass
class RunningService:
    """A service process, as its callers see it."""

    process: Fork | subprocess.Popen[bytes]
    base: str
    client: httpx.Client = field(repr=False)

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return self.client.post(path, json=body, headers=headers)

    def send(self, path: str, method: str = "POST", /, **body: Any) -> httpx.Response:
        """A request with a key of its own; sent again, it gets the same bytes."""
        content = {"idempotency_key": f"key {next(_numbers)}", **body}
        if method == "PATCH":
            content = {"actor": "risk", "reason": "a test", **content}
        first = self.client.request(method, path, json=content)
        if "transaction_id" in first.json() and "dry-run" not in first.headers:
            again = self.client.request(method, path, json=content)
            assert (again.status_code, again.content) == (first.status_code, first.content)
            assert again.headers["idempotency-replayed"] == "true"
        return first

    def account(self, number: int, *names: str) -> tuple[Any, ...]:
        """Fields of an account as it stands."""
        body = self.get(f"/accounts/{number}").json()
        return tuple(body[name] for name in names)

    def get(self, path: str) -> httpx.Response:
        return self.client.get(path)

    def open(self, owner: str = "Alice", currency: str = "USD", balance: str | None = None) -> int:
        """A new account's id, funded if a balance is given."""
        account: int = self.post("/accounts/", {"owner": owner, "currency": currency}).json()["id"]
        if balance is not None:
            body = {"account_id": account, "amount": balance, "idempotency_key": "funding"}
            assert self.post("/deposit/", body).status_code == 200
        return account

    def stop(self, signal_number: int = signal.SIGTERM) -> int:
        """The exit code after a signal."""
        self.process.send_signal(signal_number)
        return self.process.wait(60)


def cli(*arguments: str, **values: str) -> "subprocess.CompletedProcess[str]":
    """A command of the command line, run to its end; `values` are its environment."""
    with tempfile.TemporaryDirectory() as folder:
        said, complained = Path(folder, "stdout"), Path(folder, "stderr")
        code = Fork(arguments, environment(**values), said, complained).wait(120)
        texts = (file.read_text() if file.exists() else "" for file in (said, complained))
        return subprocess.CompletedProcess(["ledgerservice", *arguments], code, *texts)


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def environment(**values: str) -> dict[str, str]:
    """A clean environment for a process of ours."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LEDGER_", "DATABASE_URL"))}
    return {**kept, "PYTHONPATH": str(ROOT / "src"), "NO_COLOR": "1", **values}


def _log_of(values: dict[str, str]) -> Path | None:
    return Path(values["LOGGED_TO"]) if "LOGGED_TO" in values else None


@contextmanager
def serving(*, options: Sequence[str] = (), **values: str) -> Iterator[RunningService]:
    """`ledgerservice serve` as a process, with these options and environment variables.

    What it logs goes to the file LOGGED_TO, and OPEN_FILES limits its open files (as SOFT or
    SOFT:HARD), if they are given; only without options.
    """
    port = free_port()
    arguments = ["serve", "--port", str(port), *options]
    process: Fork | subprocess.Popen[bytes]
    if options:  # more processes, which look for the program that started them
        command = [sys.executable, "-m", "ledgerservice", *arguments]
        process = subprocess.Popen(command, env=environment(**values), cwd=ROOT)
    else:
        process = Fork(arguments, environment(**values), None, _log_of(values))
    base = f"http://127.0.0.1:{port}"
    # To read the certificates of all authorities takes as long as ten requests.
    with httpx.Client(base_url=base, timeout=60, verify=False) as client:
        try:
            await_ready(client, process)
            yield RunningService(process, base, client)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(60)


def await_ready(
    client: httpx.Client, process: "Fork | subprocess.Popen[Any]", limit_s: float = 60
) -> None:
    for _ in range(round(limit_s * 10)):
        try:
            if client.get("/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with {process.poll()}")
        time.sleep(0.1)
    raise RuntimeError(f"the service did not get ready in {limit_s} s")


def wait_for(condition: Callable[[], bool], limit_s: float = 10.0, step_s: float = 0.02) -> bool:
    """Whether the condition is met in time.

    The steps grow to twice the first: what takes long is not asked for fifty times a second.
    """
    end_s = time.monotonic() + limit_s
    longest_s = 2 * step_s
    while not (met := condition()) and time.monotonic() < end_s:
        time.sleep(step_s)
        step_s = min(1.1 * step_s, longest_s)
    return met


def sleep_until(timestamp: datetime) -> None:
    """Return a millisecond after it."""
    time.sleep(max(0.0, (timestamp - datetime.now(UTC)).total_seconds() + 0.001))
