"""The service is killed in the middle of streams, and started again on the same port."""

import asyncio
import random
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from ledgerservice.client import AsyncClient, Declined
from ledgerservice.postgres.connections import Database
from tests.databases import connect, url_text
from tests.processes import Fork, await_ready, environment, free_port

pytestmark = [pytest.mark.processes, pytest.mark.timeout(240)]

TASKS, ACCOUNTS, KILLS, EACH = 32, 8, 3, 200
FUNDS = 1_000


class Mortal:
    """A service on one port, which can be killed and started again."""

    def __init__(self, url: str) -> None:
        self._url, self._port = url, free_port()
        self.base = f"http://127.0.0.1:{self._port}"
        self.start()
        with httpx.Client(base_url=self.base) as client:
            await_ready(client, self.process)

    def start(self) -> None:
        values = environment(DATABASE_URL=self._url)
        self.process = Fork(["serve", "--port", str(self._port)], values)

    def kill(self) -> None:
        self.process.kill()
        self.process.wait(60)


def test_every_call_ends_with_its_result_and_the_money_is_exact(
    new_database: Callable[..., Database], no_violations: Callable[[Database], None]
) -> None:
    database = new_database()
    service = Mortal(url_text(database))
    try:
        accounts, answers = asyncio.run(_run(service))
    finally:
        service.process.terminate()
        service.process.wait(60)
    posted = {one.transaction_id: one for one in answers if one is not None}
    assert len(answers) == TASKS * EACH
    assert len(posted) == sum(one is not None for one in answers)
    with connect(database) as connection:
        query = "SELECT count(*) FROM ledger.transactions WHERE idempotency_key LIKE 'task %'"
        [recorded] = connection.execute(query).fetchone() or (0,)
        query = "SELECT id, balance, version FROM ledger.accounts WHERE id > 0"
        states = {
            number: (balance, version) for number, balance, version in connection.execute(query)
        }
    assert recorded == TASKS * EACH
    assert sum(balance for balance, _ in states.values()) == ACCOUNTS * FUNDS * 100
    # The answers say what each account has, version after version, with nothing missing.
    for account in accounts:
        entries = [e for one in posted.values() for e in one.entries if e.account_id == account]
        entries.sort(key=lambda entry: entry.version)
        assert [entry.version for entry in entries] == list(range(2, states[account][1] + 1))
        assert entries[-1].balance * 100 == states[account][0]
    no_violations(database)


async def _run(service: Mortal) -> tuple[list[int], list[Any]]:
    """The accounts, and the answer of each call; None if it was declined."""
    answers: list[Any] = []
    chance, killed = random.Random(1), asyncio.Event()
    async with AsyncClient(service.base) as client:
        accounts = [(await client.open_account("A", "USD")).id for _ in range(ACCOUNTS)]
        await asyncio.gather(*(client.deposit(one, FUNDS) for one in accounts))

        async def work(task: int) -> None:
            for number in range(EACH):
                if len(answers) > TASKS * EACH // 2:
                    await killed.wait()  # some are always left for the last kill
                pair, amount = chance.sample(accounts, 2), chance.randrange(1, 400)
                try:
                    answers.append(
                        await client.transfer(pair[0], pair[1], amount, key=f"task {task} {number}")
                    )
                except Declined:
                    answers.append(None)

        async def kill() -> None:
            for number in range(1, KILLS + 1):
                goal = TASKS * EACH * number // (2 * KILLS + 1)
                while len(answers) < goal or not client._gathering._in_flight:  # noqa: ASYNC110
                    await asyncio.sleep(0)
                await asyncio.to_thread(service.kill)
                service.start()
            killed.set()

        await asyncio.gather(kill(), *(work(task) for task in range(TASKS)))
    return accounts, answers
