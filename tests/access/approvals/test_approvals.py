"""Four eyes, through real services: what is proposed, decided and carried out."""

import asyncio
import json
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError, IntegrityError

from ledgerservice import Ledger
from ledgerservice.domain.rules.approvals import RuleRow
from ledgerservice.domain.transactions import Rejected, Rejection
from tests.access.approvals.proposing import (
    RULES,
    WHY,
    World,
    approve,
    as_service,
    caught,
    claim,
    decide,
    deposit,
    principal,
    set_rules,
    transactions_of,
)
from tests.access.made import bearer
from tests.databases import url_text
from tests.processes import serving, wait_for

Made = tuple[str, str, dict[str, Any]]
"""Method, path and body."""


def _big_transfer(world: World, account: int | None = None, key: str = "an original") -> int:
    """A transaction of 150.00 that was approved; its id."""
    account = account or world.account()
    proposal = approve(world, deposit(world, account, "150.00", key))
    number: int = proposal["execution"]["transaction_id"]
    return number


def _policy(world: World, **changes: Any) -> Made:
    return "PATCH", f"/accounts/{world.account()}", {"actor": "a", "reason": "r", **changes}


CAUGHT: dict[str, Callable[[World], Made]] = {
    "deposit": lambda w: ("POST", "/deposit", {"account_id": w.account(), "amount": "100.01"}),
    "with details": lambda w: (
        "POST", "/deposit", {"account_id": w.account(), "amount": 101, "description": "d"}),
    "withdrawal": lambda w: (
        "POST", "/withdraw/", {"account_id": w.account("200"), "amount": "150.00"}),
    "transfer": lambda w: ("POST", "/transfer", {
        "from_account_id": w.account("200"), "to_account_id": w.account(), "amount": "101"}),
    "schedule": lambda w: ("POST", "/transfer", {
        "from_account_id": w.account("200"), "to_account_id": w.account(), "amount": "101",
        "execute_at": "2999-01-01T00:00:00Z"}),
    "hold": lambda w: ("POST", "/holds", {"account_id": w.account("200"), "amount": "101"}),
    "legs that are above it together": lambda w: ("POST", "/transactions", {"legs": [
        {"account_id": w.account("200"), "amount": "-120"},
        {"account_id": w.account(), "amount": "60"},
        {"account_id": w.account(), "amount": "60"}]}),
    "reversal": lambda w: ("POST", f"/transactions/{_big_transfer(w)}/reverse", {}),
    "forced reversal": lambda w: ("POST", f"/transactions/{_small_transfer(w)}/reverse", {
        "force": True, "actor": "risk", "description": "fraud"}),
    "floor": lambda w: _policy(w, floor="-50.01"),
    "closing": lambda w: _policy(w, closed=True),
    "unfreezing": lambda w: _policy(w, frozen=None),
    "half unfreezing": lambda w: _policy(w, frozen="debits"),
}  # fmt: skip


def _small_transfer(world: World) -> int:
    a, b = world.account("100"), world.account()
    moved = {"from_account_id": a, "to_account_id": b, "amount": "30", "idempotency_key": "t"}
    number: int = world.send("admin", "POST", "/transfer", moved).json()["transaction_id"]
    spent = {"account_id": b, "amount": "25", "idempotency_key": "s"}
    assert world.send("admin", "POST", "/withdraw", spent).status_code == 200
    return number


@pytest.mark.parametrize("kind", CAUGHT)
def test_it_is_posted_when_others_have_approved_it(world: World, kind: str) -> None:
    method, path, body = CAUGHT[kind](world)
    body["idempotency_key"] = f"proposed {kind}"
    rehearsed = world.send("alice", method, f"{path}?dry_run=true", body)
    assert rehearsed.status_code == 200, rehearsed.text
    assert rehearsed.headers["approval-required"]
    before = world.rows("SELECT count(*) FROM ledger.transactions")
    place = caught(world, method, path, body)
    proposal = world.send("reader", "GET", place).json()
    assert (proposal["state"], proposal["request"]) == ("open", body)
    assert world.rows("SELECT count(*) FROM ledger.transactions") == before
    done = approve(world, place)
    if proposal["approvals"] == 2:
        assert (done["state"], done["execution"]) == ("open", None)
        assert approve(world, place)["state"] == "open"  # the same person again
        done = approve(world, place, "carol")
    assert done["state"] == "executed", done
    [(number, maker, _)] = transactions_of(world, place)
    assert maker == principal(world, "alice") == proposal["proposed_by"]
    assert done["execution"]["transaction_id"] == number
    assert done["execution"]["body"]["transaction_id"] == number
    again = world.send("alice", method, path, body)
    assert (again.status_code, again.json()) == (202, done)
    assert len(transactions_of(world, place)) == 1


