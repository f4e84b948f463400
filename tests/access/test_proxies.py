"""Trusted proxies: whom the service answers in plain text, and who the client is."""

import asyncio
import ipaddress
import socket
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from ledgerservice.api.asgi import Service
from ledgerservice.api.http.forwarding import Forwarding
from ledgerservice.postgres.connections import Database
from tests.access.made import bearer, make_key
from tests.databases import connect, url_text
from tests.processes import RunningService, cli, serving, wait_for

PROXIES = Forwarding([ipaddress.ip_network(one) for one in ("10.0.0.0/8", "fd00::/8")])
PROXY = "10.0.0.1"
FOR, BY_RFC, PROTO = "X-Forwarded-For", "Forwarded", "X-Forwarded-Proto"
INVALID = "forwarded_invalid"

# Who is connected, with which headers, and who the client is, or the code of the problem.
CASES: list[tuple[str, list[tuple[str, str]], str]] = [
    (PROXY, [], PROXY),
    (PROXY, [(FOR, "203.0.113.9")], "203.0.113.9"),
    ("fd00::1", [(FOR, "203.0.113.9")], "203.0.113.9"),
    ("::ffff:10.0.0.1", [(FOR, "203.0.113.9")], "203.0.113.9"),
    (PROXY, [(FOR, "203.0.113.9:4711")], "203.0.113.9"),
    (PROXY, [(FOR, "2001:db8::1")], "2001:db8::1"),
    (PROXY, [(FOR, "[2001:DB8:0::1]")], "2001:db8::1"),
    (PROXY, [(FOR, "[2001:db8::1]:4711")], "2001:db8::1"),
    (PROXY, [(FOR, "::ffff:203.0.113.9")], "203.0.113.9"),
    # What the client wrote stands at the left of what the proxies have added.
    (PROXY, [(FOR, "127.0.0.1, 203.0.113.9")], "203.0.113.9"),
    (PROXY, [(FOR, "10.0.0.7, 203.0.113.9")], "203.0.113.9"),
    (PROXY, [(FOR, "evil' OR 1=1, 203.0.113.9, 10.2.3.4")], "203.0.113.9"),
    (PROXY, [(FOR, "127.0.0.1"), (FOR, "203.0.113.9")], "203.0.113.9"),
    (PROXY, [(FOR, "203.0.113.9"), (FOR, "10.2.3.4")], "203.0.113.9"),
    (PROXY, [(FOR, "10.0.0.9, 10.2.3.4")], "10.0.0.9"),
    (PROXY, [(FOR, "127.0.0.1")], "127.0.0.1"),
    *((PROXY, [(FOR, text)], INVALID)
      for text in ("", " ", "unknown", "_hidden", "localhost", "203.0.113.9,", "1.1.1.1 10.0.0.1",
                   "203.0.113.9, unknown, 10.0.0.1", "0x7f.1", "010.0.0.1", "203.0.113", "[::1",
                   "::1]",
                   "[203.0.113.9", "203.0.113.9:port", "203.0.113.9:123456", "fe80::1%eth0",
                   "203.0.113.9\u00a0", "203.0.113.9;10.0.0.1", "1" * 5_000)),
    (PROXY, [(BY_RFC, "for=203.0.113.9")], "203.0.113.9"),
    (PROXY, [(BY_RFC, 'For="[2001:db8::1]:4711";proto=https;by=10.0.0.1')], "2001:db8::1"),
    (PROXY, [(BY_RFC, 'for=127.0.0.1, for=203.0.113.9;host="a,b;for=1.2.3.4"')], "203.0.113.9"),
    (PROXY, [(BY_RFC, "for=127.0.0.1"), (BY_RFC, "for=203.0.113.9, for=10.1.1.1")],
     "203.0.113.9"),
    *((PROXY, [(BY_RFC, text)], INVALID)
      for text in ("", "for", "for=", "for=unknown", "for=_gazonk", "proto=https",
                   "for=203.0.113.9,",
                   'for="203.0.113.9', "for=203.0.113.9;for=10.1.1.1", "for=[2001:db8::1]",
                   "for=203.0.113.9; for=10.1.1.1", "for=203.0.113.9, proto=https",
                   'for="203.0.113.9\\"', "for=203.0.113.9;proto=ftp", "," * 60_000)),
    # A proxy sets one of the two, and sends on what the client has written into the other.
    (PROXY, [(FOR, "203.0.113.9"), (BY_RFC, "for=203.0.113.9")], "203.0.113.9"),
    (PROXY, [(FOR, "203.0.113.9"), (BY_RFC, "for=198.51.100.1")], INVALID),
    (PROXY, [(FOR, "198.51.100.1"), (BY_RFC, "for=203.0.113.9")], INVALID),
    (PROXY, [(FOR, "203.0.113.9"), (BY_RFC, "secret=1")], INVALID),
    (PROXY, [(FOR, "203.0.113.9"), (PROTO, "ftp")], INVALID),
    (PROXY, [(FOR, "203.0.113.9"), (PROTO, "https, http")], INVALID),
    (PROXY, [(FOR, "203.0.113.9"), (PROTO, "http"), (PROTO, "https")], INVALID),
    # Other names are nobody's.
    (PROXY, [("X_Forwarded_For", "127.0.0.1"), ("X-Real-IP", "127.0.0.1")], PROXY),
    *((other, [(FOR, "127.0.0.1")], "proxy_required")
      for other in ("203.0.113.9", "127.0.0.1", "11.0.0.1", "::1", "fe80::1%eth0", "", "client")),
]  # fmt: skip


