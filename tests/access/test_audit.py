"""What is in the audit log: who did what, from where, and what came of it."""

import json
import subprocess
import sys
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import pytest

from ledgerservice.access.scopes import ALL, SETS
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.verification import verify
from tests.access.made import add_ledger, bearer, make_key
from tests.databases import connect, url_text
from tests.processes import ROOT, RunningService, cli, environment, serving, wait_for


class World(NamedTuple):
    service: RunningService
    database: Database
    admin: dict[str, str]
    poster: dict[str, str]
    elsewhere: dict[str, str]


@pytest.fixture(scope="module")
def world(new_database: Callable[..., Database]) -> Iterator[World]:
    database = new_database()
    add_ledger(database, "other")
    admin = bearer(make_key(database, "ada", int(ALL)))
    poster = bearer(make_key(database, "till", int(SETS["poster"])))
    elsewhere = bearer(make_key(database, "shop", int(ALL), ledgers=["other"]))
    with serving(DATABASE_URL=url_text(database)) as service:
        yield World(service, database, admin, poster, elsewhere)
    assert list(verify(database.owner_engine())) == []


def records(world: World, **filters: Any) -> list[dict[str, Any]]:
    """The records that match, the latest first, as the table has them."""
    conditions = " AND ".join([f"{name} = %s" for name in filters] or ["true"])
    with connect(world.database) as owner:
        rows = owner.execute(
            f"SELECT row_to_json(a) FROM ledger.audit a WHERE {conditions} ORDER BY id DESC",
            list(filters.values()),
        ).fetchall()
    return [row[0] for row in rows]


def opened(world: World) -> int:
    body = {"owner": "o", "currency": "USD"}
    return int(world.service.post("/accounts/", body, **world.admin).json()["id"])


def patch(world: World, account: int, key: dict[str, str], **fields: Any) -> Any:
    body = {"actor": "me", "reason": "so", **fields}
    return world.service.client.patch(f"/accounts/{account}", json=body, headers=key)


def test_a_change_of_limits_has_who_and_before_and_after(world: World) -> None:
    account = opened(world)
    first = patch(world, account, world.admin, floor="-5.00", idempotency_key="p1")
    again = patch(world, account, world.admin, floor="-9.00", idempotency_key="p2")
    assert (first.status_code, again.status_code) == (200, 200)
    last, before = records(world, action="change_policy", subject=f"/accounts/{account}")
    key_id = world.admin["Authorization"].split("_")[1]
    assert (last["key_id"], last["source"], last["ledger_id"]) == (key_id, "127.0.0.1", 1)
    assert last["principal_id"] == before["principal_id"] > 0
    assert last["request_id"] != before["request_id"]
    detail = json.loads(last["detail"])
    assert [policy["floor"] for policy in detail["before"]] == [-500]
    assert detail["after"]["transaction_id"] == again.json()["transaction_id"]
    assert json.loads(before["detail"])["before"] == []


def test_a_change_that_is_refused_is_there_with_its_code(world: World) -> None:
    account = opened(world)
    assert patch(world, 10**15, world.admin, floor="-5", idempotency_key="p").status_code == 404
    [record] = records(world, subject=f"/accounts/{10**15}")
    assert (record["status"], record["code"]) == (404, "account_not_found")
    assert patch(world, account, world.admin, floor="0.001", idempotency_key="p").status_code == 422
    [record] = records(world, subject=f"/accounts/{account}")
    assert record["code"] == "amount_precision"


CHANGES: dict[str, tuple[str, dict[str, Any]]] = {
    "add_currency": ("/currencies/", {"code": "PTS", "exponent": 0, "name": "Points"}),
    "add_ledger": ("/ledgers/", {"name": "third"}),
    "add_webhook": ("/webhooks", {"url": "https://hooks.example/a"}),
}


