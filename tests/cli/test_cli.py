"""The command line, as a user's shell sees it: real processes, exit codes, one line for a fault."""

import inspect
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import httpx
import psutil
import pytest
import typer

from ledgerservice import cli as cli_module
from ledgerservice.embedded import configuration as server_settings
from ledgerservice.embedded import server as embedded
from ledgerservice.errors import ServerTooOld
from ledgerservice.postgres import connections as databases
from ledgerservice.postgres.connections import Database, check_server
from ledgerservice.postgres.migrations import HEAD, MIGRATION_LOCK
from ledgerservice.postgres.urls import parse_url
from tests.databases import (
    connect,
    settings_for_tests,
    url_text,
    waiting_for_a_lock,
    without_guards,
)
from tests.processes import ROOT, RunningService, cli, environment, free_port, serving, wait_for


@pytest.fixture
def folder(workspace: Path) -> Path:
    """A data folder for an embedded server of the test's own."""
    return workspace / "data"


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_stopped_service_is_back_with_all_data(folder, number):
    with serving(LEDGER_DATA_FOLDER=str(folder)) as service:
        account = service.open(balance="12.34")
        assert service.stop(number) == 0
    with serving(LEDGER_DATA_FOLDER=str(folder)) as service:
        assert service.get(f"/accounts/{account}").json()["balance"] == "12.34"
        assert service.stop(number) == 0


def test_a_killed_service_is_back_with_every_acknowledged_movement(folder):
    with serving(LEDGER_DATA_FOLDER=str(folder)) as service:
        account = service.open()
        acknowledged = 0
        killer = threading.Timer(1.0, service.process.kill)
        killer.start()
        try:
            while True:
                body = {"account_id": account, "amount": 1, "idempotency_key": str(acknowledged)}
                assert service.post("/deposit/", body).status_code == 200
                acknowledged += 1
        except httpx.TransportError:
            pass
    with serving(LEDGER_DATA_FOLDER=str(folder)) as service:
        version = service.get(f"/accounts/{account}").json()["version"]
        assert acknowledged <= version <= acknowledged + 1
        assert acknowledged > 0
    assert cli("verify", LEDGER_DATA_FOLDER=str(folder)).returncode == 0


def until_answered(ask: Callable[[], httpx.Response]) -> dict:
    """What it is answered in the end: 503 says that the same may be sent again, and when."""
    while True:
        answer = ask()
        if answer.status_code == 200:
            return answer.json()
        assert answer.status_code == 503
        assert answer.json()["retry"] == "same_key"
        assert answer.headers["Retry-After"]


def deposit_until_answered(service: RunningService, account: int, key: str) -> dict:
    body = {"account_id": account, "amount": 1, "idempotency_key": key}
    return until_answered(lambda: service.post("/deposit/", body))


def balance_when_answered(service: RunningService, account: int) -> str:
    return until_answered(lambda: service.get(f"/accounts/{account}"))["balance"]


def kill_postgresql(folder: Path, killed: int | None = None) -> int:
    """Kill the first process of the server that came after `killed`.

    Its backends may answer a last time, so one answer does not mean that there is another server.
    """
    data = folder / "postgres"
    assert wait_for(lambda: embedded._recorded_pid(data) not in (None, killed))
    pid = embedded._recorded_pid(data)
    assert pid is not None
    os.kill(pid, signal.SIGKILL)
    return pid


@pytest.mark.thorough
def test_a_killed_postgresql_is_started_again_and_nothing_is_lost_or_doubled(folder):
    with serving(LEDGER_DATA_FOLDER=str(folder)) as service:
        account = service.open(balance="10")
        killed = None
        for number in range(3):
            killed = kill_postgresql(folder, killed)
            deposit_until_answered(service, account, str(number))
        assert balance_when_answered(service, account) == "13.00"
        assert service.stop() == 0


