"""Batches that overlap, against a real PostgreSQL: what its trigger judges, and what waits."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from typing import Any

import pytest
from sqlalchemy import text

from ledgerservice.domain import planner
from ledgerservice.domain.instructions import (
    Frozen,
    Group,
    Hold,
    Instruction,
    Kind,
    Movement,
    PolicyChange,
)
from ledgerservice.feed.horizon import Horizon
from ledgerservice.postgres import journal, locking
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.pipeline import Wire
from ledgerservice.postgres.queries.as_of import account_at
from ledgerservice.postgres.reader import Reader
from ledgerservice.posting import movements, overlapping
from ledgerservice.posting.movements import MovementBatch
from ledgerservice.posting.overlapping import OverlappingPoster
from ledgerservice.posting.poster import Limits
from tests.databases import administer, connect
from tests.postings import deposit, open_accounts, post

LIMITS = Limits(queue_requests=10_000, batch_requests=1_000, deadline_s=30)
MANY = 600
ACCOUNTS = 4


@pytest.fixture
def funded(database: Database) -> Database:
    """A database with accounts 1 to 4, which have money."""
    open_accounts(database, *["USD"] * ACCOUNTS)
    post(database, [deposit(n, 100_000, f"funds {n}") for n in range(1, ACCOUNTS + 1)])
    return database


def transfers(mark: str, own: int, other: int, count: int = MANY) -> Group:
    return Group([Movement(Kind.TRANSFER, own, other, "1", f"{mark} {n}") for n in range(count)])


class Scene:
    """A poster of which the first batch stops before its COMMIT, as the second is written."""

    def __init__(self, database: Database, patch: pytest.MonkeyPatch) -> None:
        self.database = database
        self.planned, self.written, self.go = asyncio.Event(), asyncio.Event(), asyncio.Event()
        self.before_rows: Callable[[], Awaitable[None]] | None = None
        self.results: list[str] = []
        self._commits = 0
        self._patch = patch

    async def open(self) -> None:
        commit, begin = journal.commit, journal.begin_recording
        finish = movements.Overlap.finish

        async def slow_commit(wire: Wire, *writes: Any) -> Any:
            self._commits += 1
            if self._commits == 1:
                self.planned.set()
                await self.go.wait()
            return await commit(wire, *writes)

        async def noted_begin(wire: Wire, ledger: int, plan: planner.Plan) -> None:
            if self.before_rows is not None:
                await self.before_rows()
            await begin(wire, ledger, plan)
            self.written.set()

        async def noted_finish(overlap: movements.Overlap) -> Any:
            self.results.append("refused")
            answers = await finish(overlap)
            self.results[-1] = "committed"
            return answers

        self._patch.setattr(journal, "commit", slow_commit)
        self._patch.setattr(journal, "begin_recording", noted_begin)
        self._patch.setattr(movements.Overlap, "finish", noted_finish)
        self.poster = OverlappingPoster(self.database.connect_writer, LIMITS)

    def post(self, group: Group) -> "asyncio.Task[Any]":
        return asyncio.create_task(self.poster.post(group))

    async def first_and_second(
        self, first: Group, second: Group
    ) -> tuple["asyncio.Task[Any]", "asyncio.Task[Any]"]:
        """Two batches: the first is about to commit, and the second waits for it."""
        one = self.post(first)
        await self.planned.wait()
        two = self.post(second)
        return one, two


@asynccontextmanager
async def scene_on(database: Database, patch: pytest.MonkeyPatch) -> AsyncIterator[Scene]:
    scene = Scene(database, patch)
    await scene.open()
    try:
        yield scene
    finally:
        scene.go.set()
        await scene.poster.close()


def run(work: Callable[[], Awaitable[None]]) -> None:
    asyncio.run(asyncio.wait_for(work(), 60))


def all_posted(outcomes: Any) -> bool:
    return all(one.posted and not one.replayed for one in outcomes)


def balances(database: Database) -> list[int]:
    with connect(database) as connection:
        rows = connection.execute("SELECT balance FROM ledger.accounts WHERE id > 0 ORDER BY id")
        return [row[0] // 100 for row in rows]


@pytest.mark.parametrize("since", [locking.ORDERED_ARRAYS, 10**9], ids=["18", "up to 16"])
def test_batches_overlap_and_each_is_answered_after_those_before_it(
    funded, monkeypatch, no_violations, since
):
    monkeypatch.setattr(locking, "ORDERED_ARRAYS", since)
    answered: list[int] = []

    async def test() -> None:
        async with scene_on(funded, monkeypatch) as scene:
            scene.go.set()
            calls = [scene.post(transfers(f"b{n}", n % 4 + 1, (n + 1) % 4 + 1)) for n in range(8)]

            async def note(number: int) -> None:
                assert all_posted(await calls[number])
                answered.append(number)

            await asyncio.gather(*map(note, range(8)))
            assert scene.results.count("committed") >= 4
            assert "refused" not in scene.results

    run(test)
    assert answered == list(range(8))
    assert balances(funded) == [100_000] * 4
    no_violations(funded)


def test_the_second_is_not_answered_before_the_first_has_committed(funded, monkeypatch):
    async def test() -> None:
        async with scene_on(funded, monkeypatch) as scene:
            first, second = await scene.first_and_second(transfers("a", 1, 2), transfers("b", 2, 3))
            await scene.written.wait()
            await asyncio.sleep(0.1)
            assert not first.done()
            assert not second.done()
            scene.go.set()
            assert all_posted(await first)
            assert all_posted(await second)
            assert scene.results == ["committed"]

    run(test)
    assert balances(funded) == [100_000 - MANY, 100_000, 100_000 + MANY, 100_000]


async def another_process_posts(database: Database, *instructions: Instruction) -> None:
    wire = await database.connect_writer()
    await MovementBatch()(wire, [Group(instructions)])
    await wire.close()


OTHERS = {
    "a deposit": lambda: deposit(3, 5, "other"),
    "a hold": lambda: Hold(3, 4, "99999", "other"),
    "a freeze": lambda: PolicyChange(3, "other", frozen=Frozen.DEBITS),
    "a low ceiling": lambda: PolicyChange(4, "other", ceiling="100000"),
}


@pytest.mark.parametrize("other", OTHERS.values(), ids=OTHERS)
def test_what_another_process_changes_meanwhile_is_seen(funded, monkeypatch, no_violations, other):
    """The second batch has read accounts 3 and 4 when another process writes to them."""

    async def test() -> None:
        async with scene_on(funded, monkeypatch) as scene:

            async def others() -> None:
                scene.before_rows = None
                await another_process_posts(funded, other())

            scene.before_rows = others
            first, second = await scene.first_and_second(transfers("a", 1, 2), transfers("b", 3, 4))
            await scene.written.wait()
            scene.go.set()
            assert all_posted(await first)
            outcomes = await second
            assert scene.results == ["refused"]
            reasons = {o.transaction.refusal.reason.value for o in outcomes if not o.posted}
            assert len(reasons) == (0 if type(other()) is Movement else 1)

    run(test)
    no_violations(funded)


def test_another_process_that_waits_for_rows_of_the_second_gets_its_turn(
    funded, monkeypatch, no_violations
):
    """It has locked account 3, and waits for the second batch, which waits for the first."""

    async def test() -> None:
        async with scene_on(funded, monkeypatch) as scene:
            first, second = await scene.first_and_second(transfers("a", 1, 2), transfers("b", 3, 4))
            await scene.written.wait()
            await another_process_posts(funded, deposit(3, 5, "other"))
            assert not first.done()
            scene.go.set()
            assert all_posted(await first)
            assert all_posted(await second)
            assert scene.results == []

    run(test)
    assert balances(funded)[2:] == [100_000 - MANY + 5, 100_000 + MANY]
    no_violations(funded)


def backend_of(database: Database, state: str) -> int:
    """The poster's backend that is in `state`: of the first batch, or of the second."""
    with connect(database) as connection:
        [(pid,)] = connection.execute(
            "SELECT pid FROM pg_stat_activity WHERE datname = current_database()"
            " AND application_name = 'ledgerservice' AND state = %s",
            [state],
        ).fetchall()
        return int(pid)