@pytest.mark.parametrize("action", CHANGES)
def test_what_is_changed_for_all_is_there(world: World, action: str) -> None:
    path, body = CHANGES[action]
    answer = world.service.post(path, body, **world.admin)
    assert answer.status_code == 201, answer.text
    [record] = records(world, action=action)
    assert record["ledger_id"] == (1 if action == "add_webhook" else None)
    after = json.loads(record["detail"])["after"]
    assert after.items() <= answer.json().items()
    assert "secret" not in after


def test_items_of_batches_and_lines_of_streams_are_there(world: World) -> None:
    account = opened(world)
    policy = {"type": "POLICY", "account_id": account, "ceiling": "9", "actor": "a", "reason": "r"}
    items = [policy | {"idempotency_key": "b1"}]
    batch = world.service.post("/batches/", {"movements": items}, **world.admin).json()
    assert [one["status"] for one in batch["results"]] == [200]
    count = len(records(world, action="post_batch"))
    assert count == 1
    line = json.dumps(policy | {"idempotency_key": "b2"}).encode() + b"\n"
    kind = {"Content-Type": "application/x-ndjson"}
    world.service.client.post("/batches/", content=line, headers=world.admin | kind)
    assert wait_for(lambda: len(records(world, action="post_batch")) == count + 1)
    deposit = {"type": "DEPOSIT", "account_id": account, "amount": "1", "idempotency_key": "b3"}
    world.service.post("/batches/", {"movements": [deposit]}, **world.admin)
    assert len(records(world, action="post_batch")) == count + 1


def test_money_is_in_the_journal_and_not_here(world: World) -> None:
    account, before = opened(world), len(records(world))
    body = {"account_id": account, "amount": "1", "idempotency_key": "d"}
    assert world.service.post("/deposit/", body, **world.poster).status_code == 200
    assert world.service.client.get(f"/accounts/{account}", headers=world.poster).status_code == 200
    assert len(records(world)) == before


def test_who_gets_the_answer_to_another_s_request_is_there(world: World) -> None:
    """By a route, in a batch and in a stream; its own repeats and dry runs are not."""
    account, service = opened(world), world.service
    body = {"account_id": account, "amount": "1", "idempotency_key": "mine"}
    first = service.post("/deposit/", body, **world.poster)
    [(ada,), (till,)] = principals(world, "ada", "till")

    def replays() -> list[tuple[Any, ...]]:
        return [
            (one["action"], one["repeats"], json.loads(one["detail"]))
            for one in records(world, principal_id=ada, status=200)
            if "first_principal_id" in (one["detail"] or "")
        ]

    dry = service.client.post("/deposit/?dry_run=true", json=body, headers=world.admin)
    again = service.post("/deposit/", body, **world.poster)
    assert (dry.status_code, again.content) == (200, first.content)
    other = service.post("/deposit/", body, **world.admin)
    assert other.content == first.content
    item = {"type": "DEPOSIT", **body}
    service.post("/batches/", {"movements": [item, item]}, **world.admin)
    kind = {"Content-Type": "application/x-ndjson"}
    line = json.dumps(item).encode() + b"\n"
    service.client.post("/batches/", content=line, headers=world.admin | kind)
    of = {"first_principal_id": till, "transaction_id": first.json()["transaction_id"]}
    assert wait_for(lambda: len(replays()) == 2)  # the second batch is counted
    assert replays() == [("POST /batches", 1, of), ("POST /deposit", 1, of)]
    assert not [one for one in records(world, principal_id=till) if one["detail"]]


def principals(world: World, *names: str) -> list[tuple[int]]:
    with connect(world.database) as owner:
        query = "SELECT id FROM ledger.principals WHERE name = ANY (%s) ORDER BY name"
        return owner.execute(query, [sorted(names)]).fetchall()


REFUSED = {
    "no key": ({}, 401, "key_missing", None),
    "an unknown key": ({"Authorization": "Bearer lgk_x"}, 401, "key_invalid", None),
}