@pytest.mark.thorough
def test_a_second_service_shares_the_server_and_takes_it_over(folder):
    values = {"LEDGER_DATA_FOLDER": str(folder)}
    with serving(**values) as owner, serving(**values) as other:
        account = owner.open(balance="10")
        assert other.get(f"/accounts/{account}").json()["balance"] == "10.00"
        owner.process.kill()
        owner.process.wait()
        deposit_until_answered(other, account, "after")
        assert balance_when_answered(other, account) == "11.00"
        assert other.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_request_in_flight_is_answered_before_the_service_stops(new_database, number):
    database = new_database()
    with serving(DATABASE_URL=url_text(database)) as service:
        account = service.open()
        answers = []

        def deposit() -> None:
            body = {"account_id": account, "amount": 1, "idempotency_key": "in flight"}
            answers.append(service.post("/deposit/", body).status_code)

        request = threading.Thread(target=deposit)
        with connect(database) as other, other.transaction():
            other.execute("SELECT 1 FROM ledger.accounts WHERE id = 1 FOR UPDATE")
            request.start()
            assert wait_for(lambda: waiting_for_a_lock(database))
            service.process.send_signal(number)
            with pytest.raises(subprocess.TimeoutExpired):
                service.process.wait(1)
        request.join()
        assert answers == [200]
        assert service.process.wait(60) == 0


def broken_databases(database: Database, new_database: Callable[..., Database]) -> dict[str, dict]:
    """Environments that must not start, by what the one line says."""
    url = database.url
    with connect(database) as connection:
        name = url.database
        connection.execute(f"CREATE DATABASE {name}_empty")
        connection.execute(f"CREATE DATABASE {name}_weak")
        connection.execute(
            f"CREATE DATABASE {name}_ascii ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0"
        )
        connection.execute(f"CREATE DATABASE {name}_read_only")
        connection.execute(
            f"ALTER DATABASE {name}_read_only SET default_transaction_read_only = on"
        )
        connection.execute(f"ALTER DATABASE {name}_weak SET synchronous_commit = off")
    newer = new_database()
    with connect(newer) as connection:
        connection.execute("UPDATE ledger.alembic_version SET version_num = '9999'")

    def text(changed) -> dict[str, str]:
        return {"DATABASE_URL": changed.render_as_string(hide_password=False)}

    nowhere = "postgresql://someone@127.0.0.1:1/ledger_db?connect_timeout=1"
    return {
        "does not exist. Create it": text(url.set(database="no_such_database")),
        "Check user and password": text(url.set(username="no_such_user")),
        "Check host and port": {"DATABASE_URL": nowhere},
        "must begin with postgresql://": {"DATABASE_URL": "mysql://localhost/ledger"},
        "does not know the schema": text(newer.url),
        "Run `ledgerservice migrate`": {
            **text(url.set(database=f"{name}_empty")), "LEDGER_AUTO_MIGRATE": "false",
        },
        "Create it with ENCODING 'UTF8'": text(url.set(database=f"{name}_ascii")),
        "Turn on: synchronous_commit": text(url.set(database=f"{name}_weak")),
        "database is read-only": text(url.set(database=f"{name}_read_only")),
        "LEDGER_PORT": {**text(url), "LEDGER_PORT": "no number"},
    }  # fmt: skip


def test_what_cannot_start_says_in_one_line_what_to_do(database, new_database):
    for line, values in broken_databases(database, new_database).items():
        done = cli("serve", "--port", str(free_port()), **values)
        said = done.stderr.strip().splitlines()
        assert done.returncode == 1, (line, done)
        assert line in done.stderr
        assert "Traceback" not in done.stderr
        assert len(said) <= 2, said  # uvicorn adds that it exits


def test_a_server_without_fsync_is_refused_and_so_is_a_wrong_password(folder, monkeypatch):
    """What cannot be set for one database of a shared server."""
    monkeypatch.setitem(server_settings.FIXED_SETTINGS, "fsync", "off")
    monkeypatch.setitem(server_settings.FIXED_SETTINGS, "full_page_writes", "off")
    with embedded.EmbeddedServer(folder) as server:
        owner = Database(parse_url(server.url), settings_for_tests())
        with connect(owner) as connection:
            connection.execute("CREATE ROLE guarded LOGIN PASSWORD 'right'")
            rules = folder / "postgres" / "pg_hba.conf"
            rules.write_text(f"local all guarded scram-sha-256\n{rules.read_text()}")
            connection.execute("SELECT pg_reload_conf()")
        wrong = replace(owner, url=owner.url.set(username="guarded", password="wrong"))
        for database, line in (
            (owner, "Turn on: fsync, full_page_writes"),
            (wrong, "Check user and password"),
        ):
            done = cli("serve", "--port", str(free_port()), DATABASE_URL=url_text(database))
            assert done.returncode == 1
            assert line in done.stderr
            assert "Traceback" not in done.stderr


def test_a_server_too_old_is_refused(database, monkeypatch):
    check_server(database)
    monkeypatch.setattr(databases, "OLDEST_SERVER", 99)
    with pytest.raises(ServerTooOld, match=r"It is version \d\d"):
        check_server(database)


