"""Forms that do not come."""

import asyncio
from typing import Any

import pytest
from starlette.requests import Request

from ledgerservice.console import visits


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
