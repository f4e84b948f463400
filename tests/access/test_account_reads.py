"""Keys that are limited to accounts: what they read has no byte of the others."""

from collections.abc import Callable, Iterator
from contextlib import nullcontext
from functools import partial
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from ledgerservice.access.covering import AccountGrant
from ledgerservice.access.grants import Caller, Need
from ledgerservice.access.scopes import Scope
from ledgerservice.api.http.authentication import check_shown as check_path
from ledgerservice.api.http.problems import ProblemError
from ledgerservice.postgres.connections import Database
from tests.access.single_accounts import (
    HIDDEN,
    LATER,
    NONE,
    OURS,
    OUTSIDE,
    PAYEE,
    World,
    hidden,
    item,
    legs,
    pay,
    worlds,
)
from tests.api.routes import ROUTES


@pytest.fixture(scope="module")
def world(new_database: Callable[..., Database]) -> Iterator[World]:
    yield from worlds(new_database)


BY_ID = (
    "/transactions/{transaction_id}",
    "/transactions/{transaction_id}/answer",
    "/holds/{hold_id}",
    "/schedules/{schedule_id}",
)


@pytest.mark.parametrize("path", sorted(p for p in ROUTES if "{" in p or p.count("/") == 1))
def test_every_read(world: World, path: str) -> None:
    """Of its account it reads all that has only this account in it; nothing else."""
    if "GET" not in ROUTES[path] or path.startswith(("/health", "/docs", "/openapi", "/redoc")):
        return
    answers = {}
    for number in (OURS, PAYEE, OUTSIDE, NONE):
        filled = path.replace("{name}", "default").replace("{code}", "USD").replace("{key}", "k")
        for name in ("account", "transaction", "hold", "schedule", "webhook", "approval"):
            filled = filled.replace(f"{{{name}_id}}", str(number))
        answers[number] = world.get(world.ours, filled)
    assert not any(
        canary in answer.text for canary in ("secret", "4242.42") for answer in answers.values()
    )
    allowed = ("/currencies", "/ledgers", "/me")
    if path.startswith(allowed):
        return
    if path.endswith("/balances"):
        return  # it needs a time; below
    if path == "/approvals":
        assert answers[OURS].json() == []
        return  # its own are in test_account_grants.py
    if path in ("/accounts", *BY_ID):
        return  # below
    if "{account_id}" in path:
        assert answers[OURS].status_code == (404 if "{key}" in path else 200), answers[OURS].text
        others = [(answers[n].status_code, answers[n].content) for n in (PAYEE, OUTSIDE, NONE)]
        assert others[0] == others[1] == others[2] and others[0][0] == 404
    else:
        codes = {answer.json()["code"] for answer in answers.values()}
        of_all = path in ("/metrics", "/verification")
        assert codes == {"scope_missing" if of_all else "limited_to_accounts"}, path


# The path and body of what is recorded, and whether it is of an account of the key or has an entry
# on one.
RECORDED: list[tuple[str, Callable[[], Any], bool]] = [
    ("/deposit", partial(item, account_id=OURS), True),
    ("/withdraw", partial(item, account_id=OURS, amount="99999"), True),
    ("/transfer", partial(pay, OURS, PAYEE), True),
    ("/transfer", partial(pay, PAYEE, OURS, description="d"), True),
    ("/transactions", partial(legs, (PAYEE, "-1"), (OUTSIDE, "-1"), (OURS, "2")), True),
    ("/holds", partial(item, account_id=OURS, to_account_id=OUTSIDE), True),
    ("/transfer", partial(pay, OURS, OUTSIDE, **LATER), True),
    ("/transfer", partial(pay, PAYEE, OUTSIDE), False),
    ("/withdraw", partial(item, account_id=OUTSIDE, amount="99999"), False),
    ("/transfer", partial(pay, OUTSIDE, OURS, amount="99999"), False),
    ("/transactions", partial(legs, (PAYEE, "-1"), (OUTSIDE, "1")), False),
    ("/holds", partial(item, account_id=OUTSIDE, to_account_id=OURS), False),
    ("/transfer", partial(pay, OUTSIDE, OURS, **LATER), False),
]


@pytest.mark.parametrize("row", range(len(RECORDED)))
def test_what_is_recorded_by_its_id_and_key(world: World, row: int) -> None:
    """Shown without the balances of others; or as what does not exist."""
    path, make, is_seen = RECORDED[row]
    sent = make()
    made = world.send(world.admin, path, sent).json()
    number = made["transaction_id"]
    paths = [f"/transactions/{number}"]
    paths += [f"/{name}s/{number}" for name in ("hold", "schedule") if f"{name}_id" in made]
    if made.get("schedule_id") is None:
        paths = [one for one in paths if "schedules" not in one]
    for target in paths:
        shown, whole = world.get(world.ours, target), world.get(world.admin, target)
        assert whole.status_code == 200
        if is_seen:
            check_shown(shown, whole)
            continue
        nothing = world.get(world.ours, target.replace(str(number), str(10**9)))
        assert (shown.status_code, shown.content) == (404, nothing.content)
        assert (
            nothing.content == world.get(world.admin, target.replace(str(number), "9" * 10)).content
        )
    account = world.get(world.admin, paths[0]).json()["account_id"]
    keyed = f"/accounts/{account}/keys/{sent['idempotency_key']}"
    if account == OURS:
        check_shown(world.get(world.ours, keyed), world.get(world.admin, keyed))
    else:
        assert world.get(world.ours, keyed).json()["code"] == "account_not_found"


