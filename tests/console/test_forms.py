"""Forms that are refused: those that do not come, and keys that others could read on their way."""

import asyncio
from collections.abc import Callable
from typing import Any

import httpx
import pytest
from starlette.requests import Request

from ledgerservice.api.asgi import Service
from ledgerservice.console import visits
from ledgerservice.postgres.connections import Database
from tests.access.made import make_key


@pytest.mark.parametrize("end", ["nothing more comes", "the client goes"])
def test_a_form_that_does_not_come_is_not_waited_for(
    monkeypatch: pytest.MonkeyPatch, end: str
) -> None:
    """Such forms need no key, and each would keep a connection."""
    parts = [{"type": "http.request", "body": b"key=", "more_body": True}]

    async def receive() -> dict[str, Any]:
        if parts:
            return parts.pop()
        if end == "the client goes":
            return {"type": "http.disconnect"}
        await asyncio.Event().wait()
        raise AssertionError

    headers = [(b"host", b"here"), (b"origin", b"http://here")]
    scope = {"type": "http", "method": "POST", "path": "/console/sign-in", "headers": headers}
    monkeypatch.setattr(visits, "FORM_S", 0.05)
    with pytest.raises(visits.FormError):
        asyncio.run(asyncio.wait_for(visits.form_of(Request(scope, receive)), 5))


NEAR, FAR = ("127.0.0.1", 1), ("192.0.2.7", 1)
PLACES: list[tuple[str, tuple[str, int], str]] = [
    ("http://127.0.0.1", NEAR, "ledger"),
    ("http://127.0.0.1", FAR, ""),
    ("http://192.0.2.1", NEAR, ""),
    ("http://192.0.2.1", FAR, ""),
    ("https://192.0.2.1", FAR, "__Host-ledger"),
]


def test_a_key_is_not_taken_off_this_machine_without_tls(
    new_database: Callable[..., Database],
) -> None:
    database = new_database(allowed_hosts="192.0.2.1")
    key = make_key(database, "reader")

    async def test() -> None:
        service = Service(database)
        await service.start()
        try:
            for base, client, cookie in PLACES:
                transport = httpx.ASGITransport(service, client=client)
                async with httpx.AsyncClient(transport=transport, base_url=base) as sent:
                    form = await sent.get("/console/sign-in")
                    assert ('type="password"' in form.text) == bool(cookie), (base, client)
                    answer = await sent.post(
                        "/console/sign-in", data={"key": key}, headers={"origin": base}
                    )
                    names = [one.partition("=")[0] for one in answer.headers.get_list("set-cookie")]
                    assert (answer.status_code, names) == (
                        (303, [cookie]) if cookie else (403, [])
                    ), (base, client)
                    assert bool(cookie) or "use https" in answer.text.lower()
        finally:
            await service.stop()

    asyncio.run(test())
