"""The embedded PostgreSQL after a process was killed: who owns the server, and no data is lost."""

import os
import signal
import subprocess
import sys
import time
from typing import Any

import pytest
from sqlalchemy import text

from ledgerservice import runtime
from ledgerservice.postgres.connections import Database
from ledgerservice.settings import Settings
from tests.embedded.data_folder import IS_ROOT, DataFolder, ask, needs_wheel, read, write
from tests.processes import serving, wait_for

pytestmark = needs_wheel


@pytest.mark.skipif(sys.platform != "linux", reason="only Linux has a signal for a parent's death")
def test_server_ends_with_its_killed_owner(home: DataFolder) -> None:
    service = home.service()
    assert service.role() == "owner"
    write(home.server().url, "committed")
    service.kill()
    assert wait_for(home.is_free)
    assert not (home.data / "postmaster.pid").exists()  # It was a clean shutdown.
    assert read(home.started().url) == ["committed"]


def test_next_start_ends_an_orphan_and_keeps_its_data(home: DataFolder) -> None:
    service = home.service("without death signal")
    assert service.role() == "owner"
    orphan = home.pid()
    write(home.server().url, "committed")
    service.kill()
    time.sleep(0.2)
    assert not home.is_free()
    server = home.started()
    assert server.owner
    assert home.pid() != orphan
    assert read(server.url) == ["committed"]


def test_killed_while_creating_the_database(empty: DataFolder) -> None:
    service = empty.service()
    assert service.answer().startswith("Creating the database")
    assert wait_for((empty.folder / "postgres.new" / "base").exists)
    service.kill()
    assert not empty.data.exists()
    write(empty.started().url, "word")
    assert not (empty.folder / "postgres.new").exists()


def test_stale_pids_of_living_strangers(home: DataFolder) -> None:
    """As after a restart of a container, where the same numbers are given out again."""
    server = home.started()
    os.kill(home.pid(), signal.SIGKILL)
    assert wait_for(home.is_free)
    server.stop()
    # PostgreSQL fears only processes of its own user.
    uid = home.data.stat().st_uid if IS_ROOT else None
    strangers = [subprocess.Popen(["sleep", "60"], user=uid) for _ in range(2)]
    files = [home.data / "postmaster.pid", home.folder / "run" / ".s.PGSQL.5432.lock"]
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


def test_status_file_of_a_dead_server_is_not_believed(home: DataFolder) -> None:
    """An owner that has not started its server yet must not be attached to."""
    server = home.started()
    os.kill(home.pid(), signal.SIGKILL)
    assert wait_for(home.is_free)
    assert home.status()[7].strip() == "ready"
    assert not home.server()._answers()
    server.stop()


def test_second_process_attaches_and_takes_over_a_stopped_owner(home: DataFolder) -> None:
    first = home.service()
    assert first.role() == "owner"
    second = home.started()
    assert not second.owner
    write(second.url, "committed")
    second.check()
    assert not second.owner
    first.stop()
    second.check()
    assert second.owner
    assert read(second.url) == ["committed"]


def test_second_process_takes_over_a_killed_owner(home: DataFolder) -> None:
    first, second = home.service(), home.service()
    roles = {first.role(): first, second.role(): second}
    assert set(roles) == {"owner", "attached"}
    url = home.server().url
    write(url, "committed")
    old = home.pid()
    roles["owner"].kill()

    def took_over() -> bool:
        assert roles["attached"].check() in ("owner", "attached")
        return (home.data / "postmaster.pid").exists() and home.pid() != old

    assert wait_for(took_over)
    assert roles["attached"].check() == "owner"
    assert read(url) == ["committed"]


@pytest.mark.parametrize("victim", ["server", "owner"])
def test_a_start_waits_for_the_next_server_if_its_own_dies(
    home: DataFolder, monkeypatch: pytest.MonkeyPatch, victim: str
) -> None:
    with serving(LEDGER_DATA_FOLDER=str(home.folder)) as owner:
        first = home.pid()
        victims = [first if victim == "server" else owner.process.pid]
        prepare = runtime.prepared

        def after_a_kill(*arguments: Any, **options: Any) -> Database:
            while victims:
                os.kill(victims.pop(), signal.SIGKILL)
                assert wait_for(lambda: not home.server()._answers())
            return prepare(*arguments, **options)

        monkeypatch.setattr(runtime, "prepared", after_a_kill)
        with runtime.started(Settings(data_folder=home.folder)) as database:
            assert home.pid() != first
            with database.owner_engine().connect() as connection:
                assert connection.execute(text("SELECT count(*) FROM ledger.ledgers")).scalar() == 1


def test_detaching_leaves_the_server_running(home: DataFolder) -> None:
    service = home.service()
    assert service.role() == "owner"
    home.started().stop()
    assert ask(home.server().url, "SELECT 1") == 1
    assert service.check() == "owner"


def test_two_that_start_at_once_share_one_server(empty: DataFolder) -> None:
    services = [empty.service(), empty.service()]
    assert sorted(service.role() for service in services) == ["attached", "owner"]
    assert ask(empty.server().url, "SELECT count(*) FROM pg_database WHERE datname = 'ledger'") == 1