@pytest.mark.parametrize("state", ["idle in transaction", "active"], ids=["first", "second"])
def test_a_backend_that_ends_between_copy_and_commit_costs_nothing(
    funded, monkeypatch, no_violations, state
):
    async def test() -> None:
        async with scene_on(funded, monkeypatch) as scene:
            first, second = await scene.first_and_second(transfers("a", 1, 2), transfers("b", 2, 3))
            await scene.written.wait()
            administer(funded.url, f"SELECT pg_terminate_backend({backend_of(funded, state)})")
            scene.go.set()
            assert all_posted(await first)
            assert all_posted(await second)
            assert "committed" not in scene.results
            assert all_posted(await scene.poster.post(transfers("c", 3, 1)))

    run(test)
    assert balances(funded) == [100_000] * 4
    no_violations(funded)


def test_replays_in_the_second_get_the_answers_of_the_first(funded, monkeypatch, no_violations):
    async def test() -> None:
        async with scene_on(funded, monkeypatch) as scene:
            again = [*transfers("a", 1, 2).movements[:5], *transfers("b", 2, 3).movements]
            first, second = await scene.first_and_second(transfers("a", 1, 2), Group(again))
            await asyncio.sleep(0.2)
            assert not second.done()
            scene.go.set()
            originals, outcomes = await first, await second
            assert [one.replayed for one in outcomes] == [True] * 5 + [False] * MANY
            ids = [one.transaction.id for one in originals[:5]]
            assert [one.transaction.id for one in outcomes[:5]] == ids
            assert scene.results == []

    run(test)
    assert balances(funded)[:3] == [100_000 - MANY, 100_000, 100_000 + MANY]
    no_violations(funded)


