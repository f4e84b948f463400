"""Keys that are limited to accounts: what they move, and how little they are answered of others."""

import json
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import msgspec
import pytest

from ledgerservice.api.movements.showing import _shown
from ledgerservice.domain.rules.approvals import RuleRow
from ledgerservice.postgres.access.principals import GrantedAccounts
from ledgerservice.postgres.connections import Database
from tests.access.approvals.proposing import set_rules
from tests.access.made import bearer
from tests.access.single_accounts import (
    HIDDEN,
    LATER,
    NONE,
    NUMBERS,
    OURS,
    OUTSIDE,
    PAYEE,
    World,
    everything,
    hidden,
    item,
    legs,
    limited_key,
    pay,
    worlds,
)
from tests.databases import connect, url_text
from tests.processes import cli, wait_for


@pytest.fixture(scope="module")
def world(new_database: Callable[..., Database]) -> Iterator[World]:
    yield from worlds(new_database)


POLICY = {"frozen": "debits", "actor": "a", "reason": "r"}
# The type in a batch, the path, the body without a key, the method.
ALLOWED = [
    ("DEPOSIT", "/deposit", lambda: item(account_id=OURS)),
    ("DEPOSIT", "/deposit", lambda: item(account_id=PAYEE)),
    ("WITHDRAWAL", "/withdraw", lambda: item(account_id=OURS)),
    ("TRANSFER", "/transfer", lambda: pay(OURS, PAYEE)),
    ("TRANSFER", "/transfer", lambda: pay(OURS, PAYEE, amount="20")),
    ("TRANSACTION", "/transactions", lambda: legs((OURS, "-1"), (PAYEE, "1"))),
    ("HOLD", "/holds", lambda: item(account_id=OURS, to_account_id=PAYEE)),
]
REFUSED: list[tuple[str, str, str, Callable[[], dict[str, Any]]]] = [
    ("account_not_found", "DEPOSIT", "/deposit", lambda: item(account_id=OUTSIDE)),
    ("account_not_found", "WITHDRAWAL", "/withdraw", lambda: item(account_id=OUTSIDE)),
    ("account_not_found", "WITHDRAWAL", "/withdraw", lambda: item(account_id=PAYEE)),
    ("account_not_found", "TRANSFER", "/transfer", lambda: pay(PAYEE, OURS)),
    ("account_not_found", "TRANSFER", "/transfer", lambda: pay(OURS, OUTSIDE)),
    ("account_not_found", "TRANSFER", "/transfer", lambda: pay(OURS, OUTSIDE, **LATER)),
    ("account_not_found", "TRANSFER", "/transfer", lambda: pay(OUTSIDE, OURS, description="d")),
    ("account_not_found", "TRANSACTION", "/transactions",
     lambda: legs((OURS, "-1"), (OUTSIDE, "1"))),
    ("account_not_found", "TRANSACTION", "/transactions",
     lambda: legs((PAYEE, "-1"), (OURS, "1"))),
    ("account_not_found", "TRANSACTION", "/transactions",
     lambda: legs((PAYEE, "1"), (OURS, "-1"), balance_at_least="1")),
    ("account_not_found", "HOLD", "/holds",
     lambda: item(account_id=OURS, to_account_id=OUTSIDE)),
    ("account_not_found", "HOLD", "/holds", lambda: item(account_id=PAYEE)),
    ("amount_not_granted", "TRANSFER", "/transfer", lambda: pay(OURS, PAYEE, amount="100.01")),
    ("amount_not_granted", "TRANSACTION", "/transactions",
     lambda: legs((OURS, "-60"), (OURS, "-60"), (PAYEE, "60"), (PAYEE, "60"))),
    ("amount_not_granted", "DEPOSIT", "/deposit", lambda: item(account_id=OURS, amount="101")),
    ("amount_not_granted", "TRANSACTION", "/transactions",
     lambda: legs((OURS, "-100.01"), (PAYEE, "100.01"))),
    ("amount_not_granted", "HOLD", "/holds", lambda: item(account_id=OURS, amount="200")),
]  # fmt: skip


