"""Keys that are limited to accounts: the events and the report that they get."""

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from ledgerservice.access import keys
from ledgerservice.access.scopes import Scope
from ledgerservice.postgres.access.principals import GrantedAccounts
from ledgerservice.postgres.connections import Database
from tests.access.made import bearer
from tests.access.single_accounts import (
    HIDDEN,
    LATER,
    NONE,
    OURS,
    OUTSIDE,
    PAYEE,
    World,
    item,
    legs,
    limited_key,
    pay,
    worlds,
)
from tests.databases import connect
from tests.processes import wait_for


@pytest.fixture(scope="module")
def world(new_database: Callable[..., Database]) -> Iterator[World]:
    for made in worlds(new_database):
        fill(made)
        yield made


def fill(world: World) -> None:
    """Everything that names the account, of it and of others."""
    own = {"floor": "-5", "actor": "a", "reason": "r", "idempotency_key": "policy"}
    ceiling = {"ceiling": "800.00", "actor": "secret", "reason": "secret", "idempotency_key": "c"}
    for path, body, method in (
        (f"/accounts/{OURS}", own, "PATCH"),
        (f"/accounts/{PAYEE}", ceiling, "PATCH"),
        ("/transfer", pay(OURS, PAYEE), "POST"),
        ("/transfer", pay(OURS, PAYEE, amount="100.00"), "POST"),  # declined by the payee's ceiling
        ("/transfer", pay(OUTSIDE, OURS), "POST"),
        ("/transactions", legs((PAYEE, "-1"), (OUTSIDE, "-1"), (OURS, "2")), "POST"),
        ("/withdraw", item(account_id=OURS, amount="99999"), "POST"),
        ("/holds", item(account_id=OURS, to_account_id=OUTSIDE), "POST"),
        ("/transfer", pay(OURS, OUTSIDE, **LATER), "POST"),
        # Of others, though some name the account.
        ("/holds", item(account_id=OUTSIDE, to_account_id=OURS, reference="secret"), "POST"),
        ("/transfer", pay(OUTSIDE, OURS, description="secret", **LATER), "POST"),
        ("/transfer", pay(OUTSIDE, OURS, amount="99999", description="secret"), "POST"),
        ("/transfer", pay(OUTSIDE, PAYEE, description="secret"), "POST"),
    ):
        world.send(world.admin, path, body, method)


def events(world: World, who: dict[str, str], query: str, limit: int = 1000) -> list[Any]:
    """All events, over the pages."""
    rows: list[Any] = []
    after = ""
    while True:
        answer = world.get(who, f"/events?limit={limit}{query}{after}")
        assert answer.status_code == 200, answer.text
        assert "secret" not in answer.text or who is world.admin
        page = answer.json()
        if after == f"&after={page['next']}":
            return rows
        rows += page["events"]
        after = f"&after={page['next']}"


def is_ours(event: Any) -> bool:
    accounts = {one["account_id"] for one in event["data"].get("entries", [])}
    return OURS in {*accounts, event["data"]["account_id"]}


def without_others(event: Any) -> Any:
    data = dict(event["data"])
    if "entries" in data:
        data["entries"] = [
            one if one["account_id"] == OURS else {n: v for n, v in one.items() if n not in HIDDEN}
            for one in data["entries"]
        ]
    if data.get("decided_on", {}).get("account_id", OURS) != OURS:
        del data["decided_on"]
    return event | {"data": data}


@pytest.mark.parametrize("limit", [1, 3, 1000])
@pytest.mark.parametrize("query", ["", "&type=transaction.posted,transaction.declined"])
def test_the_events_of_an_account(world: World, limit: int, query: str) -> None:
    query = f"&account_id={OURS}{query}"
    whole = events(world, world.admin, query)
    expected = [without_others(one) for one in whole if is_ours(one)]
    assert events(world, world.ours, query, limit) == expected
    assert len(expected) < len(whole)
    types = {one["type"] for one in expected}
    assert {"transaction.posted", "transaction.declined"} <= types
    if "type" not in query:
        assert {"account.opened", "account.policy_changed", "hold.placed"} <= types
    hidden = [one for one in expected if one["data"].get("code") == "balance_ceiling"]
    assert len(hidden) == 1 and "decided_on" not in hidden[0]["data"]


