"""A real PostgreSQL for the whole suite, a fresh database for whoever asks, real processes.

`LEDGER_TEST_DATABASE_URL` names another server than the embedded one; its user must be allowed to
create databases and roles.
"""

import itertools
import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import httpx
import psycopg
import pytest
from sqlalchemy import URL, create_engine, text
from sqlalchemy.pool import NullPool

from ledgerservice.embedded.server import EmbeddedServer
from ledgerservice.postgres.connections import Database, parse_url, usable_role
from ledgerservice.postgres.migrations import upgrade
from ledgerservice.postgres.verification import verify
from ledgerservice.settings import Settings

ROOT = Path(__file__).resolve().parent.parent
TEMPLATE = "ledger_template"
_numbers = itertools.count(1)


def settings_for_tests(**values: Any) -> Settings:
    return Settings(_env_file=None, database_url=None, **values)


@contextmanager
def reachable_folder() -> Iterator[Path]:
    """A folder below /tmp. pytest's own are closed to the user that root's PostgreSQL runs as."""
    folder = Path(tempfile.mkdtemp(prefix="ledger-", dir="/tmp"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


@pytest.fixture
def workspace() -> Iterator[Path]:
    """An empty folder, in which an embedded server may keep its data."""
    with reachable_folder() as folder:
        yield folder


@pytest.fixture(scope="session")
def server_url() -> Iterator[URL]:
    """The URL of a database on the suite's server; its user may do everything."""
    given = os.environ.get("LEDGER_TEST_DATABASE_URL")
    if given:
        yield parse_url(given)
        return
    with reachable_folder() as folder, EmbeddedServer(folder / "data") as embedded:
        yield parse_url(embedded.url)
        # At once: nobody needs what it would still write.
        postmaster = (folder / "data" / "postgres" / "postmaster.pid").read_text().split()[0]
        os.kill(int(postmaster), signal.SIGQUIT)


def administer(url: URL, *statements: str) -> None:
    """Run statements as the server's administrator, outside of a transaction."""
    engine = create_engine(url, poolclass=NullPool, isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        for statement in statements:
            connection.execute(text(statement))


@pytest.fixture(scope="session")
def template(server_url: URL) -> URL:
    """A migrated database that the tests' databases are copies of."""
    administer(server_url, f"DROP DATABASE IF EXISTS {TEMPLATE}", f"CREATE DATABASE {TEMPLATE}")
    database = Database(server_url.set(database=TEMPLATE), settings_for_tests())
    upgrade(database.owner_engine(), database.settings.service_role)
    return server_url


@pytest.fixture(scope="session")
def new_database(template: URL) -> Callable[..., Database]:
    """Makes a database with an empty ledger, or a copy of one, seen as the service sees it."""

    def make(copied: Database | None = None, **settings: Any) -> Database:
        name = f"ledger_test_{os.getpid()}_{next(_numbers)}"
        of = TEMPLATE if copied is None else copied.url.database
        administer(template, f"CREATE DATABASE {name} TEMPLATE {of}")
        database = Database(template.set(database=name), settings_for_tests(**settings))
        return replace(database, role=usable_role(database))

    return make


@pytest.fixture
def database(new_database: Callable[..., Database]) -> Database:
    """A database with an empty ledger."""
    return new_database()


def url_text(database: Database) -> str:
    return database.url.render_as_string(hide_password=False)


def connect(database: Database, *, role: str | None = None) -> "psycopg.Connection[Any]":
    """A psycopg connection as the database's owner, or as `role`."""
    _, arguments = database.url.get_dialect()().create_connect_args(database.url)
    connection = psycopg.connect(**arguments, autocommit=True)
    if role is not None:
        connection.execute(f"SET ROLE {role}")
    return connection


@dataclass
class RunningService:
    """A service process, as its callers see it."""

    process: "subprocess.Popen[bytes]"
    base: str
    client: httpx.Client = field(repr=False)

    def post(self, path: str, body: Any, **headers: str) -> httpx.Response:
        return self.client.post(path, json=body, headers=headers)

    def send(self, path: str, method: str = "POST", **body: Any) -> httpx.Response:
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


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        port: int = listener.getsockname()[1]
        return port


def environment(**values: str) -> dict[str, str]:
    """A clean environment for a process of ours."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("LEDGER_", "DATABASE_URL"))}
    return {**kept, "PYTHONPATH": str(ROOT / "src"), "NO_COLOR": "1", **values}


@contextmanager
def serving(*, options: Sequence[str] = (), **values: str) -> Iterator[RunningService]:
    """`ledgerservice serve` as a process, with these options and environment variables."""
    port = free_port()
    process = subprocess.Popen(
        [sys.executable, "-m", "ledgerservice", "serve", "--port", str(port), *options],
        env=environment(**values),
        cwd=ROOT,
    )
    base = f"http://127.0.0.1:{port}"
    with httpx.Client(base_url=base, timeout=60) as client:
        try:
            await_ready(client, process)
            yield RunningService(process, base, client)
        finally:
            if process.poll() is None:
                process.terminate()
            process.wait(60)


def await_ready(
    client: httpx.Client, process: "subprocess.Popen[Any]", limit_s: float = 60
) -> None:
    for _ in range(round(limit_s * 10)):
        try:
            if client.get("/health/ready").status_code == 200:
                return
        except httpx.TransportError:
            pass
        if process.poll() is not None:
            raise RuntimeError(f"the service ended with {process.returncode}")
        time.sleep(0.1)
    raise RuntimeError(f"the service did not get ready in {limit_s} s")


@pytest.fixture(scope="module")
def service(new_database: Callable[..., Database]) -> Iterator[RunningService]:
    """One service process on a database of its own, for a module."""
    with serving(DATABASE_URL=url_text(new_database())) as running:
        yield running


@pytest.fixture
def no_violations() -> Callable[[Database], None]:
    """Asserts that `verify` finds nothing."""

    def check(database: Database) -> None:
        assert list(verify(database.owner_engine())) == []

    return check
