"""The archive of an embedded server: restored as it was at a time, and proven by a drill."""

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import psutil
import pytest

from tests.feed.endpoints import QUICK, Book, add, delivered, pay
from tests.feed.receiver import receiving
from tests.processes import (
    ROOT,
    Fork,
    RunningService,
    cli,
    environment,
    free_port,
    serving,
    wait_for,
)


@pytest.fixture
def places(workspace: Path) -> dict[str, Path]:
    """The data folder, the archive, the folder to restore into, and TMPDIR."""
    (workspace / "tmp").mkdir(mode=0o755)
    return {name: workspace / name for name in ("data", "archive", "restored", "tmp")}


@contextmanager
def archiving(places: dict[str, Path]) -> Iterator[psutil.Process]:
    """`ledgerservice archive` as a process, once it has a base backup."""
    process = subprocess.Popen(
        [sys.executable, "-m", "ledgerservice", "archive", str(places["archive"]), "--json"],
        env=environment(LEDGER_DATA_FOLDER=str(places["data"])),
        cwd=ROOT,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        lines = [json.loads(process.stdout.readline()) for _ in range(2)]
        assert lines[0]["base"].endswith("-full")
        assert lines[1] == {"status": "archiving"}
        yield psutil.Process(process.pid)
    finally:
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0


def now() -> datetime:
    """A time that lies between what was posted before, and what is posted after."""
    time.sleep(0.05)
    value = datetime.now(UTC)
    time.sleep(0.05)
    return value


def deposit(service: RunningService, account: int, key: str) -> bytes:
    body = {"account_id": account, "amount": "1", "idempotency_key": key}
    answer = service.post("/deposit/", body)
    assert answer.status_code == 200, answer.text
    return answer.content


def restore(places: dict[str, Path], *options: str) -> "subprocess.CompletedProcess[str]":
    target = {"LEDGER_DATA_FOLDER": str(places["restored"]), "TMPDIR": str(places["tmp"])}
    return cli("restore", str(places["archive"]), *options, "--json", **target)


@pytest.mark.thorough
def test_a_ledger_is_restored_as_it_was_at_a_time(places: dict[str, Path]) -> None:
    """Posted, archived, killed, posted again; then a time between."""
    values = {"LEDGER_DATA_FOLDER": str(places["data"])}
    with serving(**values) as service:
        account = service.open(balance="5")
        with archiving(places):
            before = deposit(service, account, "before")
            service.process.kill()
            service.process.wait(60)
            with serving(**values) as second:
                killed = deposit(second, account, "after the kill")
                added = cli("archive", str(places["archive"]), "--add", "incremental", **values)
                assert added.returncode == 0, added.stderr
                between = now()
                deposit(second, account, "lost")
                epoch = epoch_of(second)  # which the archive does not know at that time
                proof = drill(places)
    assert (proof["bases"], proof["missing"], proof["rpo_s"]) == (2, 0, 0.0)
    assert proof["rto_s"] > 0
    done = restore(places, "--until", between.isoformat())
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    assert facts["holds"] is True
    assert datetime.fromisoformat(facts["last_recorded_at"]) < between
    assert facts["epoch"] > epoch
    with serving(LEDGER_DATA_FOLDER=str(places["restored"])) as restored:
        assert restored.account(account, "balance") == ("7.00",)
        assert epoch_of(restored) == facts["epoch"]
        keys = "before", "after the kill", "lost"
        assert [outcome(restored, account, key) for key in keys] == [200, 200, 404]
        assert deposit(restored, account, "before") == before
        assert deposit(restored, account, "after the kill") == killed
        deposit(restored, account, "lost")
        assert restored.account(account, "balance") == ("8.00",)


@pytest.fixture
def archived(places: dict[str, Path]) -> int:
    """An archive of a ledger, in which this account has 5.00."""
    with serving(LEDGER_DATA_FOLDER=str(places["data"])) as service, archiving(places):
        return service.open(balance="5")


@pytest.mark.thorough
def test_what_was_committed_before_the_signal_is_archived(places: dict[str, Path]) -> None:
    """The process that receives is behind when the signal comes."""
    with serving(LEDGER_DATA_FOLDER=str(places["data"])) as service, archiving(places) as archive:
        [receiver] = [one for one in archive.children() if one.name() == "pg_receivewal"]
        receiver.suspend()
        account = service.open(balance="5")
        going_on = threading.Timer(1, receiver.resume)
        going_on.start()
    going_on.join()
    assert restore(places).returncode == 0
    with serving(LEDGER_DATA_FOLDER=str(places["restored"])) as service:
        assert service.account(account, "balance") == ("5.00",)


@contextmanager
def stopped_while_making(places: dict[str, Path], *arguments: str) -> Iterator[Fork]:
    """A command that makes data below the restored folder, stopped in the middle of it."""
    values = {"LEDGER_DATA_FOLDER": str(places["restored"]), "TMPDIR": str(places["tmp"])}
    process = Fork(arguments, environment(**values), places["tmp"] / "stdout")
    try:
        made = places["restored"]
        assert wait_for(lambda: any(made.rglob("postgres.new")), 60, 0.001)
        process.send_signal(signal.SIGSTOP)
        yield process
    finally:
        process.send_signal(signal.SIGCONT)
        process.terminate()
        process.wait(60)


@pytest.mark.thorough
def test_a_ledger_that_another_process_makes_meanwhile_stays(
    places: dict[str, Path], archived: int
) -> None:
    """It is neither called restored, nor removed."""
    command = "restore", str(places["archive"]), "--json"
    with (
        stopped_while_making(places, *command) as restoring,
        serving(LEDGER_DATA_FOLDER=str(places["restored"])) as service,
    ):
        account = service.open(balance="7")
        restoring.send_signal(signal.SIGCONT)
        assert restoring.wait(120) == 1
        assert "Another process has made a ledger" in (places["tmp"] / "stdout").read_text()
        assert service.account(account, "balance") == ("7.00",)
    assert not any(places["restored"].glob("ledger_restore-*"))
    with serving(LEDGER_DATA_FOLDER=str(places["restored"])) as service:
        assert service.account(account, "balance") == ("7.00",)


@pytest.mark.thorough
def test_a_process_that_makes_a_ledger_meanwhile_does_not_get_in(
    places: dict[str, Path], archived: int
) -> None:
    """It ends, and its supervisor starts it again on what was restored."""
    with stopped_while_making(places, "serve", "--port", str(free_port())) as making:
        done = restore(places)
        assert done.returncode == 0, done.stdout
        making.send_signal(signal.SIGCONT)
        assert making.wait(60) == 1
    with serving(LEDGER_DATA_FOLDER=str(places["restored"])) as service:
        assert service.account(archived, "balance") == ("5.00",)


POSTED = ["transaction.posted"]


@pytest.mark.thorough
def test_a_restored_endpoint_gets_nothing_until_it_is_activated(
    places: dict[str, Path], tmp_path: Path
) -> None:
    values = {"LEDGER_DATA_FOLDER": str(places["data"]), **QUICK}
    with receiving(tmp_path) as receiver:
        with serving(**values) as service, archiving(places):
            book = Book(service)
            number, account = add(book, receiver, types=POSTED)["id"], service.open()
            assert delivered(receiver, pay(book, account, 3))
        seen = len(receiver.got())
        done = restore(places)
        assert done.returncode == 0, done.stderr
        with serving(**values | {"LEDGER_DATA_FOLDER": str(places["restored"])}) as restored:
            found = restored.get(f"/webhooks/{number}").json()
            assert (found["state"], found["reason"]) == ("paused", "restored")
            Book(restored).patch(f"/webhooks/{number}", state="active")
            new = restored.send("/deposit/", account_id=account, amount="1").json()
            wanted = f"-{new['transaction_id']}"
            assert wait_for(lambda: any(one.id.endswith(wanted) for one in receiver.got()[seen:]))


def epoch_of(service: RunningService) -> int:
    """The epoch that the positions of events have."""
    [event] = service.get("/events?limit=1").json()["events"]
    return int(event["id"].partition("-")[0])


def outcome(service: RunningService, account: int, key: str) -> int:
    """What a client learns of a key."""
    return service.get(f"/accounts/{account}/keys/{key}").status_code


def drill(places: dict[str, Path]) -> Any:
    values = {"LEDGER_DATA_FOLDER": str(places["data"]), "TMPDIR": str(places["tmp"])}
    done = cli("archive", str(places["archive"]), "--verify", "--json", **values)
    assert done.returncode == 0, done.stderr
    assert list(places["tmp"].iterdir()) == []
    return json.loads(done.stdout)


@pytest.mark.thorough
def test_what_the_archive_lacks_is_said(places: dict[str, Path]) -> None:
    """RPO is above 0 when nothing was received of the last transactions."""
    with serving(LEDGER_DATA_FOLDER=str(places["data"])) as service:
        account = service.open(balance="5")
        with archiving(places):
            deposit(service, account, "received")
        time.sleep(0.2)
        deposit(service, account, "not received")
        proof = drill(places)
        assert proof["missing"] > 0
        assert proof["rpo_s"] >= 0.2
        late = restore(places, "--until", "2999-01-01T00:00:00Z")
        assert (late.returncode, "ends before that time" in late.stdout) == (1, True), late
        assert not (places["restored"] / "postgres").exists()
        early = restore(places, "--until", "2020-01-01T00:00:00Z")
        assert (early.returncode, "no full base backup" in early.stdout) == (1, True), early


@pytest.mark.thorough
def test_a_damaged_base_backup_is_found_out(places: dict[str, Path]) -> None:
    with serving(LEDGER_DATA_FOLDER=str(places["data"])), archiving(places):
        pass
    [base] = (places["archive"] / "base").iterdir()
    victim = max((base / "base").rglob("*"), key=lambda path: path.stat().st_size)
    content = bytearray(victim.read_bytes())
    content[len(content) // 2] ^= 1
    victim.write_bytes(content)
    done = restore(places)
    assert (done.returncode, "checksum mismatch" in done.stdout) == (1, True), done
    assert not (places["restored"] / "postgres").exists()


@pytest.mark.thorough
def test_an_increment_needs_a_base(places: dict[str, Path]) -> None:
    values = {"LEDGER_DATA_FOLDER": str(places["data"])}
    with serving(**values):
        done = cli("archive", str(places["archive"]), "--add", "incremental", **values)
    assert (done.returncode, "has no base backup yet" in done.stderr) == (1, True), done


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (["--until", "yesterday"], "not a valid timestamp"),
        ([], "has no full base backup"),
    ],
)
def test_what_cannot_be_restored_is_refused(
    places: dict[str, Path], options: list[str], message: str
) -> None:
    places["archive"].mkdir()
    done = restore(places, *options)
    assert (done.returncode, message in done.stdout) == (1, True), done
    assert not (places["restored"] / "postgres").exists()


def test_an_archive_is_of_the_embedded_server_and_a_backup_of_one_time(
    places: dict[str, Path], tmp_path: Path
) -> None:
    places["archive"].mkdir()
    mine = {"DATABASE_URL": "postgresql://u@127.0.0.1:1/d"}
    for command in ("archive", "restore"):
        done = cli(command, str(places["archive"]), **mine)
        assert (done.returncode, "DATABASE_URL is set" in done.stderr) == (1, True), done
    (tmp_path / "file").write_bytes(b"")
    done = cli("restore", str(tmp_path / "file"), "--until", "2026-01-01T00:00:00Z", **mine)
    assert (done.returncode, "--until is for the folder" in done.stderr) == (1, True), done
    assert wait_for(lambda: os.listdir(places["archive"]) == [])