@pytest.mark.parametrize("case", REFUSED.values(), ids=REFUSED.keys())
def test_a_stranger_is_there_once_with_a_number(new_database: Any, case: Any) -> None:
    key, status, code, ledger = case
    database = new_database()
    make_key(database, "ada", int(ALL))
    with serving(DATABASE_URL=url_text(database)) as service:
        world = World(service, database, {}, {}, {})
        for path in ("/deposit/", "/accounts/7", "/accounts/8", "/accounts/9"):
            answer = service.client.request("GET" if path != "/deposit/" else "POST", path,
                                            headers=key)  # fmt: skip
            assert answer.status_code == status
    found = records(world, code=code)  # the service has stopped, and has added what it counted
    assert [(one["action"], one["repeats"], one["ledger_id"]) for one in found] == [
        ("GET /accounts/{account_id}", 2, ledger),
        ("GET /accounts/{account_id}", 1, ledger),
        ("POST /deposit", 1, ledger),
    ]


NUL = {
    "a guess": ("/accounts/%00", {"Authorization": "Bearer lgk_x"}),
    "of a ledger": ("/ledgers/default/accounts/%00", {"Authorization": "Bearer lgk_x"}),
    "of an audited route": ("/webhooks/%00", None),
}


@pytest.mark.parametrize("case", NUL.values(), ids=NUL.keys())
def test_a_path_with_nul_hides_no_refusal(world: World, case: Any) -> None:
    """It gets no record: the refusals after it do, though they are of the same kind."""
    path, key = case
    service, admin = world.service.client, world.admin
    answer = service.delete(path, headers=admin) if key is None else service.get(path, headers=key)
    assert (answer.status_code, answer.json()["code"]) == (404, "not_found")
    if key is not None:
        subject = path.replace("%00", "77")
        assert service.get(subject, headers=key).status_code == 401
        assert wait_for(lambda: bool(records(world, subject=subject)))


def test_a_caller_without_the_scope_is_there(world: World) -> None:
    account = opened(world)
    assert patch(world, account, world.poster, floor="0", idempotency_key="p").status_code == 403
    wait_for(lambda: bool(records(world, subject=f"/accounts/{account}")))  # it is added later
    [record] = records(world, subject=f"/accounts/{account}", status=403)
    assert (record["code"], record["ledger_id"]) == ("scope_missing", 1)
    assert record["principal_id"] > 0


@pytest.mark.parametrize("path", ["/ledgers/", "/currencies/"])
def test_what_concerns_all_ledgers_is_in_the_log_of_none(world: World, path: str) -> None:
    """Whoever may read that of the default ledger learns nothing of other tenants."""
    auditor = bearer(make_key(world.database, f"auditor.{path.strip('/')}",
                              int(SETS["auditor"]), ledgers=["default"]))  # fmt: skip
    assert wait_for(lambda: world.service.client.get("/audit", headers=auditor).status_code == 200)
    for key, status in ((world.elsewhere, 403), (world.admin, 422)):
        assert world.service.post(path, {}, **key).status_code == status
        assert wait_for(lambda: bool(records(world, subject=path, status=status)))  # noqa: B023
        [record] = records(world, subject=path, status=status)
        assert record["ledger_id"] is None
    [one, two] = [world.service.client.get(f"/audit{query}", headers=key).json() for key, query in (
        (auditor, "?limit=1000"), (world.admin, "?limit=1000&everywhere=true"))]  # fmt: skip
    assert path not in [record["subject"] for record in one]
    assert path in [record["subject"] for record in two]


