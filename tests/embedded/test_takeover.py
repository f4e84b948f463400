"""The embedded PostgreSQL after a death: whose server it is then, and that nothing is lost."""

import os
import signal
import subprocess
import sys
import time

import pytest

from tests.embedded.house import IS_ROOT, House, ask, needs_wheel, read, write
from tests.processes import wait_for

pytestmark = needs_wheel


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
