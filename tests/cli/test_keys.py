"""`ledgerservice keys`, on a database."""

import json
import os
import pwd
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text as sql

from ledgerservice.access import keys
from ledgerservice.cli.audit import note
from ledgerservice.postgres.connections import Database
from tests.access.made import make_key
from tests.databases import connect, url_text
from tests.processes import cli, serving


@pytest.fixture
def run(database: Database) -> Callable[..., Any]:
    return lambda *arguments: cli("keys", *arguments, DATABASE_URL=url_text(database))


def made(run: Callable[..., Any], *arguments: str) -> dict[str, Any]:
    done = run(*arguments, "--json")
    assert done.returncode == 0, done.stderr
    value = json.loads(done.stdout)
    assert isinstance(value, dict)
    return value


def test_a_key_is_printed_once_and_kept_as_its_digest(run, database: Database) -> None:
    done = run("create", "shop", "--role", "poster")
    [text] = done.stdout.splitlines()
    key_id = keys.id_of(text)
    assert key_id is not None and key_id in done.stderr and text not in done.stderr
    [line] = run("list").stdout.splitlines()
    assert line.startswith(f"{key_id}  valid  shop ") and "all ledgers: accounts:read" in line
    with connect(database) as owner:
        row = owner.execute("SELECT id, digest FROM ledger.api_keys").fetchone()
        assert row == (key_id, keys.digest_of(text.encode()))
        everything = owner.execute("SELECT k::text, p::text FROM ledger.api_keys k,"
                                   " ledger.principals p").fetchall()  # fmt: skip
    assert text[17:] not in str(everything)


def test_rotation_with_overlap_and_revocation(run) -> None:
    old = made(run, "create", "shop", "--scope", "deposit", "--days", "30")
    assert old["scopes"] == ["deposit"]
    new = made(run, "rotate", old["key"], "--overlap", "2")
    assert new["replaces"] == old["key_id"] and new["key_id"] != old["key_id"]
    overlap = datetime.fromisoformat(new["old_expires_at"])
    assert overlap < datetime.fromisoformat(old["expires_at"]) - timedelta(days=29)
    ended = made(run, "rotate", new["key_id"], "--overlap", "0")
    made(run, "revoke", old["key_id"])
    states = {one["id"]: one["state"] for one in map(json.loads, lines(run("list", "--json")))}
    assert states == {
        old["key_id"]: "revoked", new["key_id"]: "expired", ended["key_id"]: "valid",
    }  # fmt: skip
    again = made(run, "rotate", new["key_id"])  # an ended key can have a successor
    assert again["replaces"] == new["key_id"]


def lines(done: Any) -> list[str]:
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


MISTYPED = f"{keys.make().text[:-1]}!"

FAULTS = {
    ("create", "shop"): "--role or --scope",
    ("create", "shop", "--role", "king"): "is not one of reader",
    ("create", "shop", "--scope", "pay"): "is not one of accounts:read",
    ("create", "two words", "--role", "reader"): "is not a valid name",
    ("create", "shop", "--role", "reader", "--ledger", "none"): "There is no ledger 'none'",
    ("create", "taken", "--role", "reader"): "There is a principal taken already",
    ("rotate", "0123456789ab"): "There is no key 0123456789ab",
    ("revoke", "0123456789ab"): "There is no key 0123456789ab",
    ("rotate", MISTYPED): "neither a key's id, nor a whole key",
    ("revoke", MISTYPED): "neither a key's id, nor a whole key",
}


def test_faults_leave_everything_as_it_is(run) -> None:
    made(run, "create", "taken", "--role", "reader")
    before = lines(run("list"))
    for arguments, text in FAULTS.items():
        done = run(*arguments)
        assert done.returncode == 1 and text in done.stderr, done.stderr
        assert MISTYPED not in done.stderr
    assert run("create", "shop", "--role", "reader", "--days", "366").returncode == 2
    assert lines(run("list")) == before


def test_a_user_without_a_name_is_recorded_by_number(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in `docker run --user 12345`."""
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.delenv(name, raising=False)

    def unknown(uid: int) -> Any:
        raise KeyError(f"getpwuid(): uid not found: {uid}")

    monkeypatch.setattr(pwd, "getpwuid", unknown)
    with database.owner_engine().begin() as owner:
        note(owner, "a_command")
        detail = owner.execute(sql("SELECT detail FROM ledger.audit")).scalar_one()
    assert json.loads(detail) == {"user": str(os.getuid())}


def test_a_key_of_one_ledger(run, database: Database) -> None:
    with connect(database) as owner:
        owner.execute("INSERT INTO ledger.ledgers (name) VALUES ('acme'), ('other')")
    ledgers = ("--ledger", "acme", "--ledger", "other")
    made(run, "create", "shop", "--role", "reader", "--scope", "deposit", *ledgers, "--person")
    [line] = lines(run("list", "--json"))
    view = json.loads(line)
    assert [grant["ledger"] for grant in view["grants"]] == ["acme", "other"]
    assert view["kind"] == "person"
    assert view["grants"][0]["scopes"][-2:] == ["events:read", "deposit"]


def test_commands_on_accounts_send_their_key(database: Database, tmp_path: Path) -> None:
    """At a service; with the database itself they need none, but count as the key's principal."""
    key, url = make_key(database, "clerk"), url_text(database)
    file = tmp_path / "key"
    file.write_text(f"{key}\n")
    with serving(DATABASE_URL=url) as service:
        at = ("accounts", "--url", service.base)
        nowhere = {"LEDGER_DATA_FOLDER": "/nowhere"}
        refused = cli(*at, **nowhere)
        assert refused.returncode == 1 and "code key_missing" in refused.stderr
        wrong = cli(*at, LEDGER_API_KEY=key[:-1] + "_", **nowhere)
        assert wrong.returncode == 1 and "code key_invalid" in wrong.stderr
        assert key[:-1] not in wrong.stderr
        assert cli(*at, LEDGER_API_KEY=key, **nowhere).returncode == 0
        assert cli(*at, LEDGER_API_KEY_FILE=str(file), **nowhere).returncode == 0
        assert cli("accounts", DATABASE_URL=url).returncode == 0
        assert cli("accounts", DATABASE_URL=url, LEDGER_API_KEY=key).returncode == 0
