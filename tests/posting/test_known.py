"""Small batches on known accounts: one round trip, and the database judges it."""

import asyncio
import random
import subprocess
import sys
from collections.abc import Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest

from ledgerservice.domain.accounts import Account
from ledgerservice.domain.batch_state import AccountState
from ledgerservice.domain.instructions import (
    Frozen,
    Group,
    Hold,
    Instruction,
    Kind,
    Movement,
    PolicyChange,
)
from ledgerservice.domain.planner import Plan
from ledgerservice.domain.transactions import Recorded
from ledgerservice.postgres import journal
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.pipeline import Request, Wire
from ledgerservice.postgres.queries.as_of import account_at
from ledgerservice.postgres.reader import Reader
from ledgerservice.posting import known
from ledgerservice.posting.known import KnownAccounts
from ledgerservice.posting.movements import MovementBatch
from ledgerservice.posting.overlapping import OverlappingPoster
from ledgerservice.posting.poster import Limits
from ledgerservice.telemetry import metrics
from tests.databases import administer, connect, url_text
from tests.postings import deposit, open_accounts, post

LIMITS = Limits(queue_requests=10_000, batch_requests=1_000, deadline_s=30)
ACCOUNTS = 4
RECORD = journal.RECORD_KNOWN


@pytest.fixture
def funded(database: Database) -> Database:
    """A database with accounts 1 to 4, which have money."""
    open_accounts(database, *["USD"] * ACCOUNTS)
    post(database, [deposit(n, 1_000, f"funds {n}") for n in range(1, ACCOUNTS + 1)])
    return database