def check_shown(shown: httpx.Response, whole: httpx.Response) -> None:
    """What is shown is the whole without what is hidden."""
    assert shown.status_code == 200, shown.text
    check_hidden(shown.json(), whole.json())


def check_hidden(shown: dict[str, Any], whole: dict[str, Any]) -> None:
    if "entries" not in whole:
        assert shown == whole
        return
    of_customers = [one for one in shown["entries"] if one["account_id"] > 0]
    assert hidden(of_customers) == {one["account_id"] for one in of_customers} - {OURS}
    whole = whole | {"entries": [
        one if one["account_id"] == OURS else {n: v for n, v in one.items() if n not in HIDDEN}
        for one in whole["entries"]
    ]}  # fmt: skip
    if whole["entries"] and whole["entries"][0]["account_id"] != OURS:
        whole = {n: v for n, v in whole.items() if n not in ("new_balance", "sender_new_balance")}
    assert shown == whole


def listed(world: World, who: dict[str, str], path: str) -> list[Any]:
    """All rows of a list, over its pages."""
    rows: list[Any] = []
    while path:
        answer = world.get(who, path)
        assert answer.status_code == 200, answer.text
        rows += answer.json()
        path = answer.links.get("next", {}).get("url", "")
    return rows


@pytest.mark.parametrize(
    "query",
    ["", "&limit=1", "&kind=TRANSFER", "&status=declined", "&reference=none", "&currency=USD",
     "&currency=USD&min_amount=2", "&from=2020-01-01T00:00:00Z", "&limit=2&kind=DEPOSIT"],
)  # fmt: skip
def test_the_list_of_the_transactions_of_an_account(world: World, query: str) -> None:
    for path, make, _ in RECORDED:
        world.send(world.admin, path, make())
    target = f"/transactions?account_id={OURS}{query}"
    shown, whole = listed(world, world.ours, target), listed(world, world.admin, target)
    assert len(shown) == len(whole) and (shown or "none" in query)
    for one, other in zip(shown, whole, strict=True):
        check_hidden(one, other)


def test_lists_of_others(world: World) -> None:
    whole = [f"/transactions?{query}" for query in ("", "limit=1", "kind=DEPOSIT")]
    whole += [f"/transactions?account_id={OURS}&{more}" for more in ("owner=open", "by=effective")]
    cursor = world.get(world.admin, "/transactions?limit=1").links["next"]["url"]
    for path in (*whole, cursor):
        assert world.get(world.ours, path).json()["code"] == "limited_to_accounts", path
    foreign = world.get(world.admin, f"/transactions?account_id={OUTSIDE}&limit=1")
    others = [f"/transactions?account_id={number}" for number in (PAYEE, OUTSIDE, NONE)]
    answers = [world.get(world.ours, path) for path in (*others, foreign.links["next"]["url"])]
    assert {(one.status_code, one.content) for one in answers} == {(404, answers[0].content)}


@pytest.mark.parametrize(
    ("query", "number"),
    [("", 1), ("limit=1", 1), ("owner=open", 1), ("owner=secret", 0), ("currency=USD", 1),
     ("reference=secret 3", 0), ("status=frozen", 0), ("from=2020-01-01T00:00:00Z", 1),
     ("currency=USD&min_balance=4000", 1)],
)  # fmt: skip
def test_the_list_of_accounts(world: World, query: str, number: int) -> None:
    rows = listed(world, world.ours, f"/accounts?{query}")
    assert [one["id"] for one in rows] == [OURS][:number]
    cursor = world.get(world.admin, "/accounts?limit=1").links["next"]["url"]
    assert listed(world, world.ours, cursor) == []


class Unread(frozenset[int]):
    """A set that nobody goes through."""

    def __iter__(self) -> Iterator[int]:
        raise AssertionError("a grant may have thousands of accounts")


IDS = ["1", "01", "+1", "1 ", "-1", "0", "2", "\u0661", "9" * 30, "x", ""]


@pytest.mark.parametrize("text", IDS)
def test_whether_an_account_is_shown_is_looked_up(text: str) -> None:
    reading = int(Scope.ACCOUNTS_READ)
    grants = tuple(
        AccountGrant(scopes, Unread(accounts), Unread(), Unread(), {}, {})
        for scopes, accounts in ((reading, [OURS, 7]), (int(Scope.HOLDS), [2]), (reading, [8]))
    )
    caller = Caller("k", 1, by_accounts={3: grants})
    request = Request({"type": "http", "path_params": {"account_id": text}})
    is_shown = text == str(OURS)
    with nullcontext() if is_shown else pytest.raises(ProblemError, match="account_not_found"):
        check_path(caller, 3, Need(reading, by_accounts=True), request)
    with pytest.raises(ProblemError):
        check_path(caller, 4, Need(reading, by_accounts=True), request)


def test_balances_at_a_time(world: World) -> None:
    answers = [
        world.get(world.ours, f"/accounts/{number}/balances?at=2999")
        for number in (OURS, PAYEE, OUTSIDE, NONE)
    ]
    assert answers[0].status_code == 200, answers[0].text
    assert len({(one.status_code, one.content) for one in answers[1:]}) == 1
    assert answers[1].status_code == 404
