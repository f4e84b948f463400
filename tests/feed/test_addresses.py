"""Where requests may go: no URL leads to an address that is not public, at any time."""

import asyncio
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from ledgerservice.api.asgi import Service
from ledgerservice.feed.webhooks import addresses
from ledgerservice.feed.webhooks.addresses import (
    LEDGER,
    RESOLVERS,
    Guard,
    HostUnknown,
    Resolver,
    UrlRefused,
    is_public,
    parsed,
)
from ledgerservice.feed.webhooks.schedule import LONGEST_S, Schedule
from ledgerservice.feed.webhooks.sending import Sender
from ledgerservice.feed.webhooks.signing import new_secret
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.webhooks import utc_now
from ledgerservice.runtime import prepared
from tests.access.made import add_ledger
from tests.databases import settings_for_tests
from tests.feed.receiver import receiving
from tests.processes import environment

NOT_PUBLIC = (
    "127.0.0.1",
    "127.255.255.254",
    "0.0.0.0",
    "10.0.0.1",
    "172.16.0.1",
    "192.168.1.1",
    "100.64.0.1",
    "100.100.100.200",
    "169.254.169.254",
    "168.63.129.16",
    "192.0.0.192",
    "192.0.2.1",
    "192.88.99.1",
    "198.18.0.1",
    "224.0.0.1",
    "239.255.255.255",
    "240.0.0.1",
    "255.255.255.255",
    "::",
    "::1",
    "::127.0.0.1",
    "::ffff:127.0.0.1",
    "::ffff:169.254.169.254",
    "::ffff:0:127.0.0.1",
    "fe80::1",
    "fe80::1%eth0",
    "fec0::1",
    "fc00::1",
    "fd00:ec2::254",
    "ff02::1",
    "64:ff9b::7f00:1",
    "64:ff9b::a9fe:a9fe",
    "64:ff9b:1::a00:1",
    "2001::1",
    "2001:db8::1",
    "2002:7f00:1::",
    "2002:a9fe:a9fe::1",
    "3fff::1",
    "100::1",
    "5f00::1",
)
PUBLIC = ("93.184.216.34", "8.8.8.8", "::ffff:8.8.8.8", "64:ff9b::808:808", "2606:4700::1111")


@pytest.mark.parametrize("address", NOT_PUBLIC)
def test_not_public(address):
    assert not is_public(address)


@pytest.mark.parametrize("address", PUBLIC)
def test_public(address):
    assert is_public(address)


# What the system's resolver, or the URL's parser, takes for an address of this machine or network.
DISGUISED = (
    "https://127.0.0.1/",
    "https://127.1/",
    "https://0x7f.1/",
    "https://0x7f000001/",
    "https://2130706433/",
    "https://017700000001/",
    "https://0177.0.0.1/",
    "https://0/",
    "https://0.0.0.0:8000/",
    "https://2852039166/latest/meta-data",
    "https://169.254.169.254/latest/meta-data",
    "https://[::1]/",
    "https://[::]/",
    "https://[::ffff:127.0.0.1]/",
    "https://[::ffff:7f00:1]/",
    "https://[0:0:0:0:0:ffff:a9fe:a9fe]/",
    "https://[64:ff9b::7f00:1]/",
    "https://[2002:7f00:1::]/",
    "https://[fe80::1]/",
    "https://localhost/",
    "https://LOCALHOST./",
)
MALFORMED = (
    "ftp://example.com/",
    "file:///etc/passwd",
    "gopher://example.com/",
    "//example.com/",
    "example.com",
    "https://",
    "https:///path",
    "https://user@8.8.8.8/",
    "https://user:password@8.8.8.8/",
    "https://@8.8.8.8/",
    "https://8.8.8.8\\@127.0.0.1/",
    "https://8.8.8.8/#fragment",
    "https://8.8.8.8 /",
    "https://8.8.8.8/\r\nHost: x",
    "https://8.8.8.8:0/",
    "https://8.8.8.8:99999/",
    "https://[::1/",
    "https://\u24db\u24de\u24d2al\u24d7ost/",
    "https://8.8.8.8/" + "a" * 2_048,
)


def check(url: str, guard: Guard) -> str | None:
    """Why a URL is refused; None if it is not."""
    try:
        asyncio.run(guard.check(url))
    except UrlRefused as refused:
        return refused.detail
    return None


