"""PostgreSQL in a folder or on a disk of its own, and processes of the service.

Everything listens on loopback, or on an address of a network namespace that was made for it, and
only processes that were started here are ever sent a signal.
"""

import ctypes
import fcntl
import json
import os
import pwd
import shutil
import signal
import subprocess
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import psutil
import psycopg

from ledgerservice.embedded.server import EmbeddedServer, bundled_binaries
from tests.processes import free_port, wait_for
from tests.proof.servers.releases import THIS, Release

BINARIES = bundled_binaries()
START_LIMIT_S = 90.0
RELEASE_LIMIT_S = 60.0
DATABASE = "proof"

SETTINGS = {
    "fsync": "on",
    "synchronous_commit": "on",
    "full_page_writes": "on",
    "max_connections": "80",
    "superuser_reserved_connections": "5",
    "shared_buffers": "32MB",
    "max_wal_size": "96MB",
    "min_wal_size": "64MB",
    "dynamic_shared_memory_type": "mmap",
    "max_wal_senders": "4",
    "wal_level": "replica",
    "hot_standby": "on",
    "log_min_messages": "fatal",
    "restart_after_crash": "on",
}

# Short, so that a frozen process is noticed within a round.
SERVICE = {
    "LEDGER_REQUEST_DEADLINE_S": "4",
    "LEDGER_STATEMENT_TIMEOUT_S": "6",
    "LEDGER_IDLE_TRANSACTION_TIMEOUT_S": "2",
    "LEDGER_CONNECT_TIMEOUT_S": "2",
    "NO_COLOR": "1",
}


class Broken(Exception):
    """Something that was hurt did not come back, or showed that it cannot take it."""


def _account() -> dict[str, Any]:
    """PostgreSQL does not run as root."""
    if os.geteuid() != 0:
        return {}
    nobody = pwd.getpwnam("nobody")
    return {"user": nobody.pw_uid, "group": nobody.pw_gid, "extra_groups": []}


def run_program(*command: str) -> None:
    """One of PostgreSQL's programs, to its end."""
    subprocess.run(
        [str(BINARIES / command[0]), *command[1:]],
        cwd="/",
        env={"PATH": os.defpath, "LC_ALL": "C"},
        check=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        **_account(),
    )