def scope_of(client: str, headers: list[tuple[str, str]], scheme: str = "http") -> dict[str, Any]:
    raw = [(name.lower().encode(), value.encode("latin-1")) for name, value in headers]
    return {"client": (client, 1), "headers": raw, "scheme": scheme, "path": "/accounts"}


@pytest.mark.parametrize(("connected", "headers", "outcome"), CASES)
def test_who_the_client_is(connected: str, headers: list[tuple[str, str]], outcome: str) -> None:
    scope = scope_of(connected, headers)
    assert (PROXIES.fault(scope) or scope["client"][0]) == outcome


def test_the_scheme_is_the_proxys() -> None:
    for scheme in ("https", "HTTPS", "http"):
        scope = scope_of(PROXY, [(FOR, "203.0.113.9"), (PROTO, scheme)])
        assert PROXIES.fault(scope) is None and scope["scheme"] == scheme.lower()
    scope = scope_of(PROXY, [(BY_RFC, "for=203.0.113.9;proto=https")])
    assert PROXIES.fault(scope) is None and scope["scheme"] == "https"


def test_over_tls_others_are_answered_and_not_believed() -> None:
    scope = scope_of("203.0.113.9", [(FOR, "127.0.0.1"), (PROTO, "http")], "https")
    assert PROXIES.fault(scope) is None
    assert (scope["client"][0], scope["scheme"]) == ("203.0.113.9", "https")


def test_without_proxies_nobody_is_believed() -> None:
    scope = scope_of(PROXY, [(FOR, "127.0.0.1")])
    assert Forwarding(()).fault(scope) is None and scope["client"][0] == PROXY


@pytest.fixture
def service(database: Database) -> Iterator[tuple[RunningService, Database]]:
    """Behind a proxy on this machine, at 127.0.0.1; nobody else is one."""
    values = {"DATABASE_URL": url_text(database), "LEDGER_TRUSTED_PROXIES": "127.0.0.1, ::1"}
    with serving(**values) as running:
        yield running, database


def sources(database: Database) -> set[str]:
    with connect(database) as owner:
        return {row[0] for row in owner.execute("SELECT source FROM ledger.audit").fetchall()}


def test_the_audit_log_names_the_client(service: tuple[RunningService, Database]) -> None:
    running, database = service
    key = make_key(database, "shop")
    sent = bearer(key) | {FOR: "127.0.0.1, 203.0.113.9"}
    for _ in range(100):
        if running.client.get("/audit", headers=sent).status_code == 200:
            break
    assert running.client.get("/accounts", headers={FOR: "203.0.113.10"}).status_code == 401
    named = {"203.0.113.9", "203.0.113.10"}
    assert wait_for(lambda: sources(database) >= named)  # refusals are written every second
    assert "127.0.0.1" not in sources(database)


def test_others_are_refused_in_plain_text(service: tuple[RunningService, Database]) -> None:
    """A client of another address of this machine; its head is answered, and then nobody's."""
    running, _ = service
    place = running.base.removeprefix("http://").split(":")
    answer = from_address("127.0.0.2", int(place[1]), "/accounts")
    assert answer.startswith(b"HTTP/1.1 403 ") and b'"proxy_required"' in answer
    assert from_address("127.0.0.2", int(place[1]), "/health/live").startswith(b"HTTP/1.1 200 ")


def from_address(source: str, port: int, path: str) -> bytes:
    with socket.create_connection(("127.0.0.1", port), 10, (source, 0)) as sent:
        head = f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n"
        sent.sendall(head.encode())
        return b"".join(iter(lambda: sent.recv(65_536), b""))


def test_without_keys_a_proxy_does_not_make_a_client_local(
    new_database: Callable[..., Database],
) -> None:
    async def test() -> None:
        service = Service(new_database(trusted_proxies="10.0.0.1"))
        await service.start()
        transport = httpx.ASGITransport(service, client=("10.0.0.1", 1))
        async with httpx.AsyncClient(transport=transport, base_url="http://127.0.0.1") as client:
            for address in ("127.0.0.1", "::1", "203.0.113.9"):
                answer = await client.get("/accounts", headers={FOR: address})
                assert answer.status_code == 403
        await service.stop()

    asyncio.run(test())


STARTS = [
    ("10.0.0.1", "keys create NAME --role admin`"),  # it gets as far as the keys
    ("10.0.0.1/8", "host bits"),
    ("*", "LEDGER_TRUSTED_PROXIES"),
    ("proxy.example", "LEDGER_TRUSTED_PROXIES"),
    (" ", "LEDGER_TRUSTED_PROXIES"),
]


@pytest.mark.parametrize(("value", "text"), STARTS)
def test_what_serve_starts_with(database: Database, value: str, text: str) -> None:
    options = ("--host", "0.0.0.0", "--port", "0")
    values = {"DATABASE_URL": url_text(database), "LEDGER_TRUSTED_PROXIES": value}
    done = cli("serve", *options, **values)
    assert done.returncode == 1
    assert text in done.stderr and "Traceback" not in done.stderr


def test_a_command_in_the_database_needs_no_proxy(database: Database) -> None:
    values = {"DATABASE_URL": url_text(database), "LEDGER_TRUSTED_PROXIES": "10.0.0.1"}
    done = cli("accounts", "--json", **values)
    assert (done.returncode, done.stdout.strip()) == (0, "[]")
