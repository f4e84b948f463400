"""The money routes have three doors with the same answers: straight from a connection (compared in
hostile/test_bytes.py), the ASGI function, and FastAPI's routes.
"""

import asyncio
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import httpx
import pytest
import uvicorn
from uvicorn.server import ServerState

from ledgerservice.access.grants import EVERYONE
from ledgerservice.api.asgi import Service
from ledgerservice.api.door import MoneyDoor
from ledgerservice.api.http.authentication import CALLER
from ledgerservice.api.http.protocol import BoundedHttp, Cycle, connections_of
from ledgerservice.api.movements.forms import MONEY_PATHS
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


TAKEN = {
    "a deposit",
    "a withdrawal",
    "a transfer",
    "a decline",
    "a key in the header",
    "a key reused",
    "an unknown account",
}
"""What is posted straight from a connection. Whatever is to be refused before is not among it."""


class CountingDoor:
    """A door that keeps what it has taken."""

    def __init__(self, door: MoneyDoor) -> None:
        self._door = door
        self.taken: list[bool] = []

    def take(self, cycle: Cycle) -> bool:
        self.taken.append(self._door.take(cycle))
        return self.taken[-1]


@asynccontextmanager
async def listening(database):
    """The port of a service, and its door."""
    service: Any = Service(database)
    await service.start()
    for number in (1, 2):
        await service.api.state.runtime.openings.post(Opening("o", "USD", None, str(number)))
    service.door = door = CountingDoor(service.door)
    http = partial(BoundedHttp, bounds=connections_of(database.settings))
    config: Any = uvicorn.Config(service, http=http, proxy_headers=False, log_config=None)  # type: ignore[arg-type]
    config.load()
    state = ServerState()
    server = await asyncio.get_running_loop().create_server(
        lambda: config.http_protocol_class(config=config, server_state=state, app_state={}),
        "127.0.0.1",
    )
    try:
        yield server.sockets[0].getsockname()[1], door
    finally:
        server.close()
        await service.stop()


async def sent(port: int, path: str, headers: dict[str, str], content: str | bytes) -> bytes:
    """The answer to a request that is sent in one packet."""
    body = content if isinstance(content, bytes) else content.encode()
    headers = {"Host": "localhost", "Connection": "close", **headers}
    headers = {"Content-Length": str(len(body)), **headers}
    lines = "".join(f"{name}: {value}\r\n" for name, value in headers.items())
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.write(f"POST {path} HTTP/1.1\r\n{lines}\r\n".encode() + body)
    answer = await reader.read()
    writer.close()
    return answer


def test_plain_movements_are_taken_from_the_connection(database):
    async def test() -> None:
        async with listening(database) as (port, door):
            for name, (path, headers, content) in REQUESTS.items():
                if name != "a declared length that lies":
                    door.taken.clear()
                    assert await sent(port, path, headers, content), name
                    assert any(door.taken) == (name in TAKEN), name
            door.taken.clear()
            path, headers, content = REQUESTS["a deposit"]
            for changed in (f"{path}?dry_run=true", f"{path}?dry_run=false", f"/x{path}"):
                assert await sent(port, changed, headers, content)
            assert await sent(port, path, {**headers, "Expect": "100-continue"}, content)
            assert not any(door.taken)

    asyncio.run(test())