@pytest.mark.parametrize("row", range(len(ALLOWED)))
def test_what_is_covered_is_posted(world: World, row: int) -> None:
    """By its route, again, in each batch and in a stream; never with the payee's balance."""
    kind, path, make = ALLOWED[row]
    client = world.service.client
    one = make()
    first = world.send(world.ours, path, one)
    assert first.status_code == 200, first.text
    again = world.send(world.ours, path, one)
    assert again.content == first.content and again.headers["idempotency-replayed"] == "true"
    full = world.send(world.admin, path, one).json()  # the stored answer has everything
    assert full["entries"][0].keys() >= HIDDEN
    bodies = [first.json()]
    for batch in (
        {"movements": [{"type": kind, **make()}]},
        {"movements": [{"type": kind, **make()}], "mode": "atomic"},
        {"movements": [{"linked": [{"type": kind, **make()}]}]},
    ):
        [result] = world.send(world.ours, "/batches", batch).json()["results"]
        inner = result["body"]
        bodies.append(inner if "entries" in inner else inner["results"][0]["body"])
    line = json.dumps({"type": kind, **make()}).encode()
    headers = {**world.ours, "Content-Type": "application/x-ndjson"}
    for query in ("", "?dry_run=true"):
        sent = client.post(f"/batches{query}", content=line, headers=headers)
        bodies.append(json.loads(sent.text)["body"])
    for body in bodies:
        of_customers = [entry for entry in body["entries"] if entry["account_id"] > 0]
        assert hidden(of_customers) == {one["account_id"] for one in of_customers} - {OURS}
        if body["entries"][0]["account_id"] != OURS:
            assert not {"new_balance", "sender_new_balance"} & body.keys()


@pytest.mark.parametrize("row", range(len(REFUSED)))
def test_what_is_not_covered_is_refused(world: World, row: int) -> None:
    code, kind, path, make = REFUSED[row]
    before = everything(world)
    answer = world.send(world.ours, path, make())
    assert (answer.json()["code"], answer.status_code) == (
        code, 404 if code == "account_not_found" else 403)  # fmt: skip
    if "schedule" not in answer.text and "execute_at" not in make():
        item_ = {"type": kind, **make()}
        results = world.send(
            world.ours, "/batches", {"movements": [item_, {"linked": [item_]}]}
        ).json()["results"]
        assert results[0]["body"]["code"] == code
        assert results[1]["body"]["cause"]["code"] == code
        atomic = world.send(world.ours, "/batches", {"movements": [item_], "mode": "atomic"})
        assert atomic.json()["cause"]["code"] == code
        headers = {**world.ours, "Content-Type": "application/x-ndjson"}
        line = json.dumps(item_).encode()
        sent = world.service.client.post("/batches", content=line, headers=headers)
        assert json.loads(sent.text)["body"]["code"] == code
    assert everything(world) == before


def test_an_account_outside_is_as_one_that_does_not_exist(world: World) -> None:
    for make in (lambda n: item(account_id=n, idempotency_key="x"),):
        for path in ("/deposit", "/withdraw", "/holds"):
            answers = [world.send(world.ours, path, make(n)) for n in (OUTSIDE, NONE)]
            texts = [one.text.replace(str(NONE), str(OUTSIDE)) for one in answers]
            assert texts[0] == texts[1] and answers[0].status_code == 404


def test_what_needs_a_whole_ledger_is_refused(world: World) -> None:
    before = everything(world)
    for path in ("/accounts", "/webhooks", "/ledgers", "/currencies"):
        assert world.send(world.ours, path, {}).status_code == 403
    policy = {**POLICY, "idempotency_key": "p"}
    assert world.send(world.ours, f"/accounts/{OUTSIDE}", policy, "PATCH").status_code == 404
    assert everything(world) == before