def test_nothing_is_final_while_the_second_has_its_time_and_no_locks(funded, monkeypatch):
    monkeypatch.setattr(overlapping, "PATIENCE_S", 30.0)  # the read waits for a second

    async def test() -> None:
        engine = funded.read_engine()
        reader = Reader(engine, 1, 30)
        async with scene_on(funded, monkeypatch) as scene:
            first, second = await scene.first_and_second(transfers("a", 1, 2), transfers("b", 3, 4))
            await scene.written.wait()
            at = datetime.now(UTC)
            early = await account_at(reader, 3, at)
            assert early is not None
            assert not early.final
            scene.go.set()
            await asyncio.gather(first, second)
            late = await account_at(reader, 3, at)
            assert late is not None
            assert late.final
            assert late.view.version == early.view.version + MANY
        await engine.dispose()

    run(test)


def test_every_id_up_to_the_safe_id_is_there(funded, monkeypatch):
    seen: list[tuple[int, int]] = []
    count = "SELECT count(*) FROM ledger.transactions WHERE id <= :safe"

    async def test() -> None:
        engine = funded.read_engine()
        wire, horizon, ended = await funded.connect_writer(), Horizon(), asyncio.Event()

        async def look() -> None:
            while not ended.is_set():
                await horizon.step(wire)
                async with engine.connect() as connection:
                    rows = await connection.scalar(text(count), {"safe": horizon.safe_id})
                seen.append((horizon.safe_id, rows))

        async with scene_on(funded, monkeypatch) as scene:
            scene.go.set()
            looking = asyncio.create_task(look())
            calls = [scene.post(transfers(f"b{n}", n % 4 + 1, (n + 1) % 4 + 1)) for n in range(8)]
            await asyncio.gather(*calls)
            ended.set()
            await looking
            assert "committed" in scene.results
        async with engine.connect() as connection:
            for safe, rows in seen:
                assert await connection.scalar(text(count), {"safe": safe}) == rows
        await wire.close()
        await engine.dispose()

    run(test)
    assert len({safe for safe, _ in seen}) > 2


DRAINED = {
    "a hold among them": Group([*transfers("b", 2, 3).movements, Hold(2, 3, "1", "h")]),
    "a decline": Group([*transfers("b", 2, 3).movements, *transfers("c", 4, 3, 1).movements]),
    "a rejection": Group([*transfers("b", 2, 3).movements, *transfers("c", 2, 99, 1).movements]),
    "a dry run": Group(transfers("b", 2, 3).movements, dry_run=True),
    "all or none": Group(transfers("b", 2, 3).movements, linked=True),
    "money held": transfers("b", 1, 2),
}


@pytest.mark.parametrize("second", DRAINED.values(), ids=DRAINED)
def test_what_the_database_cannot_judge_waits_for_the_first(
    funded, monkeypatch, no_violations, second
):
    post(funded, [Hold(1, 2, "1", "held")])
    if len(second.movements) != MANY:
        post(funded, [Movement(Kind.WITHDRAWAL, 4, None, "100000", "empty")])

    async def test() -> None:
        async with scene_on(funded, monkeypatch) as scene:
            first, later = await scene.first_and_second(transfers("a", 2, 3), second)
            await asyncio.sleep(0.1)
            scene.go.set()
            assert all_posted(await first)
            await later
            assert scene.results == (["committed"] if second.linked else [])

    run(test)
    no_violations(funded)


def test_a_plan_on_states_two_batches_old_is_refused(funded, monkeypatch, no_violations):
    """The trigger does not trust the planner: nothing wrong is written, and all is posted."""
    glimpse, older = locking.glimpse, []

    async def stale(wire: Wire, ledger: int, moves: Any, before: Any, *begin: Any) -> Any:
        now = {n: (s.account, s.balance, s.version) for n, s in before.items()}
        older.append(now)
        seen = await glimpse(wire, ledger, moves, before, *begin)
        for number, state in seen.continued.items():
            if len(older) > 1 and number in older[-2]:
                state.account, state.balance, state.version = older[-2][number]
        return seen

    async def test() -> None:
        async with scene_on(funded, monkeypatch) as scene:
            scene.go.set()
            calls = [scene.post(transfers(f"b{n}", n % 2 + 1, 2 - n % 2)) for n in range(8)]
            for call in calls:
                assert all_posted(await call)
            assert scene.results in (["refused"], ["committed", "refused"])

    monkeypatch.setattr(locking, "glimpse", stale)
    run(test)
    assert balances(funded) == [100_000] * 4
    no_violations(funded)