class PostgreSQL:
    """A server on a data folder."""

    def __init__(
        self,
        data: Path,
        log: Path,
        *,
        options: Sequence[str] = (),
        prefix: Sequence[str] = (),
        address: str = "127.0.0.1",
        environment: dict[str, str] | None = None,
    ) -> None:
        self.data = data
        self.address = address
        self.port = free_port()
        self._options = list(options)
        self._prefix = list(prefix)
        self.environment = environment or {}
        self._log = log
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def url(self) -> str:
        return f"postgresql://postgres@{self.address}:{self.port}/{DATABASE}"

    def start(self) -> None:
        """Start it, and wait until it takes connections."""
        settings = {
            "port": str(self.port),
            "listen_addresses": self.address,
            "unix_socket_directories": "",
        }
        flags = [flag for name, value in settings.items() for flag in ("-c", f"{name}={value}")]
        command = [str(BINARIES / "postgres"), "-D", str(self.data), *flags, *self._options]
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                [*self._prefix, *command],
                cwd="/",
                env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC", **self.environment},
                stdout=log,
                stderr=log,
                start_new_session=True,
                **({} if self._prefix else _account()),
            )
        if not wait_for(self.answers, START_LIMIT_S):
            raise Broken(f"PostgreSQL on {self.data} does not answer: see {self._log}")

    def answers(self) -> bool:
        """Whether it takes connections. Starts it again if it has died meanwhile."""
        assert self.process is not None
        if self.process.poll() is not None:
            raise Broken(f"PostgreSQL on {self.data} ended: see {self._log}")
        try:
            self.ask("SELECT 1")
        except psycopg.OperationalError:
            return False
        return True

    def ask(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """The rows of a statement, as its superuser."""
        url = f"postgresql://postgres@{self.address}:{self.port}/{database}"
        with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def processes(self) -> list[psutil.Process]:
        """The first process and its children. What comes before it execs it, so the pid is its."""
        if self.process is None:
            return []
        with suppress(psutil.NoSuchProcess):
            postmaster = psutil.Process(self.process.pid)
            return [postmaster, *postmaster.children(recursive=True)]
        return []

    def backends(self) -> list[psutil.Process]:
        """The processes that serve the service."""
        found = []
        for process in self.processes()[1:]:
            with suppress(psutil.Error):
                if DATABASE in " ".join(process.cmdline()):
                    found.append(process)
        return found

    def kill(self) -> None:
        """SIGKILL everything, and wait until it is gone."""
        processes = self.processes()
        for process in processes:
            with suppress(psutil.NoSuchProcess):
                process.kill()
        psutil.wait_procs(processes[1:], timeout=30)
        self._await_end()

    def freeze(self) -> None:
        """SIGSTOP everything, first what would start more."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.suspend()

    def thaw(self) -> None:
        """SIGCONT everything."""
        for process in self.processes():
            with suppress(psutil.NoSuchProcess):
                process.resume()

    def kill_postmaster(self) -> None:
        """SIGKILL the first process; the others notice and end."""
        processes = self.processes()
        processes[0].kill()
        _, alive = psutil.wait_procs(processes[1:], timeout=30)
        for process in alive:
            process.kill()
        self._await_end()

    def stop(self, how: int = signal.SIGINT) -> None:
        """SIGINT: a fast shutdown; SIGQUIT: an immediate one, without a checkpoint."""
        if self.process is not None:
            self.process.send_signal(how)
        try:
            self._await_end(30)
        except subprocess.TimeoutExpired:
            self.kill()

    def _await_end(self, limit_s: float = 30) -> None:
        if self.process is not None:
            self.process.wait(limit_s)
        self.process = None


class Embedded:
    """The services' own PostgreSQL, which they start and look after."""

    def __init__(self, folder: Path) -> None:
        self.url = EmbeddedServer(folder).url
        self._status = folder / "postgres" / "postmaster.pid"

    def alive(self) -> bool:
        """Its services see to that."""
        return True

    def answers(self) -> bool:
        """When its services do."""
        return True

    def kill_postmaster(self) -> None:
        """SIGKILL its first process."""
        with suppress(OSError, ValueError):
            os.kill(self._pid(), signal.SIGKILL)

    def await_end(self) -> None:
        """Wait until it has noticed that its services are gone."""
        with suppress(OSError, ValueError):
            pid = self._pid()
            wait_for(lambda: not psutil.pid_exists(pid), START_LIMIT_S)

    def _pid(self) -> int:
        return int(self._status.read_text().split()[0])


def create(data: Path) -> None:
    """Make a cluster with an empty database."""
    make_folder(data)
    run_program("initdb", "-D", str(data), "-U", "postgres", "-E", "UTF8", "--data-checksums",
                "--locale=C", "--auth=trust", "--no-sync")  # fmt: skip
    lines = "".join(f"{name} = '{value}'\n" for name, value in SETTINGS.items())
    with (data / "postgresql.conf").open("a") as configuration:
        configuration.write(lines)
    with (data / "pg_hba.conf").open("a") as rules:
        rules.write("host all all 0.0.0.0/0 trust\nhost replication all 0.0.0.0/0 trust\n")


def make_folder(path: Path) -> None:
    """An empty folder for PostgreSQL's data."""
    path.mkdir(mode=0o700)
    _give(path)


def copy(origin: Path, data: Path) -> None:
    """A copy of a cluster at rest."""
    shutil.copytree(origin, data)
    for path in [data, *data.rglob("*")]:
        _give(path)
    data.chmod(0o700)
    os.sync()  # what is lost with the power shall be what PostgreSQL did not sync


def _give(path: Path) -> None:
    account = _account()
    if account:
        os.chown(path, account["user"], account["group"])


class Disk:
    """A file with an ext4 of its own, mounted."""

    SHUTDOWN = 0x8004587D  # EXT4_IOC_SHUTDOWN
    NOLOGFLUSH = 2

    def __init__(self, folder: Path, megabytes: int) -> None:
        self._file = folder / "disk.ext4"
        self.mount = folder / "disk"
        self.mount.mkdir()
        with self._file.open("wb") as file:
            file.truncate(megabytes * 1_000_000)
        _system("mkfs.ext4", "-q", "-F", str(self._file))
        self.attach()

    def attach(self) -> None:
        _system("mount", "-o", "loop", str(self._file), str(self.mount))
        _give(self.mount)

    def detach(self) -> None:
        """Unmount it, and wait until the kernel has let go of it. Another process's mount namespace
        may have the mount too; what is mounted meanwhile would be the same, dead, file system.
        """
        if not wait_for(self._unmounted, RELEASE_LIMIT_S):
            raise RuntimeError(f"{self.mount} is in use")
        if not wait_for(self._released, RELEASE_LIMIT_S):
            raise RuntimeError(f"the kernel does not let go of {self._file}")

    def _unmounted(self) -> bool:
        """Whether it is; a process that is about to end may still use it."""
        command = ["umount", str(self.mount)]
        return subprocess.run(command, check=False, capture_output=True).returncode == 0

    def _released(self) -> bool:
        command = ["losetup", "--associated", str(self._file)]
        return not subprocess.run(command, check=True, capture_output=True).stdout

    def lose_power(self) -> None:
        """Nothing more reaches the disk, not even what is in its journal's buffer."""
        descriptor = os.open(self.mount, os.O_RDONLY)
        try:
            fcntl.ioctl(descriptor, self.SHUTDOWN, ctypes.c_uint32(self.NOLOGFLUSH))
        finally:
            os.close(descriptor)

    def hang(self, seconds: float) -> None:
        """Freeze it; the thaw is sure before the freeze begins."""
        thaw = f"sleep {seconds}; fsfreeze --unfreeze {self.mount}"
        thawing = subprocess.Popen(["sh", "-c", thaw], start_new_session=True)
        _system("fsfreeze", "--freeze", str(self.mount))
        thawing.wait()

    def fill(self) -> Path:
        """Leave nothing free; the file to remove for that to end."""
        filler = self.mount / "filler"
        with filler.open("wb") as file, suppress(OSError):
            while True:
                file.write(bytes(65_536))
                file.flush()
        return filler


def _system(*command: str) -> None:
    subprocess.run(command, check=True, capture_output=True)


class Service:
    """One process of the service, on a port that it keeps over restarts."""

    def __init__(
        self,
        database_url: str,
        log: Path,
        program: Sequence[str],
        release: Release = THIS,
        **environment: str,
    ) -> None:
        """`program`: the module to run, and what it is told before `serve`."""
        self._program = program
        self.release = release
        self.port = free_port()
        self.base = f"http://127.0.0.1:{self.port}"
        self.environment = {
            **{k: v for k, v in os.environ.items() if not k.startswith("LEDGER_")},
            **SERVICE,
            "DATABASE_URL": database_url,
            **environment,
        }
        self.environment = THIS.environment(self.environment)
        if not database_url:
            del self.environment["DATABASE_URL"]
        self._log = log
        self.process: subprocess.Popen[bytes] | None = None

    def start(self, *, ready: bool = True) -> None:
        with self._log.open("ab") as log:
            self.process = subprocess.Popen(
                self.release.command(*self._program, "serve", "--port", str(self.port)),
                env=self.release.environment(self.environment),
                cwd=self.release.root,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
        if ready and not self.await_ready():
            raise Broken(f"the service does not get ready: see {self._log}")

    def await_ready(self, limit_s: float = START_LIMIT_S) -> bool:
        return wait_for(self.ready, limit_s)

    def ready(self) -> bool:
        return self._answers("/health/ready")

    def takes(self, key: str) -> bool:
        """Whether it answers a request that has the key; empty: that has none."""
        return self._answers("/accounts/?limit=1", key)

    def has_all_shards(self) -> bool:
        """Whether it uses every shard."""
        try:
            with urllib.request.urlopen(f"{self.base}/health/ready", timeout=5) as answer:
                states = json.load(answer).get("shards", {})
        except OSError:
            return False
        return all(state == "up" for state in states.values())

    def _answers(self, path: str, key: str = "") -> bool:
        headers = {"Authorization": f"Bearer {key}"} if key else {}
        request = urllib.request.Request(f"{self.base}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=5) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False

    def alive(self) -> bool:
        return self.process is not None and self.process.poll() is None

    def send(self, number: int) -> None:
        assert self.process is not None
        self.process.send_signal(number)

    def kill(self) -> None:
        if self.alive():
            self.send(signal.SIGKILL)
            assert self.process is not None
            self.process.wait()

    def stop(self) -> None:
        """SIGTERM: what was asked for is answered first."""
        self.begin_stop()
        self.await_end()

    def begin_stop(self) -> None:
        if self.alive():
            self.send(signal.SIGCONT)
            self.send(signal.SIGTERM)

    def await_end(self) -> None:
        """Wait until it has ended by itself, or kill it."""
        if self.process is not None:
            try:
                self.process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()


@contextmanager
def namespace() -> Iterator[tuple[list[str], str]]:
    """A network namespace: what to put before a command to run it inside, and its address."""
    name = f"proof{os.getpid()}"
    number = os.getpid() % 200 + 20
    inside, outside = f"10.213.{number}.2", f"10.213.{number}.1"
    _system("ip", "netns", "add", name)
    try:
        _system("ip", "link", "add", f"pf{number}", "type", "veth", "peer", "name", "eth0",
                "netns", name)  # fmt: skip
        _system("ip", "addr", "add", f"{outside}/30", "dev", f"pf{number}")
        _system("ip", "link", "set", f"pf{number}", "up")
        within = ["ip", "netns", "exec", name]
        _system(*within, "ip", "addr", "add", f"{inside}/30", "dev", "eth0")
        _system(*within, "ip", "link", "set", "eth0", "up")
        _system(*within, "ip", "link", "set", "lo", "up")
        yield within, inside
    finally:
        _system("ip", "netns", "del", name)