STEPS = {
    "capture": ("CAPTURE", "/holds/{}/capture", "hold_id", "hold_not_found"),
    "release": ("RELEASE", "/holds/{}/release", "hold_id", "hold_not_found"),
    "cancel": ("CANCELLATION", "/schedules/{}/cancel", "schedule_id", "schedule_not_found"),
    "reverse": ("REVERSAL", "/transactions/{}/reverse", "transaction_id", "transaction_not_found"),
}
GONE = None  # the code of what does not exist
# The step, the path and the body of what it builds on, further fields of the step, its code.
BUILDING: list[tuple[str, str, Callable[[], Any], dict[str, Any], str | None]] = [
    *[
        (step, "/holds", partial(item, account_id=source, **more), {}, code)
        for step in ("capture", "release")
        for source, more, code in (
            (OURS, {"to_account_id": PAYEE}, "posted"),
            (OURS, {}, "posted"),
            (OURS, {"to_account_id": OUTSIDE}, GONE),
            (PAYEE, {"to_account_id": OURS}, GONE),
            (OUTSIDE, {}, GONE),
        )
    ],
    ("capture", "/holds", partial(item, account_id=OURS, amount="150"), {}, "amount_not_granted"),
    ("capture", "/holds", partial(item, account_id=OURS, amount="150"), {"amount": "100.01"},
     "amount_not_granted"),
    ("capture", "/holds", partial(item, account_id=OURS, amount="150"), {"amount": "100"},
     "posted"),
    ("release", "/holds", partial(item, account_id=OURS, amount="150"), {}, "posted"),
    ("cancel", "/transfer", partial(pay, OURS, PAYEE, **LATER), {}, "posted"),
    ("cancel", "/transfer", partial(pay, OURS, OUTSIDE, **LATER), {}, GONE),
    ("cancel", "/transfer", partial(pay, OUTSIDE, OURS, **LATER), {}, GONE),
    ("reverse", "/deposit", partial(item, account_id=OURS), {}, "posted"),
    ("reverse", "/deposit", partial(item, account_id=PAYEE), {}, GONE),
    ("reverse", "/deposit", partial(item, account_id=OURS, amount="101"), {},
     "amount_not_granted"),
    ("reverse", "/deposit", partial(item, account_id=OURS, amount="101"), {"amount": "3"},
     "posted"),
    ("reverse", "/withdraw", partial(item, account_id=OURS), {}, "posted"),
    ("reverse", "/withdraw", partial(item, account_id=OUTSIDE), {}, GONE),
    ("reverse", "/transfer", partial(pay, PAYEE, OURS), {}, "posted"),
    ("reverse", "/transfer", partial(pay, OURS, PAYEE), {}, GONE),
    ("reverse", "/transfer", partial(pay, OUTSIDE, OURS), {}, GONE),
    ("reverse", "/transactions", partial(legs, (PAYEE, "-2"), (OURS, "2")), {}, "posted"),
    ("reverse", "/transactions", partial(legs, (PAYEE, "-2"), (OURS, "2")),
     {"legs": [{"account_id": PAYEE, "amount": "1"}, {"account_id": OURS, "amount": "-1"}]},
     "posted"),
    ("reverse", "/transactions",
     partial(legs, (OUTSIDE, "-2"), (PAYEE, "-1"), (OURS, "3")),
     {"legs": [{"account_id": PAYEE, "amount": "1"}, {"account_id": OURS, "amount": "-1"}]}, GONE),
]  # fmt: skip


def in_every_door(
    world: World, who: dict[str, str], step: str, number: int, fields: dict[str, Any]
) -> list[Any]:
    """The answers to a rehearsed step: by its route, in each batch, linked and in a stream."""
    kind, path, name, _ = STEPS[step]
    body = {"idempotency_key": f"k{next(NUMBERS)}", **fields}
    one = {"type": kind, name: number, **body}
    headers = {**who, "Content-Type": "application/x-ndjson"}
    batch, line = "/batches?dry_run=true", json.dumps(one).replace("_id", "\\u005fid")
    answers = [world.send(who, f"{path.format(number)}?dry_run=true", body).json()]
    [first, linked] = world.send(who, batch, {"movements": [one, {"linked": [one]}]}).json()[
        "results"
    ]
    atomic = world.send(who, batch, {"movements": [one], "mode": "atomic"}).json()
    answers += [first["body"], linked["body"], atomic]
    sent = world.service.client.post(batch, content=line, headers=headers)
    return [*answers, json.loads(sent.text)["body"]]