UNCAUGHT: dict[str, Callable[[World], Made]] = {
    "at the bound": lambda w: ("POST", "/deposit", {"account_id": w.account(), "amount": "100.00"}),
    "another currency": lambda w: (
        "POST", "/deposit", {"account_id": w.account(currency="EUR"), "amount": "100.01"}),
    "floor at the bound": lambda w: _policy(w, floor="-50"),
    "freezing everything": lambda w: _policy(w, frozen="both"),
    "legs": lambda w: ("POST", "/transactions", {"legs": [
        {"account_id": w.account("100"), "amount": "-100"},
        {"account_id": w.account(), "amount": "100"}]}),
    "reversal": lambda w: ("POST", f"/transactions/{_small_transfer(w)}/reverse", {"amount": "1"}),
}  # fmt: skip


@pytest.mark.parametrize("kind", UNCAUGHT)
def test_what_no_rule_catches_is_posted(world: World, kind: str) -> None:
    method, path, body = UNCAUGHT[kind](world)
    body["idempotency_key"] = f"not proposed {kind}"
    answer = world.send("alice", method, path, body)
    assert answer.status_code == 200, answer.text
    assert "approval-required" not in answer.headers


def test_who_may_not_do_it_may_not_propose_it(world: World) -> None:
    body = {"account_id": world.account(), "amount": "500", "idempotency_key": "k"}
    for who in ("reader", "judge"):
        refused = world.send(who, "POST", "/deposit", body)
        assert (refused.status_code, refused.json()["code"]) == (403, "scope_missing")
    number = _small_transfer(world)
    forced = {"force": True, "actor": "a", "description": "d", "idempotency_key": "f"}
    refused = world.send("poster", "POST", f"/transactions/{number}/reverse", forced)
    assert (refused.status_code, refused.json()["scope"]) == (403, "reversals:force")
    place = deposit(world, world.account(), "500")
    for verdict in ("approve", "reject"):
        refused = world.send("poster", "POST", f"{place}/{verdict}", WHY)
        assert (refused.status_code, refused.json()["scope"]) == (403, "approvals:decide")


def test_nobody_decides_on_a_proposal_of_their_own(world: World) -> None:
    place = deposit(world, world.account(), "500")
    for verdict in ("approve", "reject"):
        refused = world.send("alice", "POST", f"{place}/{verdict}", WHY)
        assert (refused.status_code, refused.json()["code"]) == (403, "approval_by_proposer")
    refused = world.send("bob", "POST", f"{place}/withdraw", WHY)
    assert (refused.status_code, refused.json()["code"]) == (403, "approval_by_proposer")
    assert world.send("alice", "POST", f"{place}/withdraw", WHY).json()["state"] == "withdrawn"
    logged = f"SELECT status FROM ledger.audit WHERE subject = '{place}/withdraw' ORDER BY id"
    assert (200,) in world.rows(logged)
    late = world.send("bob", "POST", f"{place}/approve", WHY)
    assert (late.status_code, late.json()["code"]) == (409, "approval_not_open")


