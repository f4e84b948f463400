"""`GET /me`: what a caller learns of itself, and of nobody else."""

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest

from ledgerservice.access.keys import id_of
from ledgerservice.access.scopes import NAMES, SETS
from ledgerservice.access.signatures import public_key_of
from ledgerservice.postgres.access.principals import GrantedAccounts
from ledgerservice.postgres.connections import Database
from tests.access.made import add_ledger, alter_key, bearer, make_key
from tests.access.signing import new_key, signed
from tests.databases import url_text
from tests.processes import RunningService, serving, wait_for

NO_LIMITS = dict.fromkeys(("rate", "burst", "queue_share", "streams", "body_bytes_s"))


class World(NamedTuple):
    service: RunningService
    database: Database
    before: Any
    """What was answered before there was a key."""
    first: str


@pytest.fixture(scope="module")
def world(new_database: Callable[..., Database]) -> Iterator[World]:
    database = new_database()
    add_ledger(database, "shop")
    with serving(DATABASE_URL=url_text(database), LEDGER_KEY_STREAMS="7") as service:
        before = service.get("/me").json()
        for _ in range(3):
            service.open("Alice")
        first = make_key(database, "first")
        wait_for(lambda: service.get("/me").status_code == 401)
        yield World(service, database, before, first)


def answer(world: World, key: str, prefix: str = "") -> Any:
    """What a new key is answered, which the service gets to know within a second."""

    def ask() -> httpx.Response:
        return world.service.client.get(f"{prefix}/me", headers=bearer(key))

    assert wait_for(lambda: ask().status_code == 200)
    return ask().json()


def test_an_open_service_says_so(world: World) -> None:
    assert (world.before["kind"], world.before["principal_id"]) == ("open", 0)
    assert world.before["scopes"] == list(NAMES)
    assert (world.before["key_id"], world.before["expires_at"]) == (None, None)
    assert world.before["limits"] == NO_LIMITS


def test_a_key_on_all_ledgers(world: World) -> None:
    key = make_key(world.database, "auditor", int(SETS["auditor"]))
    body = answer(world, key)
    assert (body["kind"], body["principal"]) == ("key", "auditor")
    assert (body["key_id"], body["is_signed"], body["issuer"]) == (id_of(key), False, None)
    assert body["scopes"] == [name for name, one in NAMES.items() if one & SETS["auditor"]]
    assert (body["ledgers"], body["accounts"]) == ({}, [])
    left = datetime.fromisoformat(body["expires_at"]) - datetime.now(UTC)
    assert timedelta(days=89) < left <= timedelta(days=90)
    assert key not in str(body)


def test_a_key_of_one_ledger(world: World) -> None:
    scopes = NAMES["deposit"] | NAMES["accounts:read"]
    key = make_key(world.database, "till", int(scopes), ["shop"])
    for prefix in ("", "/ledgers/shop"):
        body = answer(world, key, prefix)
        assert body["scopes"] == []
        assert body["ledgers"] == {"shop": ["accounts:read", "deposit"]}
    refused = world.service.client.get("/ledgers/default/me", headers=bearer(key))
    assert (refused.status_code, refused.json()["code"]) == (404, "ledger_not_found")


def test_a_key_of_single_accounts(world: World) -> None:
    limited = GrantedAccounts([1], debit_from=[1], credit_to=[1, 2], max_amounts={"USD": "10.00"})
    key = make_key(world.database, "one", int(NAMES["transfer"]), ["default"], None, limited)
    body = answer(world, key)
    assert (body["scopes"], body["ledgers"]) == ([], {})
    assert body["accounts"] == [
        {
            "ledger": "default",
            "scopes": ["transfer"],
            "owner": None,
            "accounts": [1],
            "debit_from": [1],
            "credit_to": [1, 2],
            "max_amounts": {"USD": "10.00"},
        }
    ]


def test_the_limits_are_those_in_force(world: World) -> None:
    """Those of the key, and of the settings where it has none."""
    key = alter_key(world.database, make_key(world.database, "slow"), "rate = 500, burst = 900")
    own = {"rate": 500.0, "burst": 900, "streams": 7, "queue_share": 0.5}
    assert wait_for(lambda: answer(world, key)["limits"] == NO_LIMITS | own)


def test_a_key_that_signs(world: World, tmp_path: Path) -> None:
    private = new_key(tmp_path, "signer")
    public = public_key_of(private.with_suffix(".pem").read_bytes())
    key = make_key(world.database, "signer", public_key=public)
    url = f"{world.service.base}/me"

    def ask() -> httpx.Response:
        sent = signed(private, key, url)
        return world.service.client.get(url, headers=sent.headers)

    assert wait_for(lambda: ask().status_code == 200)
    assert ask().json()["is_signed"] is True
    assert world.service.client.get(url, headers=bearer(key)).status_code == 401
