"""Proposals for tests: a service with rules, and the keys of several people."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import httpx
from sqlalchemy import text

from ledgerservice.access.keys import id_of
from ledgerservice.access.signatures import Signer
from ledgerservice.domain.rules.approvals import RuleRow
from ledgerservice.postgres.access.rules import set_rule
from ledgerservice.postgres.connections import Database
from tests.access.made import bearer
from tests.processes import RunningService

RULES = [
    RuleRow(1, "amount", "USD", "100.00", 1),
    RuleRow(1, "floor", "USD", "-50", 1),
    RuleRow(1, "close", "", None, 2),
    RuleRow(1, "unfreeze", "", None, 1),
]
SIGNING = {"alice", "bob", "carol", "admin", "judge"}
"""Whose keys require signatures, all with the same private key."""
WHY = {"reason": "checked"}


class World(NamedTuple):
    service: RunningService
    database: Database
    keys: dict[str, str]
    private: bytes

    def send(
        self, who: str, method: str, path: str, body: Any = None, **headers: str
    ) -> httpx.Response:
        key = self.keys[who]
        auth = Signer(id_of(key) or "", self.private) if who in SIGNING else None
        sent = bearer(key) | headers
        return self.service.client.request(method, path, json=body, headers=sent, auth=auth)

    def account(self, balance: str | None = None, currency: str = "USD") -> int:
        opened = self.send("admin", "POST", "/accounts", {"owner": "o", "currency": currency})
        number: int = opened.json()["id"]
        if balance is not None:
            for n in range(int(balance) // 100):
                body = {"account_id": number, "amount": "100", "idempotency_key": f"fund {n}"}
                assert self.send("admin", "POST", "/deposit", body).status_code == 200
        return number

    def balance(self, account: int) -> str:
        return str(self.send("admin", "GET", f"/accounts/{account}").json()["balance"])

    def execute(self, statement: str) -> None:
        with self.database.owner_engine().begin() as owner:
            owner.execute(text(statement))

    def rows(self, statement: str) -> list[Any]:
        with self.database.owner_engine().connect() as owner:
            return [tuple(row) for row in owner.execute(text(statement))]


def set_rules(database: Database, rules: list[RuleRow]) -> None:
    with database.owner_engine().begin() as owner:
        owner.execute(text("DELETE FROM ledger.approval_rules"))
        for rule in rules:
            set_rule(owner, rule)


def caught(world: World, method: str, path: str, body: Any, who: str = "alice") -> str:
    """The path of the proposal that a request becomes."""
    answer = world.send(who, method, path, body)
    assert answer.status_code == 202, answer.text
    again = world.send(who, method, path, body)
    assert (again.status_code, again.content) == (202, answer.content)
    location: str = answer.headers["location"]
    assert location == f"/approvals/{answer.json()['id']}"
    return location


def deposit(world: World, account: int, amount: str, key: str = "big") -> str:
    return caught(
        world,
        "POST",
        "/deposit",
        {"account_id": account, "amount": amount, "idempotency_key": key},
    )


def approve(world: World, path: str, who: str = "bob") -> Any:
    answer = world.send(who, "POST", f"{path}/approve", WHY)
    assert answer.status_code == 200, answer.text
    return answer.json()


def transactions_of(world: World, path: str) -> list[Any]:
    """What was recorded with the key of a proposal."""
    return world.rows(
        "SELECT t.id, t.principal_id, t.status FROM ledger.transactions t JOIN ledger.proposals p"
        " ON p.scope_id = t.account_id AND p.idempotency_key = t.idempotency_key"
        f" WHERE p.id = {path.rsplit('/', 1)[1]}"
    )


def principal(world: World, name: str) -> int:
    [(number,)] = world.rows(f"SELECT id FROM ledger.principals WHERE name = '{name}'")
    return int(number)


@contextmanager
def as_service(world: World) -> Iterator[Any]:
    """A connection with the rights of the service, whose own checks are taken away."""
    with world.database.owner_engine().begin() as connection:
        connection.execute(text("SET LOCAL ROLE ledgerservice"))
        yield connection


def decide(connection: Any, place: str, proposer: int, decider: int, verdict: str) -> None:
    connection.execute(
        text(
            "INSERT INTO ledger.decisions"
            " (ledger_id, proposal_id, proposed_by, decided_by, verdict, reason)"
            f" VALUES (1, {place.rsplit('/', 1)[1]}, {proposer}, {decider}, '{verdict}', 'r')"
        )
    )


def claim(connection: Any, place: str) -> None:
    number = place.rsplit("/", 1)[1]
    connection.execute(
        text(f"INSERT INTO ledger.executions (ledger_id, proposal_id) VALUES (1, {number})")
    )


PROPOSE = """
INSERT INTO ledger.proposals (ledger_id, proposed_by, expires_at, rule, approvals, operation,
                              scope_id, idempotency_key, body, digest)
SELECT ledger_id, 1, '2099-01-01', 'amount', 1, 'deposit', 1, 'k', '{"amount": "500"}', sha256('x')
FROM ledger.ledgers
ON CONFLICT DO NOTHING
"""
"""A proposal in each ledger, of somebody who has no key."""
