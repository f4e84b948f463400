"""Signing in with a code, while the provider cannot be read."""

import asyncio

import pytest

from ledgerservice.access.oidc import codes
from ledgerservice.access.oidc.codes import SignInProvider
from ledgerservice.errors import SignInFailed
from tests.databases import settings_for_tests
from tests.processes import free_port


async def connections(attempts: int) -> int:
    """How many connections a provider that hangs up gets from people who sign in at once, and
    from as many afterwards.
    """
    seen = 0

    def hang_up(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal seen
        seen += 1
        writer.close()

    port = free_port()
    values = {"oidc_issuer": f"http://127.0.0.1:{port}", "oidc_audience": "ledger"}
    provider = SignInProvider(settings_for_tests(console_oidc_client_id="console", **values))
    async with await asyncio.start_server(hang_up, "127.0.0.1", port):
        for _ in range(2):
            places = (provider.place("https://a/b", "s", "n", "v") for _ in range(attempts))
            outcomes = await asyncio.gather(*places, return_exceptions=True)
            assert [type(one) for one in outcomes] == [SignInFailed] * attempts
    return seen


def test_a_provider_that_is_away_is_not_asked_for_each_person() -> None:
    assert asyncio.run(connections(20)) == 1


def test_it_is_asked_again_later(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(codes, "MIN_REFRESH_S", 0)
    assert asyncio.run(connections(1)) == 2