def test_the_database_lets_no_one_person_pass(world: World) -> None:
    """Whatever the service does: own approvals, one for two, others' names, and second thoughts."""
    alice, bob = principal(world, "alice"), principal(world, "bob")
    account = world.account()
    body = {"actor": "a", "reason": "r", "closed": True, "idempotency_key": "close"}
    place = caught(world, "PATCH", f"/accounts/{account}", body)
    with pytest.raises(IntegrityError, match="decisions_by_another"), as_service(world) as role:
        decide(role, place, alice, alice, "approve")
    with pytest.raises(IntegrityError, match="decisions_proposal"), as_service(world) as role:
        decide(role, place, bob, alice, "approve")  # as if bob had proposed it
    with pytest.raises(IntegrityError, match="decisions_by_another"), as_service(world) as role:
        decide(role, place, alice, 0, "approve")
    with pytest.raises(IntegrityError, match="is not approved"), as_service(world) as role:
        claim(role, place)
    approve(world, place)
    with pytest.raises(IntegrityError, match="decisions_pkey"), as_service(world) as role:
        decide(role, place, alice, bob, "approve")
    with pytest.raises(IntegrityError, match="is not approved"), as_service(world) as role:
        claim(role, place)
    assert world.send("carol", "POST", f"{place}/reject", WHY).json()["state"] == "rejected"
    with pytest.raises(IntegrityError, match="is not open"), as_service(world) as role:
        decide(role, place, alice, principal(world, "admin"), "approve")
    with pytest.raises(IntegrityError, match="is not approved"), as_service(world) as role:
        claim(role, place)
    for table in ("proposals", "decisions"):
        for change in (f"DELETE FROM ledger.{table}", f"UPDATE ledger.{table} SET ledger_id = 1"):
            with pytest.raises(DBAPIError):
                world.execute(change)
    for change in ("DELETE FROM ledger.executions", "UPDATE ledger.executions SET status = 200"):
        with pytest.raises(DBAPIError, match="executions are immutable"):
            world.execute(change)
    with pytest.raises(DBAPIError, match="permission denied"), as_service(world) as role:
        role.execute(text("DELETE FROM ledger.approval_rules"))
    assert world.send("admin", "GET", f"/accounts/{account}").json()["status"] == "active"


def test_what_is_refused_when_it_is_carried_out(world: World) -> None:
    account = world.account("200")
    body = {"account_id": account, "amount": "150", "idempotency_key": "out"}
    place = caught(world, "POST", "/withdraw", body)
    spent = {"account_id": account, "amount": "100", "idempotency_key": "spent"}
    assert world.send("admin", "POST", "/withdraw", spent).status_code == 200
    done = approve(world, place)
    assert (done["state"], done["execution"]["status"]) == ("refused", 400)
    assert done["execution"]["body"]["code"] == "insufficient_funds"
    assert world.balance(account) == "100.00"
    deposit(world, account, "1000", "more")
    assert approve(world, place) == done


def test_what_cannot_be_posted_is_not_proposed(world: World) -> None:
    """It gets the answer that it would get without the rule."""
    unknown = {"account_id": 10**9, "amount": "500", "idempotency_key": "k"}
    assert world.send("alice", "POST", "/deposit", unknown).json()["code"] == "account_not_found"
    fine = {"account_id": world.account(), "amount": "500.001", "idempotency_key": "k"}
    assert world.send("alice", "POST", "/deposit", fine).json()["code"] == "amount_precision"
    reverse = world.send("alice", "POST", "/transactions/99999/reverse", {"idempotency_key": "k"})
    assert reverse.json()["code"] == "transaction_not_found"


def test_a_key_is_of_one_proposal(world: World) -> None:
    account = world.account()
    deposit(world, account, "500", "same")
    body = {"account_id": account, "amount": "501", "idempotency_key": "same"}
    refused = world.send("alice", "POST", "/deposit", body)
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")


def test_a_key_that_another_request_has_got_meanwhile(world: World) -> None:
    """It has one outcome: what no rule catches was posted, so the proposal is refused."""
    account = world.account()
    place = deposit(world, account, "500", "same")
    small = {"account_id": account, "amount": "5", "idempotency_key": "same"}
    assert world.send("alice", "POST", "/deposit", small).status_code == 200
    done = approve(world, place)
    assert (done["state"], done["execution"]["status"]) == ("refused", 422)
    assert done["execution"]["body"]["code"] == "idempotency_key_reused"
    assert world.balance(account) == "5.00"


def test_a_key_belongs_to_the_account_of_its_transaction(world: World) -> None:
    """As when it is posted, and to nothing else that has the number of the transaction."""
    account = world.account()
    first, second = (_big_transfer(world, account, key) for key in ("one", "two"))
    world.execute(f"SELECT setval('ledger.account_id', {first}, false)")
    assert world.account() == first
    reversal = {"idempotency_key": "shared"}
    place = caught(world, "POST", f"/transactions/{first}/reverse", reversal)
    assert deposit(world, first, "500", "shared") != place
    refused = world.send("alice", "POST", f"/transactions/{second}/reverse", reversal)
    assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")