def code_of(answer: Any) -> Any:
    """The code of a refusal, or the status; of a batch that of its one item."""
    if "results" in answer:
        return code_of(answer["results"][0]["body"])
    cause = answer.get("cause", answer)
    return cause.get("code") or cause["status"]


@pytest.mark.parametrize("row", range(len(BUILDING)))
def test_what_builds_on_an_earlier_transaction(world: World, row: int) -> None:
    """It needs all accounts of that. What has another one is as one that does not exist."""
    step, path, make, fields, code = BUILDING[row]
    made = world.send(world.admin, path, make()).json()
    number = made.get("hold_id") or made.get("schedule_id") or made["transaction_id"]
    before = everything(world)
    answers = in_every_door(world, world.ours, step, number, fields)
    assert [code_of(one) for one in answers] == [code or STEPS[step][3]] * len(answers), answers
    allowed = in_every_door(world, world.admin, step, number, fields)
    assert {code_of(one) for one in allowed} == {"posted"}, allowed
    if code is GONE:
        nothing = in_every_door(world, world.ours, step, 10**9, fields)
        said = json.dumps(answers).replace(str(number), str(10**9))
        assert said == json.dumps(nothing)
        whole = in_every_door(world, world.admin, step, 10**9, fields)
        assert nothing[:2] == whole[:2] and nothing[-1] == whole[-1]
    assert everything(world) == before
    if code == "posted":
        body = {"idempotency_key": f"k{next(NUMBERS)}", **fields}
        done = world.send(world.ours, STEPS[step][1].format(number), body)
        assert done.status_code == 200, done.text
        of_customers = [one for one in done.json()["entries"] if one["account_id"] > 0]
        assert hidden(of_customers) == {one["account_id"] for one in of_customers} - {OURS}
        assert world.send(world.ours, STEPS[step][1].format(number), body).content == done.content


def test_a_decline_on_another_s_account_does_not_say_its_state(world: World) -> None:
    balance = world.get(world.admin, f"/accounts/{PAYEE}").json()["balance"]
    ceiling = {"ceiling": balance, "actor": "a", "reason": "r", "idempotency_key": "c"}
    assert world.send(world.admin, f"/accounts/{PAYEE}", ceiling, "PATCH").status_code == 200

    def make() -> dict[str, Any]:
        return pay(OURS, PAYEE)

    one = make()
    declined = world.send(world.ours, "/transfer", one)
    assert declined.json()["code"] == "balance_ceiling"
    assert "decided_on" not in declined.json()
    assert world.send(world.admin, "/transfer", one).json()["decided_on"]["account_id"] == PAYEE
    atomic = {"movements": [{"type": "TRANSFER", **make()}], "mode": "atomic"}
    cause = world.send(world.ours, "/batches", atomic).json()["cause"]
    assert cause["code"] == "balance_ceiling" and "decided_on" not in cause
    linked = {"movements": [{"linked": [{"type": "TRANSFER", **make()}]}]}
    [result] = world.send(world.ours, "/batches", linked).json()["results"]
    assert "decided_on" not in result["body"]["cause"]
    world.send(world.admin, f"/accounts/{OURS}", ceiling | {"ceiling": "1"}, "PATCH")
    own = world.send(world.ours, "/deposit", item(account_id=OURS))
    assert own.json()["decided_on"]["account_id"] == OURS


def test_a_process_of_the_release_before_gives_nothing_for_it(world: World) -> None:
    """It reads the other table only."""
    with connect(world.database) as owner:
        rows = owner.execute(
            "SELECT g.* FROM ledger.grants g JOIN ledger.principals p ON p.id = g.principal_id"
            " WHERE p.name = 'ours'"
        ).fetchall()
    assert rows == []


