"""Group commit against a real PostgreSQL: nothing lost, nothing doubled, nothing left waiting."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from typing import Any

import pytest

from ledgerservice.domain.accounts import Opened, Opening
from ledgerservice.domain.instructions import Group, Kind, Movement
from ledgerservice.domain.transactions import Recorded, Rejected
from ledgerservice.errors import InternalFault, Overloaded, Unavailable
from ledgerservice.postgres import journal
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.locking import lock
from ledgerservice.postgres.pipeline import Request
from ledgerservice.postgres.registration import open_accounts
from ledgerservice.posting.movements import MovementBatch
from ledgerservice.posting.poster import Limits, Poster
from tests.databases import administer, connect, without_guards

LEDGER = 1
WIDE = Limits(queue_requests=10_000, batch_requests=1_000, deadline_s=30)


def deposit(to: int, key: str, amount: str = "1") -> Group:
    return Group([Movement(Kind.DEPOSIT, to, None, amount, key)])


@asynccontextmanager
async def posting(database: Database, limits: Limits = WIDE):
    """A poster of movements, and two accounts, 1 and 2, opened through a poster of openings."""
    openings = Poster(database.connect_writer, open_accounts, limits)
    for number in (1, 2):
        await openings.post(Opening("owner", "USD", None, f"account-{number}"))
    await openings.close()
    movements = Poster(database.connect_writer, MovementBatch(), limits)
    try:
        yield movements
    finally:
        await movements.close()


def balance(database: Database, account: int) -> int:
    with connect(database) as connection:
        statement = "SELECT balance FROM ledger.accounts WHERE id = %s"
        [(found,)] = connection.execute(statement, [account]).fetchall()
        return found


def run(test: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(test(), 60))


async def until(condition: Callable[[], object]) -> None:
    while not condition():  # noqa: ASYNC110  (another process is waited for)
        await asyncio.sleep(0.01)


def writers_waiting(database: Database, event: str) -> list[int]:
    """The pids of the poster's backends that wait for `event`."""
    with connect(database) as connection:
        rows = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'ledgerservice' AND wait_event = %s",
            [event],
        )
        return [row[0] for row in rows]


def test_requests_at_many_times_are_all_answered_once(database, no_violations):
    async def test() -> None:
        async with posting(database) as poster:

            async def client(number: int) -> None:
                for step in range(20):
                    await asyncio.sleep(random.random() * 0.003)
                    [outcome] = await poster.post(deposit(1, f"{number}-{step}"))
                    assert isinstance(outcome, Recorded)
                    assert not outcome.replayed

            await asyncio.gather(*map(client, range(40)))

    run(test)
    assert balance(database, 1) == 800 * 100
    no_violations(database)


def test_a_lone_request_is_posted_at_once_without_a_second_one(database):
    async def test() -> None:
        async with posting(database) as poster:
            for step in range(50):
                await asyncio.wait_for(poster.post(deposit(1, str(step))), 10)

    run(test)


def test_a_backend_killed_in_mid_batch_costs_nothing(database, no_violations):
    async def test() -> None:
        async with posting(database) as poster:
            await poster.post(deposit(1, "before"))
            with connect(database) as other, other.transaction():
                other.execute("SELECT 1 FROM ledger.accounts WHERE id = 1 FOR UPDATE")
                posts = [asyncio.create_task(poster.post(deposit(1, str(n)))) for n in range(10)]
                await until(lambda: writers_waiting(database, "transactionid"))
                for pid in writers_waiting(database, "transactionid"):
                    administer(database.url, f"SELECT pg_terminate_backend({pid})")
            outcomes: list[Any] = await asyncio.gather(*posts)
            assert all(outcome.posted for [outcome] in outcomes)

    run(test)
    assert balance(database, 1) == 11 * 100
    no_violations(database)


def test_a_commit_that_the_server_only_warned_about_is_not_answered(database, no_violations):
    """A cancelled wait for a synchronous standby commits locally and only warns (01000)."""

    async def test() -> None:
        async with posting(database) as poster, standby_missing(database):
            post = asyncio.create_task(poster.post(deposit(1, "k")))
            await until(lambda: writers_waiting(database, "SyncRep"))
            (pid,) = writers_waiting(database, "SyncRep")
            administer(database.url, f"SELECT pg_cancel_backend({pid})")
            await until(lambda: writers_waiting(database, "SyncRep") not in ([], [pid]))
            assert balance(database, 1) == 100  # committed here, though not on the standby
            assert not post.done()
        [outcome] = await post
        assert outcome.replayed

    run(test)
    assert balance(database, 1) == 100
    no_violations(database)


