"""A process that is stopped in the middle of a batch does not keep its accounts locked."""

import asyncio
import multiprocessing
import os
import signal
from dataclasses import replace
from typing import Any

import pytest

from ledgerservice.domain.instructions import Group
from ledgerservice.postgres import journal, pipeline
from ledgerservice.postgres.connections import Database
from ledgerservice.posting.frozen import end_frozen
from ledgerservice.posting.movements import MovementBatch
from tests.databases import administer, connect, url_text
from tests.postings import deposit, open_accounts
from tests.processes import serving, wait_for

LOGIN = "frozen_login"
LIMIT_S = 0.5


@pytest.fixture
def login(database):
    """The database as a login without any right but those of the service's role."""
    open_accounts(database, "USD", "USD")
    administer(database.url, f"CREATE ROLE {LOGIN} LOGIN IN ROLE {database.role}")
    yield replace(database, url=database.url.set(username=LOGIN))
    administer(database.url, f"DROP ROLE {LOGIN}")


def stop_in_a_copy(database: Database) -> None:
    """Post a batch by COPY, and stop this process after the first rows of the entries."""
    whole = journal._in_chunks

    def chunks(rows: Any) -> Any:
        for number, chunk in enumerate(whole(rows)):
            yield chunk
            if number == 1:
                os.kill(os.getpid(), signal.SIGSTOP)

    journal._in_chunks = chunks
    batch = [deposit(1, 1, f"frozen {n}") for n in range(1_500)]
    asyncio.run(_post(database, batch))


def stop_in_a_round_trip(database: Database) -> None:
    """Post a batch by INSERT, and stop this process when the last statement has not been sent."""
    send = pipeline.Wire.exchange

    async def exchange(wire: Any, *requests: Any) -> Any:
        if requests[-1].statement != journal.COMMIT:
            return await send(wire, *requests)
        wire._pgconn.enter_pipeline_mode()
        wire._pgconn.send_query_params(b"SELECT 1", None)
        wire._pgconn.send_flush_request()
        while wire._pgconn.flush():
            pass
        os.kill(os.getpid(), signal.SIGSTOP)
        return None

    pipeline.Wire.exchange = exchange  # type: ignore[assignment, method-assign]
    asyncio.run(_post(database, [deposit(1, 1, "frozen")]))


async def _post(database: Database, batch: list[Any]) -> None:
    await MovementBatch()(await database.connect_writer(), [Group(batch)])


def waits_for_its_client(database: Database) -> bool:
    with connect(database) as onlooker:
        found = onlooker.execute(
            "SELECT FROM pg_stat_activity WHERE state = 'active' AND wait_event = 'ClientRead'"
            f" AND usename = '{LOGIN}' AND xact_start IS NOT NULL"
        )
        return found.rowcount > 0


@pytest.mark.parametrize("stop", [stop_in_a_copy, stop_in_a_round_trip])
def test_a_process_that_is_stopped_in_a_batch_frees_its_accounts(database, login, stop):
    frozen = multiprocessing.get_context("fork").Process(target=stop, args=[login])
    values = {"DATABASE_URL": url_text(login), "LEDGER_IDLE_TRANSACTION_TIMEOUT_S": str(LIMIT_S)}
    with serving(**values) as service:
        frozen.start()
        try:
            assert wait_for(lambda: waits_for_its_client(database))
            body = {"account_id": 1, "amount": "1", "idempotency_key": "after"}
            assert service.post("/deposit/", body).status_code == 200
            assert service.account(1, "balance") == ("1.00",)
        finally:
            os.kill(frozen.pid or 0, signal.SIGKILL)
            frozen.join()


def test_a_session_that_works_or_has_just_begun_to_wait_is_not_ended(database, login):
    frozen = multiprocessing.get_context("fork").Process(target=stop_in_a_copy, args=[login])

    async def looks() -> tuple[list[int], list[int]]:
        engine = login.read_engine()
        early = await end_frozen(engine, 60)
        async with engine.connect() as idle:
            await idle.exec_driver_sql("SELECT 1")
            late = await end_frozen(engine, 0)
            await idle.exec_driver_sql("SELECT 1")
        await engine.dispose()
        return early, late

    frozen.start()
    try:
        assert wait_for(lambda: waits_for_its_client(database))
        early, late = asyncio.run(looks())
        assert early == [] and len(late) == 1
    finally:
        os.kill(frozen.pid or 0, signal.SIGKILL)
        frozen.join()
