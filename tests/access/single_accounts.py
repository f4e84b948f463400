"""A service with a key that is limited to one of three accounts."""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx

from ledgerservice.access.scopes import ALL
from ledgerservice.postgres.access.principals import GrantedAccounts
from ledgerservice.postgres.connections import Database
from tests.access.made import bearer, make_key
from tests.databases import url_text
from tests.processes import RunningService, serving, wait_for

OURS, PAYEE, OUTSIDE, NONE = 1, 2, 3, 999
BALANCES = {OURS: "5000.00", PAYEE: "777.77", OUTSIDE: "4242.42"}
NUMBERS = iter(range(10**6))
HIDDEN = {"balance", "held", "held_change", "version"}


class World(NamedTuple):
    service: RunningService
    database: Database
    admin: dict[str, str]
    ours: dict[str, str]

    def send(self, who: dict[str, str], path: str, body: Any, method: str = "POST") -> Any:
        return self.service.client.request(method, path, json=body, headers=who)

    def get(self, who: dict[str, str], path: str) -> httpx.Response:
        return self.service.client.get(path, headers=who)


def limited_key(
    database: Database, name: str, limited_to: GrantedAccounts, scopes: int = int(ALL)
) -> str:
    return make_key(database, name, scopes, ledgers=["default"], limited_to=limited_to)


def worlds(new_database: Callable[..., Database]) -> Iterator[World]:
    """A service with three accounts, and the key of one."""
    database = new_database()
    admin = bearer(make_key(database, "admin"))
    with serving(DATABASE_URL=url_text(database)) as service:
        made = World(service, database, admin, {})
        for number, balance in BALANCES.items():
            said = "secret" if number == OUTSIDE else "open"
            opened = {"owner": said, "currency": "USD", "reference": f"{said} {number}"}
            assert made.send(admin, "/accounts", opened).json()["id"] == number
            funding = item(account_id=number, amount=balance, description=said)
            assert made.send(admin, "/deposit", funding).status_code == 200
        grant = GrantedAccounts([OURS], [OURS], [OURS, PAYEE], {"USD": "100.00"})
        made = made._replace(ours=bearer(limited_key(database, "ours", grant)))
        assert wait_for(lambda: made.get(made.ours, "/ledgers").status_code == 200)
        yield made


def item(**fields: Any) -> dict[str, Any]:
    return {"amount": "1.00", "idempotency_key": f"k{next(NUMBERS)}", **fields}


def pay(source: int, target: int, **fields: Any) -> dict[str, Any]:
    return item(from_account_id=source, to_account_id=target, **fields)


def legs(*amounts: tuple[int, str], **of_first: Any) -> dict[str, Any]:
    parts = [{"account_id": number, "amount": amount} for number, amount in amounts]
    return {"legs": [parts[0] | of_first, *parts[1:]], "idempotency_key": f"k{next(NUMBERS)}"}


LATER = {"execute_at": "2999-01-01T00:00:00Z"}


def everything(world: World) -> list[Any]:
    """All accounts and transactions."""
    return [world.get(world.admin, path).json() for path in ("/accounts", "/transactions")]


def hidden(entries: list[dict[str, Any]]) -> set[int]:
    """The accounts of entries that have nothing of the account after them."""
    return {one["account_id"] for one in entries if not HIDDEN & one.keys()}
