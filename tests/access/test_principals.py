"""Who made what is written, through every door; and it is no part of a request."""

import asyncio
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import httpx
import pytest
from sqlalchemy.ext.asyncio import create_async_engine

from ledgerservice.domain.accounts import Opened
from ledgerservice.domain.instructions import Hold
from ledgerservice.errors import PrincipalUnknown
from ledgerservice.ledger import Ledger, deposit
from ledgerservice.postgres.connections import Database
from tests.access.made import bearer, make_key
from tests.databases import connect, url_text
from tests.processes import cli, serving

NUMBERS = {"one": 1, "other": 2}


class Place(NamedTuple):
    client: httpx.Client
    keys: dict[str, str]
    database: Database

    def send(self, name: str, path: str, body: Any, method: str = "POST") -> Any:
        headers = bearer(self.keys[name])
        answer = self.client.request(method, path, json=body, headers=headers)
        assert answer.status_code < 300, answer.text
        return answer.json()

    def get(self, path: str) -> Any:
        return self.client.get(path, headers=bearer(self.keys["one"])).json()


@pytest.fixture
def place(database: Database) -> Iterator[Place]:
    keys = {name: make_key(database, name) for name in NUMBERS}
    with serving(DATABASE_URL=url_text(database)) as service:
        yield Place(service.client, keys, database)


def principals(database: Database, table: str, which: str = "true") -> list[int]:
    with connect(database) as owner:
        rows = owner.execute(f"SELECT principal_id FROM ledger.{table} WHERE {which} ORDER BY 1")
        return [row[0] for row in rows]


def test_over_http(place: Place) -> None:
    one, other = (place.send(name, "/accounts", {"owner": "o", "currency": "USD"})
                  for name in NUMBERS)  # fmt: skip
    assert (one["principal_id"], other["principal_id"]) == (1, 2)
    assert [row["principal_id"] for row in place.get("/accounts")] == [1, 2]
    assert place.get(f"/accounts/{other['id']}")["principal_id"] == 2
    many = {"accounts": [{"owner": "p", "currency": "USD", "reference": "r"}]}
    [result] = place.send("other", "/accounts/batches", many)["results"]
    assert result["body"]["principal_id"] == 2

    funding = {"account_id": 1, "amount": "9", "idempotency_key": "d"}
    hold = {"account_id": 1, "amount": "2", "idempotency_key": "h"}
    first = place.send("one", "/deposit", funding)
    place.send("other", "/holds", hold)
    items = [{"type": "DEPOSIT", "account_id": 2, "amount": "1", "idempotency_key": "b"},
             {"linked": [{"type": "WITHDRAWAL", "account_id": 2, "amount": "1",
                          "idempotency_key": "l"}]}]  # fmt: skip
    place.send("other", "/batches", {"movements": items})
    atomic = [{"type": "DEPOSIT", "account_id": 2, "amount": "1", "idempotency_key": "a"}]
    place.send("one", "/batches", {"movements": atomic, "mode": "atomic"})
    listed = {row["idempotency_key"]: row["principal_id"] for row in place.get("/transactions")}
    assert listed == {"d": 1, "h": 2, "b": 2, "l": 2, "a": 1}
    assert place.get("/accounts/1/keys/h")["principal_id"] == 2

    # A repeat by another principal gets the original answer, and stays the first one's.
    assert place.send("other", "/deposit", funding) == first
    number = first["transaction_id"]
    assert place.get(f"/transactions/{number}")["principal_id"] == 1
    assert "principal_id" not in first  # answers that are stored stay as they are

    place.send("other", "/ledgers", {"name": "shop"})
    place.send("other", "/currencies", {"code": "PTS", "exponent": 0, "name": "Points"})
    place.send("one", "/currencies", {"code": "PTS", "exponent": 0, "name": "Points"})
    assert principals(place.database, "ledgers", "name = 'shop'") == [2]
    assert principals(place.database, "currencies", "code = 'PTS'") == [2]


