"""The processes of the benchmark: a PostgreSQL, the service, and the yardstick."""

import asyncio
import os
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

import psycopg
from sqlalchemy import make_url

import yardstick
from ledgerservice.access import keys
from ledgerservice.access.scopes import ALL
from ledgerservice.domain.accounts import Opened
from ledgerservice.embedded.server import EmbeddedServer
from ledgerservice.ledger import Ledger, deposit
from ledgerservice.postgres.access import principals
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.urls import parse_url
from ledgerservice.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
START_LIMIT_S = 60.0
STOP_LIMIT_S = 20.0
POLL_S = 0.05
FUND_AT_ONCE = 2_000
FUNDS = "1000000000.00"

LEDGER, YARDSTICK, BARE = "ledger", "yardstick", "bare"
SERVE = [sys.executable, "-m", "ledgerservice", "serve"]
UVICORN = [sys.executable, "-m", "uvicorn", "yardstick:app", "--no-access-log", "--loop", "uvloop"]
UVICORN += ["--http", "httptools", "--log-level", "warning"]
COMMANDS = {LEDGER: SERVE, YARDSTICK: UVICORN}


@contextmanager
def workplace() -> Iterator[Path]:
    """A temporary folder on a disk. /tmp may be in memory, where a sync costs nothing."""
    place = "/var/tmp" if Path("/var/tmp").is_dir() else None
    with tempfile.TemporaryDirectory(prefix="ledger-bench-", dir=place) as name:
        folder = Path(name)
        folder.chmod(0o755)  # PostgreSQL may run as another user, who must enter it.
        yield folder


@contextmanager
def databases(folder: Path) -> Iterator[dict[str, str]]:
    """The URLs of the databases, by name: one per server, and one for the bare statements."""
    with EmbeddedServer(folder / "data", announce=print) as server:
        with psycopg.connect(server.url, autocommit=True) as connection:
            for name in (YARDSTICK, BARE):
                connection.execute(f"CREATE DATABASE {name}")
        others = {name: other_database(server.url, name) for name in (YARDSTICK, BARE)}
        yield {LEDGER: server.url, **others}


def postmaster(folder: Path) -> int:
    """The process id of the PostgreSQL that `databases` started in `folder`."""
    return int((folder / "data" / "postgres" / "postmaster.pid").read_text().split()[0])


def other_database(url: str, name: str) -> str:
    """The URL of another database on the same server."""
    return make_url(url).set(database=name).render_as_string(hide_password=False)


def as_database(url: str) -> Database:
    """The database as the service sees it."""
    return Database(parse_url(url), Settings.model_validate({"DATABASE_URL": url}))


def make_key(url: str) -> str:
    """A new key of the API with all scopes on all ledgers."""
    new = keys.make()
    with as_database(url).owner_engine().begin() as owner:
        number = principals.add_principal(owner, "bench", "service", int(ALL), [None])
        principals.add_key(owner, new.id, new.digest, number, 1)
    return new.text


def fund(urls: dict[str, str], accounts: int) -> dict[str, int]:
    """Open the accounts in all databases, with money. Returns the first id, by server."""
    first = fund_ledger(urls[LEDGER], accounts)
    assert fund_ledger(urls[BARE], accounts) == first
    yardstick.fund(urls[YARDSTICK], accounts, FUNDS)
    _settle(urls[YARDSTICK])
    return {LEDGER: first, YARDSTICK: 1}


def fund_ledger(url: str, accounts: int) -> int:
    """Open the accounts of a ledger, with money. Returns the first id."""
    first = asyncio.run(_fund_ledger(url, accounts))
    _settle(url)
    return first


def _settle(url: str) -> None:
    with psycopg.connect(url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")
        connection.execute("CHECKPOINT")


async def _fund_ledger(url: str, accounts: int) -> int:
    """Open the accounts through the service's write path. Returns the first id."""
    async with Ledger.open(url) as ledger:
        ids: list[int] = []
        for start in range(0, accounts, FUND_AT_ONCE):
            numbers = range(start, min(start + FUND_AT_ONCE, accounts))
            opened = await asyncio.gather(
                *(ledger.open_account(f"owner {n}", "USD", key=f"open-{n}") for n in numbers)
            )
            new = [account.account_id for account in opened if isinstance(account, Opened)]
            outcomes = await ledger.post([deposit(number, FUNDS, "funds") for number in new])
            assert all(outcome.posted for outcome in outcomes)
            ids += new
    assert sorted(ids) == list(range(min(ids), min(ids) + accounts)), "the ids have gaps"
    return min(ids)


@contextmanager
def serving(urls: dict[str, str]) -> "Iterator[dict[str, tuple[str, subprocess.Popen[bytes]]]]":
    """Both servers, each in one uvicorn process with uvloop: base URL and process, by name."""
    with ExitStack() as stack:
        yield {name: stack.enter_context(server(name, urls[name])) for name in COMMANDS}


def environment(url: str) -> dict[str, str]:
    """The environment of a process of the service."""
    return {**os.environ, "DATABASE_URL": url, "PYTHONPATH": os.fspath(ROOT / "src")}


@contextmanager
def server(
    name: str, database_url: str, options: Sequence[str] = (), **more: str
) -> "Iterator[tuple[str, subprocess.Popen[bytes]]]":
    """A running server: its base URL and its process. `more` is added to its environment."""
    port = _free_port()
    # In its own session, so Ctrl-C reaches only the benchmark, which then stops its servers.
    child = subprocess.Popen(
        [*COMMANDS[name], "--port", str(port), *options],
        cwd=ROOT / "benchmarks",
        env=environment(database_url) | more,
        start_new_session=True,
        stdout=subprocess.DEVNULL,
    )
    try:
        base = f"http://127.0.0.1:{port}"
        _await_ready(name, base, child)
        yield base, child
    finally:
        _stop(child)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _await_ready(name: str, base: str, child: "subprocess.Popen[bytes]") -> None:
    give_up_at_s = time.monotonic() + START_LIMIT_S
    while time.monotonic() < give_up_at_s and child.poll() is None:
        try:
            with urlopen(f"{base}/health/ready", timeout=5):
                return
        except (URLError, OSError):
            time.sleep(POLL_S)
    raise SystemExit(f"The server {name} did not start; its output is above.")


def _stop(child: "subprocess.Popen[bytes]") -> None:
    child.terminate()
    try:
        child.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        print(f"Process {child.pid} still runs {STOP_LIMIT_S} s after SIGTERM; killing it.")
        child.kill()
        child.wait()
