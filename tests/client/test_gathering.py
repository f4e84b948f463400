"""Calls that go out together: how often they are sent, and what each caller gets."""

import asyncio
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from decimal import Decimal
from time import monotonic
from typing import Any

import httpx
import pytest

from ledgerservice.api.http.problems import problem_body
from ledgerservice.client import (
    AsyncClient,
    Client,
    ClientError,
    Forbidden,
    NoAnswer,
    RateLimited,
    Unavailable,
)
from tests.client.front import Front, between, canned
from tests.processes import RunningService

pytestmark = pytest.mark.processes

STREAM = b"POST /batches/ HTTP/1.1"
OVERLOADED = problem_body("overloaded")


@pytest.fixture
def front(service: RunningService) -> Iterator[Front]:
    with between(service) as made:
        yield made


@pytest.fixture
def pair(service: RunningService) -> tuple[int, int]:
    """Two accounts, the first with 10,000 dollars."""
    return service.open(balance="10000"), service.open("Bob")


def balance(service: RunningService, account: int) -> Decimal:
    return Decimal(service.account(account, "balance")[0])


async def all_of(client: AsyncClient, pair: tuple[int, int], number: int) -> list[Any]:
    calls = (client.transfer(pair[0], pair[1], 1) for _ in range(number))
    return await asyncio.gather(*calls, return_exceptions=True)


def outcomes(front: Front, pair: tuple[int, int], number: int, **options: Any) -> list[Any]:
    async def run() -> list[Any]:
        async with AsyncClient(front.base, **options) as client:
            return await all_of(client, pair, number)

    return asyncio.run(run())


def test_64_tasks_send_one_stream(front, pair, service):
    async def run() -> None:
        async with AsyncClient(front.base) as client:
            for _ in range(5):
                answers = await all_of(client, pair, 64)
                assert len({one.transaction_id for one in answers}) == 64

    asyncio.run(run())
    assert front.heads == [STREAM]
    assert balance(service, pair[1]) == 320


@pytest.mark.parametrize("after", [[1], [700], [5_000], [300, 0, 9_000, 20_000]])
def test_a_stream_that_breaks_is_sent_again(front, pair, service, after):
    front.cut_after.extend(after)
    answers = outcomes(front, pair, 64)
    assert len({one.transaction_id for one in answers}) == 64
    assert len(front.heads) == len(after) + 1
    assert balance(service, pair[1]) == 64


LINE = b'{"line":1,"status":503,"replayed":false,"body":%b}\n' % OVERLOADED
ONE_PASSES = canned(200, LINE)
PASSING = {
    "a refusal": canned(503, OVERLOADED, "Retry-After: 1"),
    "a limit": canned(429, problem_body("rate_limited", limit="requests"), "Retry-After: 1"),
    "a proxy's page": canned(502, b"<html>"),
    "no HTTP": b"SSH-2.0\r\n\r\n",
    "an end": b"",
    "a half head": b"HTTP/1.1 200 OK\r\n",
    "lines that are none": canned(200, b'{"line":1,"sta\nus'),
    "too few lines": canned(200, b""),
    "a line that passes": ONE_PASSES,
    "a line that was not sent": canned(200, LINE.replace(b"1", b"99", 1)),
}


@pytest.mark.parametrize("door", ["stream", "batches"])
@pytest.mark.parametrize("name", PASSING)
def test_what_passes_is_waited_for(front, pair, service, name, door):
    options = {} if door == "stream" else {"transport": httpx.AsyncHTTPTransport()}
    front.canned.append(PASSING[name])
    begun_s = monotonic()
    assert len({one.transaction_id for one in outcomes(front, pair, 9, **options)}) == 9
    assert balance(service, pair[1]) == 9
    assert len(front.heads) == 2
    assert monotonic() - begun_s > (b"Retry-After" in PASSING[name])


FINAL = [
    (canned(503, OVERLOADED), 0.2, Unavailable, "overloaded"),
    (canned(429, b"", "Retry-After: 100"), 0.5, RateLimited, "http_429"),
    (b"", 0.2, NoAnswer, "no_answer"),
    (canned(403, problem_body("no_keys")), 60, Forbidden, "no_keys"),
]


@pytest.mark.parametrize(("said", "give_up_s", "family", "code"), FINAL)
def test_each_call_gets_what_does_not_pass(front, pair, said, give_up_s, family, code):
    front.canned.extend([said] * 100)
    faults = outcomes(front, pair, 9, give_up_s=give_up_s)
    assert [(type(one), one.code) for one in faults] == [(family, code)] * 9
    assert len({one.key for one in faults}) == 9
    assert len({id(one) for one in faults}) == 9


def test_a_request_of_its_own_is_sent_again_too(front, pair):
    front.canned.extend([b"", canned(503, OVERLOADED, "Retry-After: 0"), canned(500, b"")])

    async def run() -> None:
        async with AsyncClient(front.base) as client:
            account = await client.open_account("Once", "USD", reference=f"once {pair[0]}")
            assert (await client.account(account.id)).owner == "Once"

    asyncio.run(run())
    assert len(front.heads) == 4


def test_a_proxy_that_keeps_requests_gets_batches(front, pair, service, monkeypatch):
    monkeypatch.setattr("ledgerservice.client.gathering.HEAD_S", 0.5)
    front.keeps = True

    async def run() -> None:
        async with AsyncClient(front.base) as client:
            for _ in range(3):
                answers = await all_of(client, pair, 9)
                assert len({one.transaction_id for one in answers}) == 9

    asyncio.run(run())
    assert balance(service, pair[1]) == 27
    assert front.heads[0] == STREAM and len(front.heads) >= 2