@pytest.mark.thorough
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_service_that_is_still_starting(database, number):
    """Another process migrates, and does not come to an end."""
    with connect(database) as other:
        other.execute(f"SELECT pg_advisory_lock({MIGRATION_LOCK})")
        process = subprocess.Popen(
            [sys.executable, "-m", "ledgerservice", "serve", "--port", str(free_port())],
            env=environment(DATABASE_URL=url_text(database)),
            cwd=ROOT,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert "waiting for another process" in process.stderr.readline()
        process.send_signal(number)
        assert process.wait(10) == 128 + number
        process.stderr.close()


def test_a_taken_port_is_not_called_ready(database):
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = str(taken.getsockname()[1])
        done = cli("serve", "--port", port, DATABASE_URL=url_text(database))
    assert done.returncode == 1
    assert f"Port {port} on 127.0.0.1 is in use" in done.stderr
    assert "ready" not in done.stdout


@pytest.mark.thorough
def test_several_processes_serve_one_port_and_stop_together(folder):
    with serving(LEDGER_DATA_FOLDER=str(folder), options=("--workers", "2")) as service:
        account = service.open(balance="5")
        kill_postgresql(folder)
        for number in range(20):  # each on a connection of its own
            with httpx.Client(base_url=service.base, timeout=60) as client:
                deposit_until_answered(replace(service, client=client), account, str(number))
        assert balance_when_answered(service, account) == "25.00"
        assert service.stop() == 0


@pytest.mark.long  # uvicorn waits 30 s for a process that has died while it started
def test_a_process_that_cannot_start_later_does_not_end_the_others(folder):
    with serving(LEDGER_DATA_FOLDER=str(folder), options=("--workers", "2")) as service:
        account = service.open(balance="5")
        first = workers_of(service)
        postmaster = psutil.Process(embedded._recorded_pid(folder / "postgres"))
        seen = {one.pid for one in first}

        def are_seen(number: int) -> bool:
            seen.update(one.pid for one in workers_of(service))
            return len(seen) >= number

        postmaster.suspend()  # nobody can connect
        try:
            first[0].kill()
            assert wait_for(lambda: are_seen(4), 60)  # a second replacement: the first has ended
        finally:
            postmaster.resume()
        deposit_until_answered(service, account, "later")
        assert service.stop() == 0


def workers_of(service: RunningService) -> list[psutil.Process]:
    workers = []
    for child in psutil.Process(service.process.pid).children():
        with suppress(psutil.NoSuchProcess):  # it has just ended
            if "spawn_main" in " ".join(child.cmdline()):
                workers.append(child)
    return workers


@pytest.mark.parametrize(
    "options",
    [
        pytest.param(("--workers", "2"), marks=pytest.mark.long),
        pytest.param(("--acceptors", "2"), marks=pytest.mark.thorough),
    ],
)
def test_processes_end_with_the_one_that_started_them(folder, options):
    """Else they would keep the port, and nobody could serve on it again."""
    with serving(LEDGER_DATA_FOLDER=str(folder), options=options) as service:
        workers = psutil.Process(service.process.pid).children(recursive=True)
        service.stop(signal.SIGKILL)
        _, alive = psutil.wait_procs(workers, timeout=30)
        assert alive == []
        with pytest.raises(httpx.ConnectError):
            service.get("/health/live")


def test_an_empty_service_role_means_the_url_s_own_user(database):
    with serving(DATABASE_URL=url_text(database), LEDGER_SERVICE_ROLE="") as service:
        service.open(balance="1")


@pytest.mark.thorough
def test_a_silent_database_does_not_keep_a_reader_waiting(database):
    values = {"DATABASE_URL": url_text(database), "LEDGER_REQUEST_DEADLINE_S": "1"}
    with serving(**values) as service, connect(database) as other, other.transaction():
        other.execute("LOCK TABLE ledger.accounts, ledger.alembic_version")
        for path in ("/accounts/1", "/accounts/", "/health/ready"):
            answer = service.get(path)
            assert (answer.status_code, answer.json()["retry"]) == (503, "same_key")
        assert service.get("/health/live").status_code == 200


def test_uvicorn_says_the_same_line(database):
    missing = url_text(database).replace(str(database.url.database), "no_such_database")
    done = subprocess.run(
        [sys.executable, "-m", "uvicorn", "app.main:app", "--port", str(free_port())],
        env=environment(DATABASE_URL=missing),
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0
    assert "does not exist. Create it" in done.stderr
    assert "Traceback" not in done.stderr


def test_unsafe_durability_is_served_only_when_allowed(database):
    with connect(database) as connection:
        connection.execute(f"ALTER DATABASE {database.url.database} SET synchronous_commit = off")
    values = {"DATABASE_URL": url_text(database), "LEDGER_ALLOW_UNSAFE_DURABILITY": "true"}
    with serving(**values) as service:
        assert service.open() == 1


def test_migrate_makes_the_schema_and_says_so(database):
    name = f"{database.url.database}_new"
    with connect(database) as connection:
        connection.execute(f"CREATE DATABASE {name}")
    values = {"DATABASE_URL": database.url.set(database=name).render_as_string(False)}
    first, second = cli("migrate", **values), cli("migrate", **values)
    assert (first.returncode, second.returncode) == (0, 0), first.stderr
    assert f"revision {HEAD}." in first.stdout
    assert f"revision {HEAD} already" in second.stdout
    assert cli("verify", **values).returncode == 0


def test_verify_names_what_is_broken_and_exits_with_1(database):
    values = {"DATABASE_URL": url_text(database)}
    assert cli("demo", **values).returncode == 0
    assert cli("verify", **values).returncode == 0
    with connect(database) as connection, without_guards(connection):
        connection.execute("UPDATE ledger.accounts SET balance = balance + 1 WHERE id = 2")
    done = cli("verify", **values)
    assert done.returncode == 1
    assert "invariant 2: account 2, ledger 1" in done.stdout
    assert "invariant 1: ledger 1, currency USD" in done.stdout


def test_demo_shows_balances_and_a_history(database):
    done = cli("demo", DATABASE_URL=url_text(database))
    assert done.returncode == 0, done.stderr
    for shown in ("Alice", "posted", "declined: insufficient_funds", "history", "50.00", "30.00"):
        assert shown in done.stdout


COMMANDS = ["serve", "migrate", "verify", "backup", "restore", "import", "export", "demo"]


@pytest.mark.processes
@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(command):
    done = cli(command, "--help")
    assert done.returncode == 0
    assert "Usage" in done.stdout
    assert cli(command, "--no-such-option").returncode == 2


@pytest.mark.processes
def test_the_module_s_help_names_every_command():
    """Without importing them, which takes a second."""
    command = [sys.executable, "-X", "importtime", "-m", "ledgerservice", "--help"]
    done = subprocess.run(
        command, cwd=ROOT, env=environment(), capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    listed = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("│ ")]
    assert set(cli_module.COMMANDS) <= set(listed)
    assert "ledgerservice.cli.output" in done.stderr
    assert "ledgerservice.settings" not in done.stderr


@pytest.mark.parametrize("command", cli_module.COMMANDS)
def test_the_help_lists_what_the_command_says_of_itself(command):
    group: Any = typer.main.get_command(cli_module.app)
    _, itself, _ = group.resolve_command(None, [command])
    assert itself.help
    assert inspect.cleandoc(itself.help) == group.get_command(None, command).help


@pytest.mark.thorough
@pytest.mark.skipif(find_spec("pgserver") is None, reason="pgserver has no wheel for this Python")
def test_a_backup_crosses_a_major_version_of_the_embedded_server(folder, tmp_path):
    origin = find_spec("pgserver").origin
    assert origin is not None
    packages = Path(origin).parent.parent
    for part in packages.glob("pgserver*"):
        shutil.copytree(part, folder.parent / part.name)
    older = folder.parent / "pgserver" / "pginstall" / "bin"  # PostgreSQL 16
    old = {"LEDGER_DATA_FOLDER": str(folder), "LEDGER_POSTGRES_BIN": str(older)}
    file = tmp_path / "ledger.backup"
    assert cli("demo", **old).returncode == 0
    refused = cli("verify", LEDGER_DATA_FOLDER=str(folder))
    assert refused.returncode == 1
    assert "16" in refused.stderr
    assert "Traceback" not in refused.stderr
    assert cli("backup", str(file), **old).returncode == 0
    new = {"LEDGER_DATA_FOLDER": str(folder.parent / "new")}
    done = cli("restore", str(file), **new)
    assert done.returncode == 0, done.stderr
    with serving(**new) as service:
        assert [a["balance"] for a in service.get("/accounts/").json()] == ["50.00", "30.00"]
