"""What a key costs: the layer alone, and the money route with and without a key, in turns.

    python benchmarks/access.py

The layer is called as the server calls it, with the headers of a usual client. The route is called
as an ASGI application too, by 64 clients at once, on two databases of one server: one has a key.
"""

import asyncio
import statistics
import time
from collections.abc import Callable
from typing import Any

import psycopg

import servers
from ledgerservice.access import keys
from ledgerservice.access.grants import Caller, Need
from ledgerservice.access.meters import Meter
from ledgerservice.access.registry import Registry
from ledgerservice.access.rulebook import Rulebook
from ledgerservice.access.scopes import ALL, Scope
from ledgerservice.access.signatures import Signatures
from ledgerservice.api.asgi import Service, _authenticate
from ledgerservice.api.http.authentication import CALLER, Authentication, authorize
from ledgerservice.embedded.server import EmbeddedServer
from ledgerservice.postgres.access.limits import KeyLimits
from ledgerservice.postgres.sharding.directory import Directory
from ledgerservice.runtime import prepared

CALLS, ROUNDS = 200_000, 6
TRANSFERS, CLIENTS = 10_000, 64
WITHOUT, WITH = "without keys", "with a key"
HEADERS = [
    (b"host", b"127.0.0.1:8000"),
    (b"accept", b"*/*"),
    (b"accept-encoding", b"gzip, deflate"),
    (b"connection", b"keep-alive"),
    (b"user-agent", b"python-httpx/0.28.1"),
    (b"content-length", b"74"),
    (b"content-type", b"application/json"),
]


class _State:
    authentication: Authentication


def _nothing(*_: Any) -> Any:
    return None


def _layer(key: bytes | None) -> float:
    """Microseconds a request: the layer, and the check of the route's scope."""
    registry = Registry(_nothing, Rulebook(), Directory())
    registry.has_keys = key is not None
    registry._fresh_until = time.monotonic() + 3_600  # noqa: SLF001
    limits = KeyLimits(1e9, 10**9, 0.5, 100, 10**12)
    caller = Caller("k", 1, int(ALL), meter=Meter(limits, 10_000))
    headers = list(HEADERS)
    if key is not None:
        registry._callers = {keys.digest_of(key): caller}  # noqa: SLF001
        headers.insert(1, (b"authorization", b"Bearer " + key))
    state = _State()
    state.authentication = Authentication(registry, Signatures(60), is_open=False, is_trusted=False)
    layer: Callable[..., Any] = _authenticate(_nothing, state)  # type: ignore[arg-type]
    need = Need(Scope.TRANSFER)
    place = ("127.0.0.1", 8000)
    scope: dict[str, Any] = {"headers": headers, "server": place, "client": place}
    begun = time.perf_counter()
    for _ in range(CALLS):
        layer(scope, None, None)
        authorize(scope[CALLER], 1, need)
    both = time.perf_counter() - begun
    begun = time.perf_counter()
    for _ in range(CALLS):
        _nothing(scope, None, None)
    return (both - time.perf_counter() + begun) / CALLS * 1e6


async def _transfers(service: Service, key: str | None, run: str) -> float:
    """Transfers a second through the money route."""
    headers = [*HEADERS]
    if key is not None:
        headers.insert(1, (b"authorization", f"Bearer {key}".encode()))

    async def one(number: int) -> None:
        key = f"{run} {number}"
        body = b'{"from_account_id":1,"to_account_id":2,"amount":"1","idempotency_key":"%b"}'
        content = body % key.encode()
        sent = [name for name in headers if name[0] != b"content-length"]
        sent.append((b"content-length", str(len(content)).encode()))
        answers: list[Any] = []

        async def receive() -> dict[str, Any]:
            return {"type": "http.request", "body": content, "more_body": False}

        async def send(message: Any) -> None:
            answers.append(message)

        await service(_scope(sent), receive, send)
        assert answers[0]["status"] == 200, answers

    async def client(first: int) -> None:
        for number in range(first, TRANSFERS, CLIENTS):
            await one(number)

    begun = time.perf_counter()
    await asyncio.gather(*map(client, range(CLIENTS)))
    return TRANSFERS / (time.perf_counter() - begun)


def _scope(headers: list[tuple[bytes, bytes]]) -> dict[str, Any]:
    place = ("127.0.0.1", 8000)
    return {
        "type": "http", "method": "POST", "path": "/transfer", "raw_path": b"/transfer",
        "query_string": b"", "http_version": "1.1", "headers": headers, "server": place,
        "client": place, "root_path": "", "scheme": "http",
    }  # fmt: skip


async def _routes(urls: dict[str, str]) -> None:
    services: dict[str, Service] = {}
    sent: dict[str, str | None] = {}
    for name, url in urls.items():
        database = prepared(servers.as_database(url))
        sent[name] = servers.make_key(url) if name == WITH else None
        services[name] = Service(database)
        await services[name].start()
    figures: dict[str, list[float]] = {name: [] for name in urls}
    for number in range(ROUNDS):
        turns = [*services] if number % 2 else [*reversed(services)]
        for name in turns:
            rate = await _transfers(services[name], sent[name], f"{number}")
            figures[name].append(rate)
    for name, rates in figures.items():
        print(f"transfers, {name}: {statistics.median(rates):,.0f}/s")
    ratios = [keyed / free for free, keyed in zip(*figures.values(), strict=True)]
    print(f"with a key / without: {statistics.median(ratios):.3f}")
    for service in services.values():
        await service.stop()


def main() -> None:
    """Print the figures."""
    key = keys.make().text.encode()
    for name, sent in ((WITHOUT, None), (WITH, key)):
        figures = [_layer(sent) for _ in range(ROUNDS)]
        print(f"layer and scope, {name}: {statistics.median(figures):.2f} us")
    with servers.workplace() as folder, EmbeddedServer(folder / "data") as server:
        urls = {WITHOUT: server.url}
        with psycopg.connect(server.url, autocommit=True) as connection:
            connection.execute("CREATE DATABASE keyed")
        urls[WITH] = servers.other_database(server.url, "keyed")
        for url in urls.values():
            servers.fund_ledger(url, 2)
        asyncio.run(_routes(urls))


if __name__ == "__main__":
    main()