@pytest.mark.parametrize("rows", [3, 600])
@pytest.mark.parametrize("is_plain", [True, False])
def test_batches_of_each_size_and_kind(place: Place, rows: int, is_plain: bool) -> None:
    """As rows of INSERT and of COPY; two principals in one batch keep their own."""
    account = place.send("one", "/accounts", {"owner": "o", "currency": "USD"})["id"]
    others = {} if is_plain else {"description": "d"}
    for name in NUMBERS:
        items = [{"type": "DEPOSIT", "account_id": account, "amount": "1",
                  "idempotency_key": f"{name} {n}", **others} for n in range(rows)]  # fmt: skip
        place.send(name, "/batches", {"movements": items})
    assert principals(place.database, "transactions") == [1] * rows + [2] * rows


def test_two_principals_in_one_batch_of_the_writer(place: Place) -> None:
    async def test() -> None:
        async with Ledger.open(url_text(place.database), principal="one") as one:
            opened = await one.open_account("o", "USD", key="k")
            assert isinstance(opened, Opened)
            account = opened.account_id
            other = Ledger(one._shards, principal_id=2)
            await asyncio.gather(*(
                ledger.post([deposit(account, 1, f"{n} {ledger._principal_id}")])
                for n in range(20) for ledger in (one, other)
            ))  # fmt: skip

    asyncio.run(test())
    assert principals(place.database, "transactions") == [1] * 20 + [2] * 20


def test_in_python_and_in_a_transaction_of_the_caller(place: Place) -> None:
    url = url_text(place.database)

    async def test() -> None:
        async with Ledger.open(url, principal="other") as ledger:
            opened = await ledger.open_account("o", "USD", key="k")
            assert isinstance(opened, Opened)
            account = opened.account_id
            await ledger.deposit(account, 5, key="d")
            engine = create_async_engine(place.database.url)
            async with engine.begin() as connection:
                await ledger.post_in(connection, [Hold(account, None, "1", "h")])
            await engine.dispose()
            inner = await ledger.add_ledger("inner")
            await inner.open_account("o", "USD", key="k")
            found = await ledger.transactions()
            assert {one.principal_id for one in found[0]} == {2}
        with pytest.raises(PrincipalUnknown):
            async with Ledger.open(url, principal="nobody"):
                pass
        async with Ledger.open(url) as ledger:
            await ledger.deposit(account, 5, key="by nobody")

    asyncio.run(test())
    assert principals(place.database, "transactions") == [0, 2, 2]
    assert principals(place.database, "accounts", "id > 0") == [2, 2]
    assert principals(place.database, "ledgers", "name = 'inner'") == [2]


def test_imports_and_exports(place: Place, tmp_path: Path) -> None:
    file, url = tmp_path / "rows.csv", url_text(place.database)
    file.write_text(
        "type,owner,currency,account_reference,amount,idempotency_key\n"
        "ACCOUNT,Ada,USD,ada,,\nDEPOSIT,,,ada,7,k1\n"
    )
    done = cli("import", str(file), "--principal", "other", DATABASE_URL=url)
    assert done.returncode == 0, done.stderr
    assert principals(place.database, "transactions") == [2]
    assert principals(place.database, "accounts", "id > 0") == [2]
    out = tmp_path / "out.ndjson"
    assert cli("export", str(out), DATABASE_URL=url).returncode == 0
    assert json.loads(out.read_text().splitlines()[0])["principal_id"] == 2
    unknown = cli("import", str(file), "--principal", "nobody", DATABASE_URL=url)
    assert unknown.returncode == 1 and "There is no such principal" in unknown.stderr


def test_a_history_is_its_importer_s(
    place: Place, new_database: Callable[..., Database], tmp_path: Path
) -> None:
    account = place.send("one", "/accounts", {"owner": "o", "currency": "USD"})["id"]
    funding = {"account_id": account, "amount": "9", "idempotency_key": "d"}
    place.send("one", "/deposit", funding)
    file, copy = tmp_path / "history.ndjson", new_database()
    source = url_text(place.database)
    assert cli("export", str(file), "--history", DATABASE_URL=source).returncode == 0
    make_key(copy, "first")
    make_key(copy, "importer")
    arguments = ("import", str(file), "--history", "--principal", "importer")
    done = cli(*arguments, DATABASE_URL=url_text(copy))
    assert done.returncode == 0, done.stderr
    assert principals(copy, "transactions") == principals(copy, "accounts", "id > 0") == [2]
