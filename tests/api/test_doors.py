"""The money routes have two doors, the ASGI function and FastAPI's routes: the same answers."""

import asyncio
from contextlib import asynccontextmanager

import httpx
import pytest

from ledgerservice.access.grants import EVERYONE
from ledgerservice.api.asgi import MONEY_PATHS, Service
from ledgerservice.api.http.authentication import CALLER
from ledgerservice.api.sending import PRIVATE
from ledgerservice.domain.accounts import Opening
from tests.api.hostile.movements import JSON, REQUESTS


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