@pytest.fixture
def trips(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The statements of each round trip of the write path."""
    seen: list[list[str]] = []
    exchange = Wire.exchange

    async def noted(wire: Wire, *requests: Request) -> Any:
        seen.append([request.statement for request in requests])
        return await exchange(wire, *requests)

    monkeypatch.setattr(Wire, "exchange", noted)
    return seen


def transfer(key: str, own: int = 1, other: int = 2, amount: str = "1") -> Movement:
    return Movement(Kind.TRANSFER, own, other, amount, key)


@asynccontextmanager
async def posting(database: Database):
    poster = OverlappingPoster(database.connect_writer, LIMITS)
    try:
        yield poster
    finally:
        await poster.close()


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 60))


def balances(database: Database) -> list[int]:
    with connect(database) as connection:
        rows = connection.execute("SELECT balance FROM ledger.accounts WHERE id > 0 ORDER BY id")
        return [row[0] // 100 for row in rows]


async def posted(poster: OverlappingPoster, *movements: Instruction) -> list[Any]:
    outcomes: Any = await poster.post(Group(movements))
    return list(outcomes)


def one_trip(trips: list[list[str]]) -> bool:
    return trips == [[journal.BEGIN, RECORD, journal.COMMIT]]


def test_a_batch_of_known_accounts_takes_one_round_trip(funded, trips, no_violations):
    async def test() -> None:
        async with posting(funded) as poster:
            await posted(poster, transfer("a"), transfer("b", 3, 4), deposit(1, 1, "c"))
            assert len(trips) == 2
            for number in range(3):
                trips.clear()
                await posted(poster, transfer(f"d{number}"))
                assert one_trip(trips)
            trips.clear()
            many = [transfer(f"e{n}", n % 4 + 1, (n + 1) % 4 + 1) for n in range(99)]
            await posted(poster, *many, deposit(2, 5, "f"))
            assert one_trip(trips)

    run(test)
    assert balances(funded) == [996, 1_009, 999, 1_002]
    no_violations(funded)


def test_the_answer_is_what_is_recorded(funded, no_violations):
    async def test() -> None:
        async with posting(funded) as poster:
            await posted(poster, transfer("a"), transfer("b", 3, 4))
            began = datetime.now(UTC)
            answers = await posted(poster, transfer("c"), transfer("d", 3, 4), transfer("e"))
            [again] = await posted(poster, transfer("d", 3, 4))
            assert again == Recorded(answers[1].transaction, replayed=True)
            ids = [one.transaction.id for one in answers]
            assert ids == list(range(ids[0], ids[0] + 3))
            assert began <= answers[0].transaction.recorded_at <= datetime.now(UTC)

    run(test)
    no_violations(funded)


def test_a_repeat_gets_the_original_answer_and_moves_nothing(funded, trips, no_violations):
    async def test() -> None:
        async with posting(funded) as poster:
            [first] = await posted(poster, transfer("a"))
            [second] = await posted(poster, transfer("b"))
            trips.clear()
            answers = await posted(poster, transfer("c"), transfer("b"), transfer("a"))
            assert RECORD in trips[0]
            assert [one.replayed for one in answers] == [False, True, True]
            originals = [second.transaction, first.transaction]
            assert [one.transaction for one in answers[1:]] == originals
            [other] = await posted(poster, transfer("b", amount="2"))
            assert not isinstance(other, Recorded)

    run(test)
    assert balances(funded) == [997, 1_003, 1_000, 1_000]
    no_violations(funded)


async def another_process_posts(database: Database, *instructions: Instruction) -> None:
    wire = await database.connect_writer()
    await MovementBatch()(wire, [Group(instructions)])
    await wire.close()


OTHERS: dict[str, Callable[[], Instruction]] = {
    "a deposit": lambda: deposit(1, 5, "other"),
    "the same key": lambda: transfer("b"),
    "a hold": lambda: Hold(1, 2, "998", "other"),
    "a freeze": lambda: PolicyChange(1, "other", frozen=Frozen.DEBITS),
    "a low ceiling": lambda: PolicyChange(2, "other", ceiling="1001"),
    "all the money": lambda: Movement(Kind.WITHDRAWAL, 1, None, "999", "other"),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_what_another_process_has_done_is_seen(funded, trips, no_violations, other):
    async def test() -> None:
        async with posting(funded) as poster:
            await posted(poster, transfer("a"))
            await another_process_posts(funded, other())
            trips.clear()
            [answer] = await posted(poster, transfer("b", amount="2"))
            assert [RECORD in trip for trip in trips[:3]] == [True, False, False]
            assert [journal.ROLLBACK] not in trips  # nothing was written
            kind = type(other())
            assert getattr(answer, "posted", False) == (other() == deposit(1, 5, "other"))
            if kind is not Movement:
                assert answer.transaction.refusal is not None
            trips.clear()
            await posted(poster, transfer("c", 3, 4))
            assert RECORD not in trips[0]

    run(test)
    no_violations(funded)


def _from_a_trigger(action: str) -> tuple[str, ...]:
    """Statements after which the next INSERT into transactions fails; those after it do not."""
    return (
        "CREATE SEQUENCE public.tries",
        "GRANT ALL ON SEQUENCE public.tries TO PUBLIC",
        "GRANT USAGE ON SCHEMA public TO PUBLIC",
        f"""CREATE FUNCTION public.fail() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
            BEGIN IF nextval('public.tries') = 1 THEN {action}; END IF; RETURN NULL; END $$""",
        """CREATE TRIGGER fail AFTER INSERT ON ledger.transactions
            FOR EACH STATEMENT EXECUTE FUNCTION public.fail()""",
    )


FAULTS = {
    "deadlock": "RAISE EXCEPTION USING ERRCODE = '40P01'",
    "serialization": "RAISE EXCEPTION USING ERRCODE = '40001'",
    "cancelled": "RAISE EXCEPTION USING ERRCODE = '57014'",
    "read only": "RAISE EXCEPTION USING ERRCODE = '25006'",
    "disconnected": "PERFORM pg_terminate_backend(pg_backend_pid()), pg_sleep(5)",
}


@pytest.mark.parametrize("action", FAULTS.values(), ids=FAULTS)
def test_a_failure_costs_a_retry_and_what_was_known(funded, trips, no_violations, action):
    async def test() -> None:
        async with posting(funded) as poster:
            await posted(poster, transfer("a"), transfer("z", 3, 4))
            administer(funded.url, *_from_a_trigger(action))
            trips.clear()
            [answer] = await posted(poster, transfer("b"))
            assert answer.posted
            assert not answer.replayed
            assert [RECORD in trip for trip in trips] == [True, False, False]
            trips.clear()
            await posted(poster, transfer("c", 3, 4))
            assert RECORD not in trips[0]  # a new connection, so nothing is known

    run(test)
    administer(funded.url, "DROP TRIGGER fail ON ledger.transactions")
    assert balances(funded) == [998, 1_002, 998, 1_002]
    no_violations(funded)


def test_a_commit_whose_answer_is_lost_is_found_again(funded, monkeypatch, no_violations):
    commit, lost = journal.commit, list[Any]()

    async def cut(wire: Wire, *writes: Request) -> Any:
        results = await commit(wire, *writes)
        if writes[-1].statement == RECORD and not lost:
            lost.append(results[1].rows[0])
            wire.cut()
            await wire.exchange(Request(journal.BEGIN))
        return results

    monkeypatch.setattr(journal, "commit", cut)

    async def test() -> None:
        async with posting(funded) as poster:
            await posted(poster, transfer("a"))
            [answer] = await posted(poster, transfer("b"))
            assert answer.replayed
            [(number, recorded_at)] = lost
            assert (answer.transaction.id, answer.transaction.recorded_at) == (number, recorded_at)

    run(test)
    assert balances(funded)[:2] == [998, 1_002]
    no_violations(funded)


UNDER_LOCKS: dict[str, Callable[[], list[Instruction]]] = {
    "a hold": lambda: [Hold(1, 2, "1", "h")],
    "a decline": lambda: [transfer("b"), transfer("c", amount="5000")],
    "an unknown account": lambda: [transfer("b"), transfer("c", 1, 4)],
    "no account": lambda: [transfer("b"), transfer("c", 1, 99)],
    "twice in a batch": lambda: [transfer("b"), transfer("b")],
    "too many": lambda: [transfer(f"b{n}") for n in range(101)],
    "nothing": list,
}


@pytest.mark.parametrize("others", UNDER_LOCKS.values(), ids=UNDER_LOCKS)
def test_what_the_database_cannot_judge_is_posted_under_locks(funded, trips, no_violations, others):
    async def test() -> None:
        async with posting(funded) as poster:
            await posted(poster, transfer("a"), transfer("z", 3, 2))
            trips.clear()
            await posted(poster, *others())
            assert not any(RECORD in trip for trip in trips)

    run(test)
    no_violations(funded)


def test_accounts_with_held_money_are_posted_under_locks(funded, trips, no_violations):
    async def test() -> None:
        async with posting(funded) as poster:
            await posted(poster, Hold(1, 2, "1", "h"))
            await posted(poster, transfer("a"))
            trips.clear()
            await posted(poster, transfer("b"))
            assert len(trips) > 1

    run(test)
    no_violations(funded)


def test_nothing_is_final_while_the_batch_has_its_time_and_is_not_committed(
    funded, monkeypatch, no_violations
):
    """The COMMIT of the batch is sent after a while."""
    exchange, at = Wire.exchange, list[datetime]()

    async def slow(wire: Wire, *requests: Request) -> Any:
        if len(requests) < 2 or requests[1].statement != RECORD:
            return await exchange(wire, *requests)
        results = await exchange(wire, *requests[:-1])
        at.append(datetime.now(UTC))
        early.append(await account_at(reader[0], 1, at[0]))
        return [*results, *await exchange(wire, requests[-1])]

    reader: list[Reader] = []
    early: list[Any] = []

    async def test() -> None:
        engine = funded.read_engine()
        reader.append(Reader(engine, 1, 30))
        async with posting(funded) as poster:
            await posted(poster, transfer("a"))
            monkeypatch.setattr(Wire, "exchange", slow)
            await posted(poster, transfer("b"))
        assert not early[0].final
        late: Any = await account_at(reader[0], 1, at[0])
        assert late.final
        assert late.view.version == early[0].view.version + 1
        await engine.dispose()

    run(test)
    no_violations(funded)


def test_what_is_known_is_bounded(monkeypatch):
    monkeypatch.setattr(known, "MOST_KNOWN", 10)
    accounts, now = KnownAccounts(), datetime.now(UTC)
    for number in range(1, 60):
        state = AccountState(Account(number, "USD", 1, 2, 0, 0, 0, 0, now))
        ledger = number % 20 + 1
        accounts.learn(ledger, Plan([], [], now, states={number: state, -1: state}))
        if number % 5 == 0:
            accounts.forget(ledger, [number, 1_000])
        kept = sum(map(len, accounts._ledgers.values()))
        assert kept == accounts._count
        assert 0 < kept <= 12


CLIENT = """
import asyncio, random, sys
from ledgerservice.ledger import Ledger, transfer

async def main(url, mark):
    async with Ledger.open(url) as ledger:
        for number in range(60):
            own, other = random.sample(range(1, 5), 2)
            keys = [f"{mark}-{number}-{n}" for n in range(number % 3 + 1)]
            calls = [transfer(own, other, "1", key) for key in keys]
            outcomes = await ledger.post(calls)
            assert all(one.posted and not one.replayed for one in outcomes)

asyncio.run(main(*sys.argv[1:]))
"""


def deadlocks(database: Database) -> int:
    with connect(database) as connection:
        [(count,)] = connection.execute(
            "SELECT deadlocks FROM pg_stat_database WHERE datname = current_database()"
        ).fetchall()
    return int(count)


@pytest.mark.processes
def test_two_processes_post_on_the_same_hot_accounts(funded, no_violations):
    children = [
        subprocess.Popen([sys.executable, "-c", CLIENT, url_text(funded), f"p{number}"])
        for number in range(2)
    ]
    assert [child.wait(120) for child in children] == [0, 0]
    assert deadlocks(funded) == 0
    assert sum(balances(funded)) == 1_000 * ACCOUNTS
    with connect(funded) as connection:
        [(count,)] = connection.execute(
            "SELECT count(*) FROM ledger.transactions WHERE kind = 3"
        ).fetchall()
    assert count == 2 * 60 * 2
    no_violations(funded)


def test_states_two_batches_old_are_refused(funded, trips, monkeypatch, no_violations):
    """The trigger does not trust what is known: nothing wrong is written, and all is posted."""
    learn, older = KnownAccounts.learn, list[Any]()

    def learn_late(accounts: Any, ledger: int, plan: Any) -> None:
        learn(accounts, ledger, plan)
        older.append(dict(accounts._ledgers[ledger]))
        if len(older) > 2:
            accounts._ledgers[ledger] = dict(older[-3])

    before = metrics.KNOWN_BATCHES.values.get(("refused",), 0)
    monkeypatch.setattr(KnownAccounts, "learn", learn_late)
    monkeypatch.setattr(known, "BATCHES_UNDER_LOCKS", 1)

    async def test() -> None:
        async with posting(funded) as poster:
            for number in range(12):
                own, other = random.sample((1, 2), 2)
                [answer] = await posted(poster, transfer(f"{number}", own, other))
                assert answer.posted

    run(test)
    assert metrics.KNOWN_BATCHES.values[("refused",)] > before
    assert sum(balances(funded)) == 1_000 * ACCOUNTS
    no_violations(funded)