def test_a_key_of_what_was_carried_out_moves_nothing_more(world: World) -> None:
    """Another request with it is refused at every door, also at those without rules."""
    account = world.account()
    body = {"account_id": account, "amount": "500", "idempotency_key": "done"}
    approve(world, caught(world, "POST", "/deposit", body))
    small = body | {"amount": "5"}
    item = small | {"type": "DEPOSIT"}
    for path, sent in (("/deposit", small), ("/withdraw", small), ("/holds", small)):
        refused = world.send("alice", "POST", path, sent)
        assert (refused.status_code, refused.json()["code"]) == (422, "idempotency_key_reused")
    [result] = world.send("alice", "POST", "/batches", {"movements": [item]}).json()["results"]
    assert (result["status"], result["body"]["code"]) == (422, "idempotency_key_reused")
    outcome = asyncio.run(_deposit_by_program(world, account, "5", "done"))
    assert outcome == Rejected(Rejection.KEY_REUSED, account)
    assert world.balance(account) == "500.00"
    follow(world, [])
    again = world.send("alice", "POST", "/deposit", body)
    assert (again.status_code, again.headers["idempotency-replayed"]) == (200, "true")
    follow(world, RULES)
    assert world.balance(account) == "500.00"


async def _deposit_by_program(world: World, account: int, amount: str, key: str) -> Any:
    async with Ledger.open(url_text(world.database)) as ledger:
        return await ledger.deposit(account, amount, key=key)


def follow(world: World, rules: list[RuleRow]) -> None:
    """Set the rules, and wait until the service follows them."""
    set_rules(world.database, rules)
    account = world.account()
    caught_now = any(rule.rule == "amount" and rule.currency == "USD" for rule in rules)
    body = {"account_id": account, "amount": "100.01", "idempotency_key": "probe"}
    path = "/deposit?dry_run=true"

    def is_followed() -> bool:
        headers = world.send("admin", "POST", path, body).headers
        return ("approval-required" in headers) == caught_now

    assert wait_for(is_followed)


def test_a_rule_that_changes_in_between(world: World) -> None:
    """The same request moves money once, whichever of its two ways is the first."""
    first, later = world.account(), world.account()
    body = {"account_id": first, "amount": "500", "idempotency_key": "one"}
    place = caught(world, "POST", "/deposit", body)
    other = body | {"idempotency_key": "another's"}
    theirs = caught(world, "POST", "/deposit", other)
    follow(world, [])
    posted = world.send("alice", "POST", "/deposit", body).json()
    done = approve(world, place)
    assert (done["state"], done["execution"]["body"]) == ("executed", posted)
    assert world.send("poster", "POST", "/deposit", other).status_code == 200
    done = approve(world, theirs)
    assert (done["state"], done["execution"]["body"]["code"]) == ("refused", "approval_superseded")
    assert world.balance(first) == "1000.00"
    early = {"account_id": later, "amount": "500", "idempotency_key": "two"}
    posted = world.send("alice", "POST", "/deposit", early)
    follow(world, RULES)
    again = world.send("alice", "POST", "/deposit", early)
    assert (again.status_code, again.content) == (200, posted.content)
    assert again.headers["idempotency-replayed"] == "true"