def test_all_accounts_of_an_owner(world: World) -> None:
    """Also those that are opened later; and single accounts beside them."""
    limited = GrantedAccounts([OURS], owner="family", max_amounts={"USD": "10"})
    who = bearer(limited_key(world.database, "family", limited))
    opened = {"owner": "family", "currency": "USD"}
    ids = [world.send(world.admin, "/accounts", opened).json()["id"] for _ in range(2)]
    assert wait_for(lambda: world.get(who, f"/accounts/{ids[1]}").status_code == 200)
    assert world.send(who, "/deposit", item(account_id=ids[0], amount="5")).status_code == 200
    between = world.send(who, "/transfer", pay(ids[0], ids[1]))
    assert hidden(between.json()["entries"]) == set()
    assert world.send(who, "/transfer", pay(ids[0], OUTSIDE)).json()["code"] == "account_not_found"
    much = world.send(who, "/deposit", item(account_id=ids[0], amount="11"))
    assert much.json()["code"] == "amount_not_granted"
    later = world.send(world.admin, "/accounts", opened).json()["id"]
    assert wait_for(lambda: world.get(who, f"/accounts/{later}").status_code == 200)
    assert world.get(who, f"/accounts/{OURS}").status_code == 200
    assert world.get(who, f"/accounts/{PAYEE}").status_code == 404


def test_on_the_command_line(world: World) -> None:
    def run(*arguments: str) -> Any:
        done = cli("keys", *arguments, "--json", DATABASE_URL=url_text(world.database))
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    [made] = run("create", "till", "--role", "poster", "--account", "1", "--credit-to", "2",
                 "--max-amount", "USD=5.00")  # fmt: skip
    run("grant", "till", "--role", "reader", "--account", "2")
    run("grant", "till", "--role", "reader", "--owner", "family")
    [first, second, third] = next(
        one["grants"] for one in run("list") if one["id"] == made["key_id"]
    )
    assert first["accounts"] == [1] and first["credit_to"] == [2]
    assert first["debit_from"] is None  # those of --account
    assert (first["ledger"], first["max_amounts"]) == ("default", {"USD": "5.00"})
    assert second["accounts"] == [2] and second["max_amounts"] is None
    assert third["accounts"] == [] and third["owner"] == "family" and first["owner"] is None
    for wrong in (["--account", "999"], ["--account", "-840"], ["--max-amount", "USD=5"],
                  ["--account", "1", "--max-amount", "USD"],
                  ["--account", "1", "--ledger", "default", "--ledger", "default2"]):  # fmt: skip
        arguments = ["create", "wrong", "--role", "poster", *wrong]
        assert cli("keys", *arguments, DATABASE_URL=url_text(world.database)).returncode == 1


def test_what_a_rule_of_approvals_catches_shows_no_balance_of_others(world: World) -> None:
    """A repeat of what was posted before there was the rule has the answer of then."""
    one = item(account_id=OURS, amount="3")
    first = world.send(world.ours, "/withdraw", one)
    assert first.status_code == 200, first.text
    assert first.json()["entries"][1].keys() & HIDDEN == set()
    set_rules(world.database, [RuleRow(1, "amount", "USD", "2.00", 1)])
    try:
        new = partial(item, account_id=OURS, amount="3")
        assert wait_for(lambda: world.send(world.ours, "/withdraw", new()).status_code == 202)
        again = world.send(world.ours, "/withdraw", one)
        assert (again.status_code, again.json()) == (200, first.json())
    finally:
        set_rules(world.database, [])
    assert wait_for(lambda: world.send(world.ours, "/withdraw", new()).status_code == 200)


def test_an_execution_is_shown_as_an_answer_is() -> None:
    entries = [
        {"account_id": n, "amount": "1", **dict.fromkeys(HIDDEN, "7")} for n in (OURS, PAYEE)
    ]
    proposal = {"id": 1, "execution": {"body": {"entries": entries, "new_balance": "7"}}}
    done = json.loads(msgspec.json.encode(_shown(json.dumps(proposal).encode(), frozenset([OURS]))))
    ours, payee = done["execution"]["body"]["entries"]
    assert ours == entries[0] and payee.keys() == {"account_id", "amount"}
    none = {"id": 1, "execution": None}
    assert (
        msgspec.json.encode(_shown(json.dumps(none).encode(), frozenset()))
        == json.dumps(none, separators=(",", ":")).encode()
    )