def test_a_replay_waits_for_the_standby_too(database):
    async def test() -> None:
        async with posting(database) as poster:
            await poster.post(deposit(1, "k"))
            async with standby_missing(database):
                replay = asyncio.create_task(poster.post(deposit(1, "k")))
                await until(lambda: writers_waiting(database, "SyncRep"))
                assert not replay.done()
            assert (await replay)[0].replayed

    run(test)


@asynccontextmanager
async def standby_missing(database: Database):
    """The server waits at every commit for a standby that is not there."""
    administer(database.url, "ALTER SYSTEM SET synchronous_standby_names = 'nobody'", RELOAD)
    await until(lambda: shown(database, "synchronous_standby_names") == "nobody")
    # The checkpointer makes commits wait. It reads the settings before a checkpoint.
    administer(database.url, "CHECKPOINT")
    try:
        yield
    finally:
        administer(database.url, "ALTER SYSTEM RESET synchronous_standby_names", RELOAD)


RELOAD = "SELECT pg_reload_conf()"


def shown(database: Database, setting: str) -> str:
    with connect(database) as connection:
        [(value,)] = connection.execute(f"SHOW {setting}").fetchall()
        return value


def test_a_commit_of_an_aborted_transaction_is_not_believed(database):
    async def test() -> None:
        wire = await database.connect_writer()
        with pytest.raises(Exception, match="division by zero"):
            await wire.exchange(Request("BEGIN"), Request("SELECT 1/0"))
        with pytest.raises(journal.CommitUnconfirmed, match="ROLLBACK"):
            await journal.commit(wire)
        await wire.close()

    run(test)


def test_a_key_that_another_writer_has_just_recorded_is_replayed(database):
    """The unique key is the last judge, also of a writer that took no lock."""

    async def test() -> None:
        async with posting(database) as poster:
            with connect(database, role=database.role) as other, other.transaction():
                other.execute(
                    "INSERT INTO ledger.transactions (ledger_id, id, kind, status, account_id,"
                    " counterparty_id, amount, recorded_at, renderer, idempotency_key,"
                    " decline_reason, deciding_account_id, deciding_version, deciding_available,"
                    " deciding_balance) VALUES (1, 999999, 1, 2, 1, -1, 100, now(), 1, 'k',"
                    " 'balance_limit', 1, 0, 0, 0)"
                )
                post = asyncio.create_task(poster.post(deposit(1, "k")))
                await until(lambda: writers_waiting(database, "transactionid"))
            [outcome] = await post
            assert outcome.replayed
            assert outcome.transaction.id == 999999

    run(test)
    assert balance(database, 1) == 0


def test_a_request_that_the_database_refuses_fails_alone(database, no_violations):
    async def test() -> None:
        async with posting(database) as poster:
            requests = [deposit(1, str(number)) for number in range(9)]
            requests.insert(4, deposit(1, "x" * 256))  # longer than the schema's CHECK allows
            outcomes: list[Any] = await asyncio.gather(
                *map(poster.post, requests), return_exceptions=True
            )
            assert isinstance(outcomes.pop(4), InternalFault)
            assert all(outcome.posted for [outcome] in outcomes)

    run(test)
    assert balance(database, 1) == 900
    no_violations(database)


def test_a_request_that_we_have_no_answer_to_fails_alone(database):
    """Whatever is wrong with one request, its neighbours of the batch get their answers."""
    with connect(database) as superuser, without_guards(superuser):
        superuser.execute("INSERT INTO ledger.ledgers (ledger_id, name) VALUES (7, 'bare')")
        superuser.execute(
            "INSERT INTO ledger.accounts"
            " (ledger_id, id, owner, currency, currency_number, exponent, change_id)"
            " VALUES (7, 5, 'o', 'USD', 1, 2, 1)"
        )

    async def test() -> None:
        async with posting(database) as poster:
            # Its ledger has no external account, which the planner takes for granted.
            lost = Group(deposit(5, "lost").movements, ledger=7)
            requests = [deposit(1, "a"), lost, deposit(1, "b"), lost, deposit(2, "c")]
            outcomes: list[Any] = await asyncio.gather(
                *map(poster.post, requests), return_exceptions=True
            )
            assert [isinstance(outcome, InternalFault) for outcome in outcomes] == [0, 1, 0, 1, 0]
            assert all(outcome.posted for [outcome] in outcomes[::2])

    run(test)
    assert balance(database, 1) == 200


def test_past_the_queue_s_bound_requests_are_refused_at_once_and_move_nothing(database):
    async def test() -> None:
        limits = Limits(queue_requests=5, batch_requests=1_000, deadline_s=30)
        async with posting(database, limits) as poster:
            with connect(database) as other, other.transaction():
                other.execute("SELECT 1 FROM ledger.accounts WHERE id = 1 FOR UPDATE")
                first = asyncio.create_task(poster.post(deposit(1, "first")))
                await until(lambda: writers_waiting(database, "transactionid"))
                queued = [asyncio.create_task(poster.post(deposit(1, str(n)))) for n in range(5)]
                await asyncio.sleep(0)
                with pytest.raises(Overloaded):
                    await poster.post(deposit(1, "late"))
            await asyncio.gather(first, *queued)

    run(test)
    assert balance(database, 1) == 600