def test_items_of_batches_and_streams(world: World) -> None:
    account = world.account()
    big, small = (
        {"type": "DEPOSIT", "account_id": account, "amount": amount, "idempotency_key": amount}
        for amount in ("500", "1")
    )
    answer = world.send("alice", "POST", "/batches", {"movements": [big, small]})
    first, second = answer.json()["results"]
    assert (first["status"], first["body"]["state"], second["status"]) == (202, "open", 200)
    linked = world.send("alice", "POST", "/batches", {"movements": [{"linked": [small, big]}]})
    [result] = linked.json()["results"]
    assert (result["status"], result["body"]["index"]) == (409, 1)
    assert result["body"]["cause"]["code"] == "approval_required"
    atomic = {"movements": [big], "mode": "atomic"}
    refused = world.send("alice", "POST", "/batches", atomic)
    assert (refused.status_code, refused.json()["cause"]["code"]) == (409, "approval_required")
    rehearsed = world.send("alice", "POST", "/batches?dry_run=true", {"movements": [big]})
    assert rehearsed.headers["approval-required"] == "amount"
    assert rehearsed.json()["results"][0]["status"] == 200
    lines = "".join(f"{json.dumps(one)}\n" for one in (big, small))
    # A stream is not signed. The request is the same, whoever sends it again.
    headers = bearer(world.keys["poster"]) | {"Content-Type": "application/x-ndjson"}
    stream = world.service.client.post("/batches", content=lines, headers=headers)
    one, two = map(json.loads, stream.text.splitlines())
    assert (one["status"], two["status"], two["replayed"]) == (202, 200, True)
    # The line has other blanks, and the route another form; all of them are the same request.
    assert one["body"] == first["body"]
    alone = {name: value for name, value in big.items() if name != "type"}
    assert world.send("alice", "POST", "/deposit", alone).json() == first["body"]
    assert approve(world, f"/approvals/{first['body']['id']}")["state"] == "executed"
    assert world.balance(account) == "501.00"


def test_the_list_and_the_ledger(world: World) -> None:
    place = deposit(world, world.account(), "500")
    number = int(place.rsplit("/", 1)[1])
    found = world.send("judge", "GET", "/approvals?state=open&limit=1").json()
    assert [one["id"] for one in found] == [number]
    seen: list[int] = []
    url = "/approvals?limit=3"
    while url:
        page = world.send("judge", "GET", url)
        seen += [one["id"] for one in page.json()]
        url = page.links.get("next", {}).get("url", "")
    assert seen == sorted(seen, reverse=True)
    assert seen == [row[0] for row in world.rows("SELECT id FROM ledger.proposals ORDER BY 1 DESC")]
    assert world.send("admin", "POST", "/ledgers", {"name": "other"}).status_code == 201
    for path in (f"/ledgers/other{place}", "/approvals/999999", "/approvals/x"):
        missing = world.send("judge", "GET", path)
        assert (missing.status_code, missing.json()["code"]) == (404, "approval_not_found")
    decided = world.send("judge", "POST", f"/ledgers/other{place}/approve", WHY)
    assert decided.json()["code"] == "approval_not_found"


def test_it_is_in_the_audit_log(world: World) -> None:
    place = deposit(world, world.account(), "500")
    approve(world, place)
    rows = world.rows(
        "SELECT action, principal_id, status, source FROM ledger.audit"
        f" WHERE subject LIKE '{place}%' ORDER BY id"
    )
    alice, bob = principal(world, "alice"), principal(world, "bob")
    assert rows == [
        ("propose", alice, 202, "127.0.0.1"),
        ("execute_approval", alice, 200, "service"),
        ("approve_approval", bob, 200, "127.0.0.1"),
    ]


def test_two_who_approve_at_once(world: World) -> None:
    for n in range(10):
        account = world.account()
        place = deposit(world, account, "500", f"at once {n}")
        with ThreadPoolExecutor(3) as pool:
            answers = pool.map(
                lambda who, place=place: world.send(who, "POST", f"{place}/approve", WHY),
                ("bob", "carol", "admin"),
            )
            assert {answer.status_code for answer in answers} <= {200, 409}
        assert world.send("bob", "GET", place).json()["state"] == "executed"
        assert world.balance(account) == "500.00"
        assert len(transactions_of(world, place)) == 1


def test_what_nobody_decides_on_expires(world: World) -> None:
    url = url_text(world.database)
    with serving(DATABASE_URL=url, LEDGER_APPROVAL_EXPIRY_S="0.5") as service:
        brief = world._replace(service=service)
        place = deposit(brief, world.account(), "500")
        assert wait_for(lambda: brief.send("bob", "GET", place).json()["state"] == "expired")
        late = brief.send("bob", "POST", f"{place}/approve", WHY)
        assert (late.status_code, late.json()["code"]) == (409, "approval_not_open")
        with pytest.raises(IntegrityError, match="is not open"), as_service(world) as role:
            decide(role, place, principal(world, "alice"), principal(world, "bob"), "approve")
