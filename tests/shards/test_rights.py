"""Keys, grants, approvals and the audit log: they are on main, whatever shard has the ledger."""

import itertools
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from ledgerservice.access.scopes import SETS
from ledgerservice.domain.rules.approvals import RuleRow
from ledgerservice.postgres.access.principals import GrantedAccounts
from ledgerservice.postgres.access.rules import set_rule
from ledgerservice.postgres.connections import Database
from tests.access.made import alter_key, bearer, make_key
from tests.databases import empty_database
from tests.processes import RunningService, wait_for
from tests.shards.world import World

NUMBER = "SELECT ledger_id FROM ledger.ledgers WHERE name = 'shop'"
APPROVE = """
INSERT INTO ledger.decisions (ledger_id, proposal_id, proposed_by, decided_by, verdict, reason)
SELECT ledger_id, id, proposed_by, proposed_by + 1, 'approve', 'checked'
FROM ledger.proposals WHERE id = %s
"""


class Shop:
    """A service with keys, and a ledger of shard b."""

    def __init__(self, world: World, service: RunningService) -> None:
        self.world = world
        self.service = service
        self.admin = make_key(world.main, "admin")
        self.ask(self.admin, "POST", "/ledgers/", {"name": "shop", "shard": "b"}, below="")
        opened = (self._opened() for _ in range(2))
        self.alice, self.bob = opened

    def _opened(self) -> int:
        body = {"owner": "Alice", "currency": "USD"}
        number: int = self.ask(self.admin, "POST", "/accounts/", body)[1]["id"]
        return number

    def ask(
        self, key: str, method: str, path: str, body: Any = None, below: str = "/ledgers/shop"
    ) -> tuple[int, Any]:
        answer = self.service.client.request(method, below + path, json=body, headers=bearer(key))
        return answer.status_code, answer.json()

    def deposit(self, key: str, account: int, amount: str, name: str) -> tuple[int, Any]:
        body = {"account_id": account, "amount": amount, "idempotency_key": name}
        return self.ask(key, "POST", "/deposit/", body)


@pytest.fixture(scope="module")
def shop(new_database: Callable[..., Database]) -> Iterator[Shop]:
    main = new_database()
    world = World({"main": main, "b": empty_database(main, "b")})
    world.run("shards", "add", "b")
    with world.serving() as service:
        yield Shop(world, service)


def test_a_grant_on_a_ledger_of_a_shard(shop: Shop) -> None:
    key = make_key(shop.world.main, "teller", int(SETS["admin"]), ["shop"])
    assert wait_for(lambda: shop.deposit(key, shop.alice, "5.00", "granted")[0] == 200, 10)
    assert shop.ask(key, "GET", "/accounts/", below="")[0] == 404
    assert [one["name"] for one in shop.ask(key, "GET", "/ledgers/", below="")[1]] == ["shop"]
    alter_key(shop.world.main, key, "revoked_at = clock_timestamp()")
    assert wait_for(lambda: shop.deposit(key, shop.alice, "5.00", "granted")[0] == 401, 5)


def test_a_grant_on_accounts_of_a_shard(shop: Shop) -> None:
    limits = GrantedAccounts([shop.alice], None, None, {"USD": "10.00"}, None)
    key = make_key(shop.world.main, "single", int(SETS["admin"]), ["shop"], limited_to=limits)
    assert wait_for(lambda: shop.deposit(key, shop.alice, "1.00", "one")[0] == 200, 10)
    assert shop.deposit(key, shop.alice, "10.01", "much")[0] == 403
    assert shop.deposit(key, shop.bob, "1.00", "bob")[0] in {403, 404}
    assert shop.ask(key, "GET", f"/accounts/{shop.bob}")[0] == 404
    assert shop.ask(key, "GET", f"/accounts/{shop.alice}")[0] == 200


def test_a_grant_on_the_accounts_of_an_owner(shop: Shop) -> None:
    limits = GrantedAccounts([], None, None, None, "Alice")
    key = make_key(shop.world.main, "owner", int(SETS["admin"]), ["shop"], limited_to=limits)
    assert wait_for(lambda: shop.deposit(key, shop.bob, "1.00", "owned")[0] == 200, 10)