def test_a_cancelled_call_harms_no_other(front, pair, service):
    async def run() -> None:
        async with AsyncClient(front.base) as client:
            await client.transfer(pair[0], pair[1], 1, key="begins the stream")
            tasks = [asyncio.create_task(client.transfer(pair[0], pair[1], 1)) for _ in range(60)]
            await asyncio.sleep(0)
            for task in tasks[::3]:  # before they are sent
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert sum(isinstance(one, asyncio.CancelledError) for one in done) == 20
            assert len({one.transaction_id for one in done if hasattr(one, "amount")}) == 40
            tasks = [asyncio.create_task(client.transfer(pair[0], pair[1], 1)) for _ in range(60)]
            while not client._gathering._in_flight:  # noqa: ASYNC110
                await asyncio.sleep(0)
            for task in tasks[::2]:
                task.cancel()
            done = await asyncio.gather(*tasks, return_exceptions=True)
            assert sum(isinstance(one, asyncio.CancelledError) for one in done) == 30
            await client.transfer(pair[0], pair[1], 1)

    asyncio.run(run())
    assert balance(service, pair[1]) == 102
    assert len(front.heads) == 1


def test_the_queue_is_bounded(front, pair, service):
    sizes: list[int] = []

    async def run() -> None:
        async with AsyncClient(front.base, queue_limit=5) as client:
            gathering = client._gathering
            depart = gathering._depart

            def noted(batch: Any) -> list[bytes]:
                lines = depart(batch)
                sizes.append(len(gathering._in_flight) + len(gathering._queue))
                return lines

            gathering._depart = noted  # type: ignore[method-assign]
            calls = [asyncio.create_task(client.transfer(pair[0], pair[1], 1)) for _ in range(50)]
            await asyncio.sleep(0)
            calls[-1].cancel()  # waits for a place
            done = await asyncio.gather(*calls, return_exceptions=True)
            assert isinstance(done[-1], asyncio.CancelledError)

    asyncio.run(run())
    assert max(sizes) == 5
    assert balance(service, pair[1]) == 49


def test_closing_waits_for_what_was_called(front, pair, service):
    async def run() -> None:
        client = AsyncClient(front.base, queue_limit=10)
        calls = [asyncio.create_task(client.transfer(pair[0], pair[1], 1)) for _ in range(50)]
        await asyncio.sleep(0)
        await client.aclose()
        assert all(task.done() for task in calls)
        assert len({task.result().transaction_id for task in calls}) == 50

    asyncio.run(run())
    assert balance(service, pair[1]) == 50


def test_closing_waits_for_an_item_that_is_sent_again(front, pair):
    front.canned.append(ONE_PASSES)

    async def run() -> None:
        client = AsyncClient(front.base)
        call = asyncio.create_task(client.transfer(pair[0], pair[1], 1))
        while client._gathering._sender is None or front.canned:  # noqa: ASYNC110
            await asyncio.sleep(0.001)
        await client.aclose()
        assert call.done() and call.result().amount == 1

    asyncio.run(run())


def test_a_sender_that_is_cancelled_leaves_no_caller_waiting(front, pair):
    front.canned.extend([canned(503, OVERLOADED, "Retry-After: 30")] * 5)

    async def run() -> None:
        client = AsyncClient(front.base)
        calls = [asyncio.create_task(client.transfer(pair[0], pair[1], 1)) for _ in range(5)]
        await asyncio.sleep(0.1)
        assert client._gathering._sender is not None
        client._gathering._sender.cancel()
        done = await asyncio.gather(*calls, return_exceptions=True)
        assert [type(one) for one in done] == [asyncio.CancelledError] * 5
        await client.aclose()

    asyncio.run(run())


def test_a_stream_that_was_idle_or_is_old_is_followed_by_another(front, pair, monkeypatch):
    monkeypatch.setattr("ledgerservice.client.gathering.IDLE_S", 0.1)
    monkeypatch.setattr("ledgerservice.client.gathering.STEP_S", 0.05)

    async def run() -> None:
        async with AsyncClient(front.base) as client:
            await client.transfer(pair[0], pair[1], 1)
            await asyncio.sleep(0.5)
            await client.transfer(pair[0], pair[1], 1)
            monkeypatch.setattr("ledgerservice.client.gathering.OLD_S", 0.0)
            for _ in range(10):
                await client.transfer(pair[0], pair[1], 1)

    asyncio.run(run())
    assert len(front.heads) >= 3


def test_the_calls_of_many_threads_go_out_together(front, pair, service):
    together = threading.Barrier(32)
    with Client(front.base) as client, ThreadPoolExecutor(32) as threads:

        def work(_: int) -> list[int]:
            together.wait()
            return [client.transfer(pair[0], pair[1], 1).transaction_id for _ in range(10)]

        ids = [one for done in threads.map(work, range(32)) for one in done]
    assert len(set(ids)) == 320
    assert set(front.heads) == {STREAM} and len(front.heads) < 10
    assert balance(service, pair[1]) == 320


def test_one_refused_item_is_not_the_others_fault(front, pair, service):
    async def run() -> list[Any]:
        async with AsyncClient(front.base) as client:
            bad = [client.transfer(pair[0], 10**9, 1), client.transfer(pair[0], pair[1], "x")]
            huge = client.transfer(pair[0], pair[1], 1, metadata={"text": "x" * 200_000})
            good = [client.transfer(pair[0], pair[1], 1) for _ in range(20)]
            return await asyncio.gather(*bad, huge, *good, return_exceptions=True)

    done = asyncio.run(run())
    assert [isinstance(one, ClientError) for one in done] == [True] * 3 + [False] * 20
    assert balance(service, pair[1]) == 20