def test_the_events_of_others(world: World) -> None:
    for query in ("", "?limit=1", "?type=transaction.posted", "?after=new"):
        assert world.get(world.ours, f"/events{query}").json()["code"] == "limited_to_accounts"
    others = [world.get(world.ours, f"/events?account_id={n}") for n in (PAYEE, OUTSIDE, NONE)]
    assert {(one.status_code, one.content) for one in others} == {(404, others[0].content)}
    assert others[0].json()["code"] == "account_not_found"
    blind = limited_key(world.database, "blind", GrantedAccounts([OURS]), int(Scope.HOLDS))
    assert wait_for(lambda: world.get(bearer(blind), "/ledgers").status_code == 200)
    answer = world.get(bearer(blind), f"/events?account_id={OURS}")
    assert answer.json()["code"] == "scope_missing"


def test_what_is_hidden_ends_no_wait(world: World) -> None:
    head = world.get(world.ours, f"/events?account_id={OURS}&after=new").json()["next"]
    held = item(account_id=OUTSIDE, to_account_id=OURS)
    assert world.send(world.admin, "/holds", held).status_code == 200
    seen = world.get(world.admin, f"/events?account_id={OURS}&after={head}&wait_s=30").json()
    assert [one["type"] for one in seen["events"]] == ["hold.placed"]
    thread = threading.Thread(
        target=lambda: answers.append(
            world.get(world.ours, f"/events?account_id={OURS}&after={head}&wait_s=30").json()
        )
    )
    answers: list[Any] = []
    thread.start()
    thread.join(2)
    assert thread.is_alive() and not answers
    assert world.send(world.admin, "/transfer", pay(OUTSIDE, OURS)).status_code == 200
    thread.join(60)
    [answer] = answers
    assert [one["type"] for one in answer["events"]] == ["transaction.posted"]


def test_a_stream_ends_with_its_grant(world: World) -> None:
    key = limited_key(world.database, "streaming", GrantedAccounts([OURS]))
    headers = bearer(key) | {"Accept": "text/event-stream"}
    assert wait_for(lambda: world.get(bearer(key), "/ledgers").status_code == 200)
    path = f"{world.service.base}/events?account_id={OURS}"
    with httpx.stream("GET", path, headers=headers, timeout=60) as stream:
        assert stream.status_code == 200
        lines = stream.iter_lines()
        expected = events(world, bearer(key), f"&account_id={OURS}")
        sent: list[Any] = []
        while len(sent) < len(expected):
            line = next(lines)
            if line.startswith("data: "):
                sent.append(json.loads(line.removeprefix("data: ")))
        assert sent == expected
        with connect(world.database) as owner:
            owner.execute(
                "DELETE FROM ledger.account_grants g USING ledger.api_keys k"
                " WHERE k.principal_id = g.principal_id AND k.id = %s",
                [keys.id_of(key)],
            )
        list(lines)  # it ends


def test_the_report_of_an_owner(world: World) -> None:
    """By a grant of all its accounts; as it stands, as recorded and as effective."""
    for currency in ("EUR", "USD"):
        opened = {"owner": "open", "currency": currency}
        assert world.send(world.admin, "/accounts", opened).status_code == 201
    owned = bearer(limited_key(world.database, "owner", GrantedAccounts([], owner="open")))
    both = GrantedAccounts([OUTSIDE], owner="nobody")
    other = bearer(limited_key(world.database, "nobody", both))
    assert wait_for(lambda: world.get(owned, "/ledgers").status_code == 200)
    assert wait_for(lambda: world.get(other, "/ledgers").status_code == 200)
    for query in ("", "?at=2999", "?at=2999&by=effective"):
        path = f"/reports/balances{query}"
        whole = world.get(world.admin, path).json()
        assert {one["owner"] for one in whole} == {"open", "secret"}
        rows = world.get(owned, path).json()
        assert rows == [one for one in whole if one["owner"] == "open"] and len(rows) == 2
        assert world.get(other, path).json() == []
        assert world.get(world.ours, path).json()["code"] == "limited_to_accounts"
    first = world.get(owned, "/reports/balances?limit=1")
    following = world.get(owned, first.links["next"]["url"])
    assert [one["currency"] for one in first.json() + following.json()] == ["EUR", "USD"]
    foreign = world.get(world.admin, "/reports/balances?limit=1").links["next"]["url"]
    assert {one["owner"] for one in world.get(owned, foreign).json()} == {"open"}
    for path in ("/reports/trial-balance", "/reports/totals?key=k", "/reports/volume",
                 "/reports/open"):  # fmt: skip
        assert world.get(owned, path).json()["code"] == "limited_to_accounts"