def test_the_command_line_finds_the_accounts(shop: Shop) -> None:
    create = ("keys", "create", "--role", "poster", "--ledger", "shop")
    [made] = shop.world.run(*create, "by-command", "--account", str(shop.alice))
    assert made["key"].startswith("lgk_")
    refused = shop.world.command(*create, "by-mistake", "--account", "1")
    assert "The ledger has no account 1." in refused.stderr


def test_changes_and_refusals_are_in_the_audit_log_of_main(shop: Shop) -> None:
    change = {"idempotency_key": "p", "floor": "-1.00", "actor": "risk", "reason": "a test"}
    assert shop.ask(shop.admin, "PATCH", f"/accounts/{shop.alice}", change)[0] == 200
    status, records = shop.ask(shop.admin, "GET", "/audit?action=change_policy")
    assert (status, len(records)) == (200, 1)
    [(number,)] = shop.world.rows("main", NUMBER)
    assert records[0]["ledger_id"] == number
    assert shop.world.rows("b", "SELECT count(*) FROM ledger.audit") == [(0,)]


def test_what_others_have_approved_is_posted_on_the_shard(shop: Shop) -> None:
    main = shop.world.main
    [(number,)] = shop.world.rows("main", NUMBER)
    with main.owner_engine().begin() as owner:
        set_rule(owner, RuleRow(number, "amount", "USD", "100.00", 1))

    def proposal_of(name: str) -> Any:
        status, body = shop.deposit(shop.admin, shop.alice, "500.00", name)
        return body if status == 202 else None

    # A process reads the rules within a second.
    names = map("large {}".format, itertools.count())
    assert wait_for(lambda: proposal_of(next(names)) is not None, 10, 0.2)
    [proposal] = shop.ask(shop.admin, "GET", "/approvals")[1]
    assert proposal["rule"] == "amount"
    path = f"/approvals/{proposal['id']}"
    with shop.world.connected("main") as connection:
        connection.execute(APPROVE, [proposal["id"]])
    assert wait_for(lambda: shop.ask(shop.admin, "GET", path)[1]["state"] == "executed", 15)
    key = proposal["idempotency_key"]
    keys = f"SELECT count(*) FROM ledger.transactions WHERE idempotency_key = '{key}'"
    assert shop.world.rows("b", keys) == [(1,)]
    assert shop.world.run("verify")[-1]["holds"] is True


def test_what_others_have_approved_is_posted_on_a_part(shop: Shop) -> None:
    """The proposals are on main, the transactions where the parts are; `verify` knows it."""
    shop.ask(shop.admin, "POST", "/ledgers/", {"name": "market", "shards": 3}, below="")
    [(number,)] = shop.world.rows("main", NUMBER.replace("shop", "market"))
    with shop.world.main.owner_engine().begin() as owner:
        set_rule(owner, RuleRow(number, "amount", "USD", "100.00", 1))

    def ask(method: str, path: str, body: Any = None) -> tuple[int, Any]:
        return shop.ask(shop.admin, method, path, body, below="/ledgers/market")

    def propose_in(part: int) -> None:
        account = ask("POST", "/accounts/", {"owner": "o", "currency": "USD", "part": part})[1]
        bodies = (
            {"account_id": account["id"], "amount": "500", "idempotency_key": f"large {n}"}
            for n in itertools.count()
        )
        assert wait_for(lambda: ask("POST", "/deposit/", next(bodies))[0] == 202, 10, 0.2)

    for part in range(3):
        propose_in(part)
    numbers = [proposal["id"] for proposal in ask("GET", "/approvals")[1]]
    assert len(numbers) == 3
    with shop.world.connected("main") as connection:
        for one in numbers:
            connection.execute(APPROVE, [one])
    paths = [f"/approvals/{one}" for one in numbers]
    assert wait_for(lambda: all(ask("GET", p)[1]["state"] == "executed" for p in paths), 15)
    assert shop.world.run("verify")[-1]["holds"] is True