def test_own_proposals_are_read_and_withdrawn(world: World) -> None:
    """And those of others are neither read nor counted, whether they exist or not."""
    number = int(connected(world, "SELECT id FROM ledger.principals WHERE name = 'ours'"))
    judge = int(connected(world, "SELECT id FROM ledger.principals WHERE name = 'admin'"))
    granted = "UPDATE ledger.account_grants SET debit_from = ARRAY[{}] WHERE principal_id = {}"
    policy = {"ceiling": None, "actor": "a", "reason": "r", "idempotency_key": "no ceiling"}
    for account in (OURS, PAYEE):
        assert world.send(world.admin, f"/accounts/{account}", policy, "PATCH").status_code == 200
    set_rules(world.database, [RuleRow(1, "amount", "USD", "2.00", 1)])
    try:
        new = partial(pay, OURS, PAYEE, amount="3")
        assert wait_for(lambda: world.send(world.ours, "/transfer", new()).status_code == 202)
        done, gone = (world.send(world.ours, "/transfer", new()).json()["id"] for _ in range(2))
        other = world.send(world.admin, "/withdraw", item(account_id=OURS, amount="3")).json()
        forbidden = [
            world.service.client.request(method, path, json=body, headers=world.ours)
            for unknown in (other["id"], 10**9)
            for method, path, body in (
                ("GET", f"/approvals/{unknown}", None),
                ("POST", f"/approvals/{unknown}/withdraw", {"reason": "r"}),
            )
        ]
        assert {one.json()["code"] for one in forbidden} == {"limited_to_accounts"}
        listed = world.get(world.ours, "/approvals?limit=2&state=open")
        assert [one["id"] for one in listed.json()] == [gone, done]
        rest = world.get(world.ours, listed.links["next"]["url"]).json()
        assert {one["proposed_by"] for one in [*listed.json(), *rest]} == {number}
        withdrawn = world.send(world.ours, f"/approvals/{gone}/withdraw", {"reason": "r"})
        assert withdrawn.json()["state"] == "withdrawn"
        connected(
            world,
            "INSERT INTO ledger.decisions (ledger_id, proposal_id, proposed_by, decided_by,"
            f" verdict, reason) VALUES (1, {done}, {number}, {judge}, 'approve', 'r') RETURNING 1",
        )
        path = f"/approvals/{done}"
        assert wait_for(lambda: world.get(world.ours, path).json()["state"] == "executed")
        execution = world.get(world.ours, path).json()["execution"]
        assert hidden(execution["body"]["entries"]) == {PAYEE}
        # It proposed them, but its grant does not cover the accounts any more.
        connected(world, granted.format(PAYEE, number) + " RETURNING 1")
        assert wait_for(lambda: world.get(world.ours, path).status_code == 403)
        assert world.get(world.ours, "/approvals").json() == []
    finally:
        set_rules(world.database, [])
        connected(world, granted.format(OURS, number) + " RETURNING 1")


def connected(world: World, statement: str) -> Any:
    """The one value of a statement of the owner."""
    with connect(world.database) as owner:
        row = owner.execute(statement).fetchone()
    assert row is not None
    return row[0]


def test_the_units_of_its_ledger_are_shown(world: World) -> None:
    unit = {"code": "PTS", "exponent": 0, "name": "Points"}
    assert world.send(world.admin, "/ledgers/default/currencies", unit).status_code == 201
    for prefix in ("", "/ledgers/default"):
        found = world.get(world.ours, f"{prefix}/currencies/PTS")
        assert (found.status_code, found.json().get("own")) == (200, True)
        listed = world.get(world.ours, f"{prefix}/currencies?limit=1000").json()
        assert "PTS" in [one["code"] for one in listed]
