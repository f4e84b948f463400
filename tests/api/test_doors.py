"""The money routes have two doors, the ASGI function and FastAPI's routes: the same answers."""

import asyncio
import json
from contextlib import asynccontextmanager

import httpx
import pytest

from ledgerservice.access.grants import EVERYONE
from ledgerservice.api.asgi import MONEY_PATHS, Service
from ledgerservice.api.http.authentication import CALLER
from ledgerservice.api.sending import PRIVATE
from ledgerservice.domain.accounts import Opening

JSON = {"Content-Type": "application/json"}
GOOD = {"account_id": 1, "amount": "5.00", "idempotency_key": "k"}
MOVE = {"from_account_id": 1, "to_account_id": 2, "amount": 1, "idempotency_key": "t"}

REQUESTS = {
    "a deposit": ("/deposit/", JSON, json.dumps(GOOD)),
    "a withdrawal": ("/withdraw", JSON, json.dumps(GOOD | {"idempotency_key": "w"})),
    "a transfer": ("/transfer/", JSON, json.dumps(MOVE)),
    "a decline": ("/withdraw/", JSON, json.dumps(GOOD | {"amount": 10**6, "idempotency_key": "x"})),
    "a key in the header": (
        "/deposit",
        {**JSON, "Idempotency-Key": "h"},
        '{"account_id": 1, "amount": 5}',
    ),
    "two keys": ("/deposit/", {**JSON, "Idempotency-Key": "h"}, json.dumps(GOOD)),
    "a key reused": ("/deposit/", JSON, json.dumps(GOOD | {"amount": 6})),
    "no key": ("/deposit/", JSON, '{"account_id": 1, "amount": 5}'),
    "an unknown account": ("/deposit/", JSON, json.dumps(GOOD | {"account_id": 77})),
    "no body": ("/deposit/", JSON, ""),
    "not JSON": ("/transfer", JSON, "{"),
    "no number": ("/transfer", JSON, '{"from_account_id": NaN}'),
    "a field twice": ("/deposit", JSON, '{"account_id": 1, "account_id": 1}'),
    "an unknown field": ("/deposit", JSON, json.dumps(GOOD | {"x": 1})),
    "deep nesting": ("/deposit", JSON, "[" * 30_000),
    "not UTF-8": ("/deposit", JSON, b"\xff\xfe"),
    "too large": ("/deposit", JSON, "x" * 65_537),
    "another media type": ("/deposit", {"Content-Type": "text/plain"}, json.dumps(GOOD)),
    "no media type": ("/deposit", {}, json.dumps(GOOD).encode()),
    "a declared length that lies": ("/deposit", {**JSON, "Content-Length": "99999999"}, "{}"),
}


@asynccontextmanager
async def both_doors(database):
    """Clients of the whole service and of FastAPI behind it, on one runtime."""
    service = Service(database)
    await service.start()
    for number in (1, 2):
        await service.api.state.runtime.openings.post(Opening("o", "USD", None, str(number)))

    async def framework(scope, receive, send) -> None:
        await service.api({**scope, CALLER: EVERYONE}, receive, send)

    doors = [httpx.ASGITransport(app=app) for app in (service, framework)]
    clients = [httpx.AsyncClient(transport=door, base_url="http://localhost") for door in doors]
    try:
        yield clients
    finally:
        await service.stop()


def test_both_doors_give_the_same_answers(database):
    async def test() -> None:
        async with both_doors(database) as clients:
            for name, (path, headers, content) in REQUESTS.items():
                # Each door comes first once: the repeat is a replay where there is a record.
                first, second = clients
                clients.reverse()
                one = await first.post(path, headers=headers, content=content)
                two = await second.post(path, headers=headers, content=content)
                again = await first.post(path, headers=headers, content=content)
                assert one.content == two.content == again.content, name
                assert one.status_code == two.status_code, name
                assert headers_of(two) == headers_of(again), name
                fresh = {k: v for k, v in headers_of(two).items() if k != "idempotency-replayed"}
                assert headers_of(one) == fresh, name

    asyncio.run(test())


def headers_of(answer: httpx.Response) -> dict[str, str]:
    """Without those that the service adds to what FastAPI answers."""
    added = {name.decode() for name, _ in PRIVATE} | {"x-request-id"}
    return {name: value for name, value in answer.headers.items() if name not in added}


@pytest.mark.parametrize("path", MONEY_PATHS)
def test_both_doors_know_every_money_path(database, path):
    """FastAPI's routes are a second way to the same handler, and what /docs shows."""

    async def test() -> None:
        async with both_doors(database) as (whole, framework):
            for client in (whole, framework):
                assert (await client.get(path)).status_code == 405
                assert (await client.post(path, headers=JSON, content="{}")).status_code == 422

    asyncio.run(test())
