"""`ledgerservice approvals`: rules on a database, and decisions at a service."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from ledgerservice.access.scopes import NAMES
from ledgerservice.access.signatures import public_key_of
from ledgerservice.postgres.connections import Database
from tests.access.made import bearer, make_key
from tests.access.signing import new_key
from tests.databases import connect, empty_database, url_text
from tests.processes import cli, serving, wait_for


@pytest.fixture
def run(database: Database) -> Callable[..., Any]:
    return lambda *arguments: cli("approvals", *arguments, DATABASE_URL=url_text(database))


def test_rules_are_set_listed_and_lifted(run, database: Database) -> None:
    assert run("rules").stdout == "There are no rules.\n"
    assert run("require", "default", "close", "--approvals", "2").returncode == 0
    for limit in ("5", "7.50"):
        done = run("require", "default", "amount", "--bound", f"EUR={limit}", "--json")
        assert json.loads(done.stdout)["bound"] == limit
    assert run("require", "default", "floor", "--bound", "USD=-50").returncode == 0
    listed = [json.loads(line) for line in run("rules", "default", "--json").stdout.splitlines()]
    assert [(one["rule"], one["currency"], one["bound"], one["approvals"]) for one in listed] == [
        ("amount", "EUR", "7.50", 1),
        ("close", None, None, 2),
        ("floor", "USD", "-50", 1),
    ]
    assert run("lift", "default", "amount", "--currency", "EUR").returncode == 0
    assert "amount" not in run("rules").stdout
    with connect(database) as owner:
        rows = owner.execute("SELECT action, source FROM ledger.audit ORDER BY id").fetchall()
    assert rows == [("set_rule", "command line")] * 4 + [("lift_rule", "command line")]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["require", "nowhere", "close"], "no ledger"),
        (["require", "default", "opening"], "is not one of force, close"),
        (["require", "default", "amount"], "need --bound"),
        (["require", "default", "close", "--bound", "USD=5"], "need --bound"),
        (["require", "default", "amount", "--bound", "USD=-5"], "not a valid bound"),
        (["require", "default", "amount", "--bound", "USD"], "not a valid bound"),
        (["require", "default", "amount", "--bound", "XYZ=5"], "no currency"),
        (["lift", "default", "close"], "no such rule"),
    ],
)
def test_a_rule_that_is_not_valid(run, arguments: list[str], said: str) -> None:
    done = run(*arguments)
    assert done.returncode == 1 and said in done.stderr, done.stderr


@pytest.mark.thorough
def test_decisions_and_a_restored_backup(run, database: Database, tmp_path: Path) -> None:
    """Whoever has no key cannot decide; what was decided is in a backup."""
    alice = make_key(database, "alice")
    private = new_key(tmp_path, "bob")
    public = public_key_of(private.with_suffix(".pem").read_bytes())
    bob = make_key(database, "bob", int(NAMES["approvals:decide"]), public_key=public)
    assert run("require", "default", "amount", "--bound", "USD=100").returncode == 0
    with serving(DATABASE_URL=url_text(database)) as service:
        assert wait_for(lambda: service.get("/accounts").status_code == 401)
        headers = bearer(alice)
        service.post("/accounts", {"owner": "o", "currency": "USD"}, **headers)
        for key in ("one", "two"):
            body = {"account_id": 1, "amount": "500", "idempotency_key": key}
            assert service.post("/deposit", body, **headers).status_code == 202
        one, two = sorted(
            row["id"] for row in service.client.get("/approvals", headers=headers).json()
        )

        def ask(key: str, *arguments: str) -> Any:
            values = {"DATABASE_URL": url_text(database), "LEDGER_API_KEY": key}
            if key == bob:
                values["LEDGER_SIGNING_KEY_FILE"] = str(private)
            return cli("approvals", *arguments, "--url", service.base, **values)

        assert len(ask(bob, "list", "--state", "open").stdout.splitlines()) == 2
        refused = ask(alice, "approve", str(one), "--reason", "mine")
        assert refused.returncode == 1 and "signature_required" in refused.stderr
        done = ask(bob, "approve", str(one), "--reason", "fine", "--json")
        assert json.loads(done.stdout)["state"] == "executed"
        assert "rejected" in ask(bob, "reject", str(two), "--reason", "no").stdout
        assert "answer 200" in ask(alice, "show", str(one)).stdout
    without = run("approve", str(two), "--reason", "r")
    assert without.returncode == 1 and "approval_without_keys" in without.stderr
    file = tmp_path / "ledger.backup"
    assert cli("backup", str(file), DATABASE_URL=url_text(database)).returncode == 0
    copy = empty_database(database, "copy")
    restored = cli("restore", str(file), DATABASE_URL=url_text(copy))
    assert restored.returncode == 0, restored.stderr
    for table in ("approval_rules", "proposals", "decisions", "executions"):
        rows = []
        for one_database in (database, copy):
            with connect(one_database) as owner:
                rows.append(owner.execute(f"SELECT * FROM ledger.{table} ORDER BY 1, 2").fetchall())
        assert rows[0] == rows[1] != []