def test_a_request_past_its_deadline_may_be_sent_again(database, no_violations):
    async def test() -> None:
        limits = Limits(queue_requests=100, batch_requests=100, deadline_s=0.5)
        async with posting(database, limits) as poster:
            with connect(database) as other, other.transaction():
                other.execute("SELECT 1 FROM ledger.accounts WHERE id = 1 FOR UPDATE")
                in_flight = asyncio.create_task(poster.post(deposit(1, "in flight")))
                await until(lambda: writers_waiting(database, "transactionid"))
                queued = asyncio.create_task(poster.post(deposit(1, "queued")))
                for post in (in_flight, queued):
                    with pytest.raises(Unavailable):
                        await post
            outcomes = [await poster.post(deposit(1, key)) for key in ("in flight", "queued")]
            assert [outcome.replayed for [outcome] in outcomes] == [True, False]

    run(test)
    assert balance(database, 1) == 200
    no_violations(database)


def test_a_frozen_process_frees_its_accounts(new_database):
    database = new_database(idle_transaction_timeout_s=1)

    async def test() -> None:
        async with posting(database) as poster:
            frozen = await database.connect_writer()
            begin = Request(journal.BEGIN)
            await lock(frozen, LEDGER, deposit(1, "frozen").instructions(), {}, begin)
            await poster.post(deposit(1, "k"))
            with pytest.raises(Exception, match=r"(?i)idle|terminat|closed|lost"):
                await frozen.exchange(Request("SELECT 1"))
            await frozen.close()

    run(test)
    assert balance(database, 1) == 100


def test_close_answers_waiting_requests_and_takes_no_more(database):
    async def test() -> None:
        async with posting(database) as poster:
            posts = [asyncio.create_task(poster.post(deposit(1, str(n)))) for n in range(20)]
            await asyncio.sleep(0)
            await poster.close()
            assert all(outcome.posted for [outcome] in await asyncio.gather(*posts))
            with pytest.raises(Overloaded):
                await poster.post(deposit(1, "late"))

    run(test)


def test_closing_does_not_wait_for_ever_for_the_database(database, no_violations):
    async def test() -> None:
        limits = Limits(queue_requests=100, batch_requests=100, deadline_s=0.5)
        with connect(database) as other:
            async with posting(database, limits) as poster:
                other.execute("BEGIN")
                other.execute("SELECT 1 FROM ledger.accounts WHERE id = 1 FOR UPDATE")
                post = asyncio.create_task(poster.post(deposit(1, "k")))
                await until(lambda: writers_waiting(database, "transactionid"))
            with pytest.raises(Unavailable):
                await post

    run(test)
    no_violations(database)


def test_a_caller_that_goes_away_does_not_disturb_the_others(database):
    async def test() -> None:
        async with posting(database) as poster:
            posts = [asyncio.create_task(poster.post(deposit(1, str(n)))) for n in range(20)]
            await asyncio.sleep(0)
            for gone in posts[::2]:
                gone.cancel()
            outcomes: list[Any] = await asyncio.gather(*posts, return_exceptions=True)
            assert all(outcome.posted for [outcome] in outcomes[1::2])

    run(test)


def test_two_posters_on_one_hot_account_lose_and_double_nothing(database, no_violations):
    async def test() -> None:
        async with posting(database) as one:
            two = Poster(database.connect_writer, MovementBatch(), WIDE)
            requests = [deposit(1, str(number % 200)) for number in range(600)]
            outcomes: list[Any] = await asyncio.gather(
                *(random.choice((one, two)).post(request) for request in requests)
            )
            assert sum(not outcome.replayed for [outcome] in outcomes) == 200
            await two.close()

    run(test)
    assert balance(database, 1) == 200 * 100
    no_violations(database)


def test_openings_with_one_key_at_once_open_one_account(database):
    async def test() -> None:
        posters = [Poster(database.connect_writer, open_accounts, WIDE) for _ in range(2)]
        openings = [Opening("Alice", "USD", None, "k", metadata='{"a":1}')] * 50
        answers = await asyncio.gather(*(random.choice(posters).post(o) for o in openings))
        assert {answer.account_id for answer in answers} == {answers[0].account_id}
        assert sum(not answer.replayed for answer in answers) == 1
        unknown = await posters[0].post(Opening("Alice", "XXX", None, "other"))
        assert isinstance(unknown, Rejected)
        assert isinstance(await posters[1].post(Opening("Bob", "USD", None, "b")), Opened)
        for poster in posters:
            await poster.close()

    run(test)