@pytest.mark.parametrize("url", DISGUISED)
def test_a_url_that_leads_inside_is_refused(url):
    assert check(url, Guard(settings_for_tests())) in {
        "Its host has an address that is not public.",
        "Its host has no address.",
        "It is not a valid URL.",
    }


def test_most_of_these_are_addresses_and_not_unknown_names():
    """The canary of the test above: without the check of addresses it would let them pass."""
    private = Guard(settings_for_tests(webhooks_private=True))
    passed = [url for url in DISGUISED if check(url, private) is None]
    assert len(passed) > len(DISGUISED) - 4


@pytest.mark.parametrize("url", MALFORMED)
def test_a_url_that_is_not_plain_is_refused(url):
    assert check(url, Guard(settings_for_tests(webhooks_private=True))) is not None


async def _public(_host: str, _port: int) -> list[str]:
    return ["93.184.216.34"]


async def _mixed(_host: str, _port: int) -> list[str]:
    return ["93.184.216.34", "10.0.0.1"]


async def _unknown(_host: str, _port: int) -> list[str]:
    raise OSError


async def _never(_host: str, _port: int) -> list[str]:
    raise TimeoutError


RULES = [
    # resolver, settings, URL, what is said
    (_public, {}, "https://a.example/", None),
    (_public, {}, "https://a.example:8443/", None),
    (_public, {}, "http://a.example/", "It must begin with https://."),
    (_public, {"webhooks_plaintext": True}, "http://a.example/", None),
    (_mixed, {}, "https://a.example/", "Its host has an address that is not public."),
    (_mixed, {"webhooks_private": True}, "https://a.example/", None),
    (_mixed, {"webhooks_private": True}, "http://a.example/", "It must begin with https://."),
    (_unknown, {}, "https://a.example/", "Its host has no address."),
    (_never, {}, "https://a.example/", "Its host has no address."),
    (Resolver(), {"webhooks_private": True}, "http://127.0.0.1:9/", None),
    (Resolver(), {"webhooks_plaintext": True}, "http://127.0.0.1:9/",
     "Its host has an address that is not public."),
]  # fmt: skip


@pytest.mark.parametrize(("resolver", "settings", "url", "said"), RULES)
def test_the_settings_decide(resolver, settings, url, said):
    assert check(url, Guard(settings_for_tests(**settings), resolver)) == said


def send_after_rebinding(port: int) -> str | None:
    """A name that has a public address when it is checked, and one of this machine afterwards."""
    answers = iter(["93.184.216.34"])

    async def rebinding(_host: str, _port: int) -> list[str]:
        return [next(answers, "127.0.0.1")]

    async def run() -> str | None:
        sender = Sender(Guard(settings_for_tests(webhooks_plaintext=True), rebinding), 5)
        url = f"http://rebinding.example:{port}/"
        await sender.check(url)
        attempt = await sender.send(url, [new_secret("v1")], "1-1", b"{}")
        await sender.close()
        return attempt.error

    return asyncio.run(run())


def test_a_name_that_changes_its_address_leads_nowhere(tmp_path: Path) -> None:
    with receiving(tmp_path) as receiver:
        assert send_after_rebinding(receiver.port) == "address_refused"
        assert receiver.got() == []