def test_an_item_that_its_caller_may_not_send_is_there(world: World) -> None:
    """In a batch, and in a stream, whose answers are 200."""
    account = opened(world)
    policy = {"type": "POLICY", "account_id": account, "ceiling": "9", "actor": "a", "reason": "r",
              "idempotency_key": "i"}  # fmt: skip
    before = sum(one["repeats"] for one in records(world, action="POST /batches", status=403))
    batch = world.service.post("/batches/", {"movements": [policy]}, **world.poster).json()
    assert [one["status"] for one in batch["results"]] == [403]
    assert wait_for(lambda: bool(records(world, action="POST /batches", status=403)))
    [record, *_] = records(world, action="POST /batches", status=403)
    assert (record["status"], record["code"], record["ledger_id"]) == (403, "scope_missing", 1)
    assert record["principal_id"] > 0 and before == 0


def test_a_dry_run_changes_nothing_and_is_not_there(world: World) -> None:
    account, before = opened(world), len(records(world))
    body = {"actor": "me", "reason": "so", "floor": "-5", "idempotency_key": "p"}
    path = f"/accounts/{account}?dry_run=true"
    assert world.service.client.patch(path, json=body, headers=world.admin).status_code == 200
    assert len(records(world)) == before


def test_the_log_is_read_by_ledger_and_reading_it_is_recorded(world: World) -> None:
    service = world.service
    body = {"owner": "o", "currency": "USD"}
    account = service.post("/ledgers/other/accounts/", body, **world.elsewhere).json()["id"]
    change = {"actor": "me", "reason": "so", "floor": "-1", "idempotency_key": "p"}
    path = f"/ledgers/other/accounts/{account}"
    service.client.patch(path, json=change, headers=world.elsewhere)
    there = service.client.get("/ledgers/other/audit", headers=world.elsewhere).json()
    assert {record["ledger_id"] for record in there} == {2}
    assert there[0]["action"] == "change_policy"
    assert records(world)[0]["action"] == "list_audit"
    refused = service.client.get("/ledgers/other/audit?everywhere=true", headers=world.elsewhere)
    assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
    assert service.client.get("/audit", headers=world.elsewhere).status_code == 404
    everything = service.client.get("/audit?everywhere=true&limit=1000", headers=world.admin).json()
    assert {1, 2} <= {record["ledger_id"] for record in everything}
    assert service.client.get("/audit", headers=world.poster).status_code == 403


def test_an_export_that_nobody_reads_keeps_no_record_waiting(new_database: Any) -> None:
    database, rows = new_database(), 2_000
    add = (
        "INSERT INTO ledger.audit (event, source, action, status, subject)"
        " SELECT 'e' || n, 's', 'a', 200, repeat('x', 200) FROM generate_series({}, {}) n"
    )
    with connect(database) as owner:
        owner.execute(add.format(1, rows))
    command = [sys.executable, "-m", "ledgerservice", "audit"]
    values = environment(DATABASE_URL=url_text(database))
    pipes: dict[str, Any] = {"stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen(command, env=values, cwd=ROOT, **pipes) as export:
        assert export.stdout is not None
        first = export.stdout.readline()  # a pipe does not hold the rest
        with connect(database) as owner:
            owner.execute("SET lock_timeout = '5s'")
            owner.execute(add.format(rows + 1, rows + 1))
        lines = [json.loads(line) for line in (first, *export.stdout)]
    assert (len(lines), lines[-1]["action"]) == (rows + 1, "export_audit")


def test_keys_and_the_export_are_there(new_database: Any) -> None:
    database = new_database()
    url = {"DATABASE_URL": url_text(database)}
    made = json.loads(cli("keys", "create", "ada", "--role", "admin", "--json", **url).stdout)
    turned = json.loads(cli("keys", "rotate", made["key_id"], "--json", **url).stdout)
    cli("keys", "revoke", made["key_id"], **url)
    printed = cli("audit", **url).stdout
    lines = [json.loads(line) for line in printed.splitlines()]
    assert [(line["action"], line["source"]) for line in lines] == [
        (action, "command line")
        for action in ("create_key", "rotate_key", "revoke_key", "export_audit")
    ]
    assert made["key"] not in printed and turned["key"] not in printed
    assert cli("verify", **url).returncode == 0
