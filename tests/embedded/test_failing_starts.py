"""What the embedded PostgreSQL says when it cannot start."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from ledgerservice.embedded.server import EmbeddedServer
from ledgerservice.errors import EmbeddedServerError
from tests.embedded.data_folder import (
    SOURCE,
    DataFolder,
    moved,
    needs_root,
    needs_wheel,
)

pytestmark = needs_wheel


@needs_root
def test_short_socket_folder_of_another_user_is_refused(home: DataFolder, workspace: Path) -> None:
    with moved(home, workspace / ("d" * 100)) as deep:
        server = deep.server()
        server._socket_folder.mkdir(mode=0o755)
        os.chown(server._socket_folder, 12345, 12345)
        with pytest.raises(EmbeddedServerError, match="belongs to another user"):
            server.start()
        server._socket_folder.rmdir()


def test_data_of_another_major_version(home: DataFolder) -> None:
    (home.data / "PG_VERSION").write_text("17\n")
    with pytest.raises(EmbeddedServerError, match=r"made by PostgreSQL 17.*back it up.*restore"):
        home.server().start()
    assert home.is_free()


def test_a_folder_that_holds_something_else_is_left_alone(empty: DataFolder) -> None:
    empty.data.mkdir(parents=True)
    (empty.data / "thesis.txt").write_text("mine")
    with pytest.raises(EmbeddedServerError, match="is not a PostgreSQL database"):
        empty.server().start()
    assert [file.name for file in empty.data.iterdir()] == ["thesis.txt"]


@pytest.mark.timeout(60)
def test_server_that_cannot_start_says_why(home: DataFolder, workspace: Path) -> None:
    """The reason is not what PostgreSQL says last, but the fault before that."""
    shutil.move(home.data / "pg_wal", workspace)
    (home.data / "pg_wal").mkdir()
    shutil.copystat(workspace / "pg_wal", home.data / "pg_wal")
    os.chown(home.data / "pg_wal", home.data.stat().st_uid, -1)
    with pytest.raises(EmbeddedServerError) as caught:
        home.server().start()
    assert caught.value.detail.startswith("PANIC:  could not locate a valid checkpoint record")
    assert "\n" not in caught.value.detail
    assert home.is_free()
    shutil.rmtree(home.data / "pg_wal")
    shutil.move(workspace / "pg_wal", home.data)


def test_folder_that_cannot_be_made(workspace: Path) -> None:
    (workspace / "file").write_text("")
    with pytest.raises(EmbeddedServerError) as caught:
        EmbeddedServer(workspace / "file" / "data").start()
    assert caught.value.detail.startswith(f"Not a directory: {workspace}/file/data")


def test_missing_programs(empty: DataFolder, workspace: Path) -> None:
    with pytest.raises(EmbeddedServerError, match="No such file or directory: .*/none/postgres"):
        empty.server(workspace / "none").start()


def test_missing_shared_library(empty: DataFolder, workspace: Path) -> None:
    complaint = "postgres: error while loading shared libraries: libz.so.1: cannot open"
    program = workspace / "postgres"
    program.write_text(f"#!/bin/sh\necho '{complaint}' >&2\nexit 127\n")
    program.chmod(0o755)
    with pytest.raises(EmbeddedServerError) as caught:
        empty.server(workspace).start()
    assert caught.value.detail == f"{complaint} (postgres: code 127)"


@pytest.mark.processes
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
    assert "[embedded]" in shown.stdout


@needs_root
def test_root_cannot_keep_data_where_others_cannot_go(workspace: Path) -> None:
    (workspace / "private").mkdir(mode=0o700)
    hidden = DataFolder(workspace / "private" / "data")
    with pytest.raises(EmbeddedServerError, match="Permission denied") as caught:
        hidden.server().start()
    assert "\n" not in caught.value.detail
    hidden.clear()