def test_without_the_check_by_the_connection_it_would_arrive(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The canary of the test above: what a check at the registration alone lets through."""

    async def unchecked(self: Guard, _scheme: str, host: str, port: int) -> list[str]:
        return await self._resolve(host, port)

    monkeypatch.setattr(Guard, "addresses_of", unchecked)
    with receiving(tmp_path) as receiver:
        assert send_after_rebinding(receiver.port) is None
        assert len(receiver.got()) == 1


def test_no_proxy_of_the_environment_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with receiving(tmp_path) as receiver:
        for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "all_proxy"):
            monkeypatch.setenv(name, f"http://127.0.0.1:{receiver.port}")

        async def run() -> str | None:
            sender = Sender(Guard(settings_for_tests(webhooks_private=True)), 1)
            attempt = await sender.send("http://127.0.0.1:9/", [], "1-1", b"{}")
            await sender.close()
            return attempt.error

        assert asyncio.run(run()) == "connect_failed"
        assert receiver.got() == []


def test_the_parser_keeps_what_is_sent():
    assert parsed("https://example.com/a%2Fb?c=d").raw_path == b"/a%2Fb?c=d"


def test_the_schedule_grows_for_three_days():
    """The delays from a first failure to the last attempt, with a clock that the test moves."""
    failed_at = now = utc_now()
    schedule, delays = Schedule.of(settings_for_tests()), []
    for attempts in range(1, 100):
        next_at = schedule.next(attempts, failed_at, now)
        if next_at is None:
            break
        delays.append((next_at - now).total_seconds())
        now = next_at
    assert (now - failed_at).total_seconds() == 3 * 86_400
    assert 10 <= len(delays) <= 16
    for place, delay in enumerate(delays[:-1]):
        plain = min(LONGEST_S, 5 * 4**place)
        assert 0.8 * plain <= delay <= 1.2 * plain
    assert len({round(schedule.next(1, now, now).timestamp(), 6) for _ in range(9)}) > 5  # jitter


def test_the_endpoint_may_ask_for_a_later_attempt():
    now = utc_now()
    next_at = Schedule(5, 86_400).next(1, now, now, least_s=600)
    assert next_at is not None and (next_at - now).total_seconds() == 600


@pytest.fixture
def hanging(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    """The names that are being looked up; those of `.hangs` get no answer until the end."""
    end, names, real = threading.Event(), [], socket.getaddrinfo

    def look_up(host: str, *arguments: Any, **more: Any) -> Any:
        names.append(host)
        if host.endswith(".hangs"):
            end.wait(60)
            raise socket.gaierror(socket.EAI_AGAIN, "no name server answered")
        return real(host, *arguments, **more)

    monkeypatch.setattr(socket, "getaddrinfo", look_up)
    yield names
    end.set()


def test_names_of_one_ledger_that_hang_keep_no_other_waiting(
    hanging: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Also when those who waited for them have given up."""
    monkeypatch.setattr(addresses, "RESOLVE_S", 0.05)
    guard = Guard(settings_for_tests(webhooks_private=True))

    async def check(ledger: int, host: str) -> None:
        LEDGER.set(ledger)
        await guard.check(f"https://{host}/")

    async def test() -> None:
        for turn in range(2):
            several = [check(7, f"{turn}.{n}.hangs") for n in range(2 * RESOLVERS)]
            results = await asyncio.gather(*several, return_exceptions=True)
            assert {type(one) for one in results} == {HostUnknown}
            assert len(hanging) == RESOLVERS
        monkeypatch.setattr(addresses, "RESOLVE_S", 30.0)
        await check(8, "127.0.0.1")
        monkeypatch.setattr(addresses, "RESOLVE_S", 0.05)
        with pytest.raises(HostUnknown):
            await check(7, "127.0.0.1")

    asyncio.run(test())


HANG = """
import asyncio, socket, time
from ledgerservice.feed.webhooks import addresses
from ledgerservice.settings import Settings
addresses.RESOLVE_S = 0.1
socket.getaddrinfo = lambda *_, **__: time.sleep(600)
async def check():
    try:
        await addresses.Guard(Settings.load()).check("https://name.hangs/")
    except addresses.HostUnknown:
        print("unknown")
asyncio.run(check())
"""


def test_a_name_that_hangs_does_not_hold_up_the_end_of_the_process() -> None:
    command = [sys.executable, "-c", HANG]
    done = subprocess.run(
        command, env=environment(), check=True, stdout=subprocess.PIPE, timeout=60
    )
    assert done.stdout == b"unknown\n"


def test_requests_of_one_ledger_keep_no_other_waiting(
    database: Database, hanging: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are answered, as the name may be known later; those of others are checked meanwhile."""
    monkeypatch.setattr(addresses, "RESOLVE_S", 0.2)
    add_ledger(database, "other")

    async def test() -> None:
        settings = database.settings.model_copy(update={"webhooks": False})
        service = Service(prepared(replace(database, settings=settings)), is_trusted=True)
        await service.start()
        transport = httpx.ASGITransport(service)
        try:
            async with httpx.AsyncClient(
                transport=transport, base_url="http://127.0.0.1"
            ) as client:
                hang = {"url": "https://name.hangs/"}
                several = [client.post("/webhooks", json=hang) for _ in range(2 * RESOLVERS)]
                assert {one.status_code for one in await asyncio.gather(*several)} == {201}
                body = {"url": "https://127.0.0.1/"}
                refused = await client.post("/ledgers/other/webhooks", json=body)
                assert "not public" in refused.text
                unknown = await client.patch("/webhooks/999", json=hang)
                assert (unknown.status_code, len(hanging)) == (404, RESOLVERS + 1)
        finally:
            await service.stop()

    asyncio.run(test())
