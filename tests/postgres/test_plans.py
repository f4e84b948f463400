"""Statements keep their plans, whatever ran before and however large the tables are."""

import asyncio
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from ledgerservice.domain.accounts import Opening
from ledgerservice.domain.instructions import (
    BIGGEST_ID,
    Cancellation,
    Capture,
    Group,
    Hold,
    PolicyChange,
    Release,
    Reversal,
    Schedule,
)
from ledgerservice.domain.transactions import Failed
from ledgerservice.postgres import session
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.pipeline import Request, Wire, number
from ledgerservice.postgres.queries.gathered.accounts import (
    AccountRead,
    HistoryRead,
    find_accounts,
    list_histories,
)
from ledgerservice.postgres.queries.gathered.holds import HoldRead, find_holds
from ledgerservice.postgres.queries.gathered.transactions import (
    KeyRead,
    TransactionRead,
    find_transactions,
)
from ledgerservice.postgres.registration import open_accounts as open_accounts_of
from ledgerservice.posting.movements import MovementBatch
from tests.databases import administer, connect
from tests.postings import deposit, open_accounts

TABLES = "ledger.accounts, ledger.transactions, ledger.entries, ledger.details, ledger.holds"


@pytest.fixture(scope="module", params=["never", "tiny", "grown"])
def crowded(request: pytest.FixtureRequest, new_database: Callable[..., Database]) -> Database:
    """A ledger of 8,002 accounts, and when its tables were analyzed."""
    database = new_database()
    open_accounts(database, "USD", "USD")
    if request.param == "tiny":  # statistics of tiny tables, which then grow
        administer(database.url, f"ANALYZE {TABLES}")

    async def grow() -> None:
        wire = await database.connect_writer()
        openings = [Opening("o", "USD", None, f"more{n}") for n in range(8000)]
        await open_accounts_of(wire, openings)
        await wire.close()

    asyncio.run(grow())
    if request.param == "grown":
        administer(database.url, f"ANALYZE {TABLES}")
    return database


@pytest.mark.parametrize("sizes", [[1, 8000, 1], [8000, 1], [1000] * 5])
@pytest.mark.parametrize("plans", [session.WRITER_PLANS, {}], ids=["ours", "another"])
def test_a_batch_of_one_touches_few_rows_after_any_other_batch(
    new_database, crowded, sizes, plans, monkeypatch
):
    """A plan made for another size, or for smaller tables, stays in the connection's cache.

    The journal's trigger pins its plans itself, for whoever's session it runs in.
    """
    monkeypatch.setattr(session, "WRITER_PLANS", plans)
    database = new_database(crowded)

    async def test() -> None:
        wire, work = await database.connect_writer(), MovementBatch()
        for step, size in enumerate(sizes):
            before = await touched(wire)
            batch = [deposit(n % 8000 + 1, 1, f"{step}-{n}") for n in range(size)]
            await work(wire, [Group(batch)])
            rows = await touched(wire) - before
            assert max(rows.values()) < 10 * size + 100, f"batch {step} of {size}: {rows}"
        await wire.close()

    asyncio.run(test())


@pytest.mark.parametrize("analyzed", ["never", "tiny", "grown"])
def test_gathered_reads_touch_what_they_return(database, analyzed):
    open_accounts(database, "USD", "USD")
    if analyzed == "tiny":
        administer(database.url, f"ANALYZE {TABLES}")

    async def grow(accounts: int, deposits: int) -> None:
        wire, work = await database.connect_writer(), MovementBatch()
        openings = [Opening("o", "USD", None, f"more{n}") for n in range(accounts)]
        await open_accounts_of(wire, openings)
        for step in range(deposits):
            batch = [deposit(n + 1, 1, f"{step}-{n}") for n in range(accounts)]
            await work(wire, [Group(batch)])
        held = [Hold(n + 1, None, "0.01", "hold", expires_at=SOON) for n in range(accounts)]
        await work(wire, [Group(held)])
        await wire.close()

    async def read(wire: Wire, accounts: int) -> None:
        [placed] = await wire.exchange(Request(LIST_HOLDS, [number(accounts)]))
        held = [hold_id for (hold_id,) in placed.rows]
        await wire.exchange(Request("SELECT pg_stat_force_next_flush()"))
        await wire.exchange(Request("BEGIN"))
        ids = range(1, accounts + 1)
        found = await find_accounts(wire, [AccountRead(1, n) for n in ids])
        assert [view.id for view in found if view is not None] == list(ids)
        pages = await list_histories(wire, [HistoryRead(1, n, 9, 3) for n in ids])
        newest = [page[0].transaction_id for page in pages if page]
        by_id = await find_transactions(wire, [TransactionRead(1, n) for n in newest])
        by_key = await find_transactions(wire, [KeyRead(1, n, f"0-{n - 1}") for n in ids])
        assert [built and built.transaction.id for built in by_id] == newest
        if held:
            views = await find_holds(wire, [HoldRead(1, n) for n in held])
            assert [view and view.id for view in views] == held
        assert [built and built.transaction.account_id for built in by_key] == [
            n if page else None for n, page in zip(ids, pages, strict=True)
        ]
        (touched_rows, _) = await wire.exchange(Request(TOUCHED_HERE), Request("COMMIT"))
        rows: dict[str, int] = dict(touched_rows.rows)
        entries = 2 * sum(map(len, pages)) + 4 * sum(map(bool, pages)) + 3 * len(held)
        assert max(rows.values()) <= entries + 2 * accounts + 20, rows

    async def test() -> None:
        wire = await database.connect_writer()
        for _ in range(6):  # a plan for any values is made
            await read(wire, 2)
        await grow(1_000, 12)
        if analyzed == "grown":
            administer(database.url, f"ANALYZE {TABLES}")
        for accounts in (1, 20, 2, 300):
            await read(wire, accounts)
        assert [len(page) for page in await list_histories(wire, PAGES)] == [3, 0, 8, 0]
        await wire.close()

    asyncio.run(test())


LIST_HOLDS = """SELECT id FROM ledger.transactions WHERE ledger_id = 1 AND idempotency_key = 'hold'
ORDER BY id LIMIT $1"""
SOON = datetime.now(UTC) + timedelta(hours=1)
PAGES = [
    HistoryRead(1, 7, BIGGEST_ID, 3),
    HistoryRead(2, 7, BIGGEST_ID, 3),
    HistoryRead(1, 7, 9, 100),
    HistoryRead(1, 99_999, 9, 100),
]
"""Of an account with twelve entries, of a ledger and of an account that are not there."""


@pytest.mark.parametrize("analyzed", ["never", "tiny"])
def test_an_account_is_found_by_its_key_while_the_ledger_grows(database, analyzed):
    """An index that was read from end to end for each account shows in its blocks, not in rows."""
    if analyzed == "tiny":
        administer(database.url, f"ANALYZE {TABLES}")

    async def test() -> None:
        opener, wire = await database.connect_writer(), await database.connect_writer()
        work = MovementBatch()
        for size in (500, 2_000, 6_000):
            openings = [Opening("o", "USD", None, f"{size}-{n}") for n in range(size)]
            opened = await open_accounts_of(opener, openings)
            new = [one.account_id for one in opened if one.account_id is not None]
            before = await account_blocks(wire)
            await work(wire, [Group([deposit(i, 1, "funds") for i in new])])
            blocks = await account_blocks(wire) - before
            assert blocks < 14 * size, f"{size} accounts were found by reading {blocks} blocks"
        await opener.close()
        await wire.close()

    asyncio.run(test())


async def account_blocks(wire: Wire) -> int:
    """The blocks of the accounts' indexes that have been read so far."""
    await wire.exchange(Request("SELECT pg_stat_force_next_flush()"))
    (result,) = await wire.exchange(
        Request(
            "SELECT (idx_blks_read + idx_blks_hit)::bigint FROM pg_statio_user_tables"
            " WHERE schemaname = 'ledger' AND relname = 'accounts'"
        ),
    )
    return result.rows[0][0]


@pytest.mark.parametrize("table", ["accounts", "holds", "schedules"])
def test_what_the_journal_moves_has_one_index_that_finds_a_row(used, table):
    """A second one could win a tie while the table is small, and keep the plan."""
    with connect(used) as connection:
        others = connection.execute(
            "SELECT indexrelid::regclass::text FROM pg_index WHERE indrelid = %s::regclass"
            " AND NOT indisprimary AND indpred IS NULL",
            (f"ledger.{table}",),
        ).fetchall()
    assert others == []


def test_a_function_that_pins_its_plans_is_not_compiled(used):
    """A pinned plan seems dear, so that JIT, where it is on, would compile it for seconds."""
    with connect(used) as connection:
        compiled = connection.execute(
            "SELECT proname FROM pg_proc WHERE pronamespace = 'ledger'::regnamespace"
            " AND proconfig::text LIKE '%enable_%' AND NOT 'jit=off' = ANY (proconfig)"
        ).fetchall()
    assert compiled == []


@pytest.mark.parametrize("analyzed", ["never", "tiny", "grown"])
def test_steps_touch_few_rows_while_the_tables_grow(database, analyzed):
    """Whatever builds on a transaction finds it, and what is left of it, by its id."""
    open_accounts(database, "USD", "USD")
    soon = datetime.now(UTC) + timedelta(days=1)

    def steps(turn: int, of: dict[str, int]) -> dict[str, Any]:
        return {
            "hold": Hold(1, 2, "1", f"hold {turn}"),
            "schedule": Schedule(1, 2, "1", soon, f"schedule {turn}"),
            "capture": Capture(of.get("hold", 0), f"capture {turn}", amount="0.1"),
            "release": Release(of.get("hold", 0), f"release {turn}"),
            "cancellation": Cancellation(of.get("schedule", 0), f"cancellation {turn}"),
            "reversal": Reversal(of.get("capture", 0), f"reversal {turn}"),
        }

    async def test() -> None:
        wire, work = await database.connect_writer(), MovementBatch()
        for turn in range(3):
            many: list[Any] = [deposit(1, 1, f"{turn}-{n}") for n in range(1_000)]
            many += [Hold(1, 2, "0.01", f"h {turn}-{n}") for n in range(300)]
            many += [Schedule(1, 2, "1", soon, f"s {turn}-{n}") for n in range(300)]
            many += [PolicyChange(2, f"p {turn}-{n}", "-1") for n in range(300)]
            await work(wire, [Group(many)])
            ids: dict[str, int] = {}
            for name in steps(turn, ids):
                before = await touched(wire)
                [outcomes] = await work(wire, [Group([steps(turn, ids)[name]])])
                assert not isinstance(outcomes, Failed)
                [outcome] = outcomes
                assert outcome.posted
                ids[name] = outcome.transaction.id
                rows = await touched(wire) - before
                assert max(rows.values()) < 110, f"{name} {turn}: {rows}"
            if turn == 0 and analyzed == "grown":
                administer(database.url, f"ANALYZE {TABLES}")
        await wire.close()

    if analyzed == "tiny":
        administer(database.url, f"ANALYZE {TABLES}")
    asyncio.run(test())


TOUCHED_HERE = """
SELECT relname, (seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint
FROM pg_stat_xact_user_tables WHERE schemaname = 'ledger'
"""
"""The rows of each table that this transaction has read."""


async def touched(wire: Wire) -> Counter[str]:
    """The rows of each table that have been read so far."""
    await wire.exchange(Request("SELECT pg_stat_force_next_flush()"))
    (result,) = await wire.exchange(
        Request(
            "SELECT relname, (seq_tup_read + coalesce(idx_tup_fetch, 0))::bigint"
            " FROM pg_stat_user_tables WHERE schemaname = 'ledger' AND relname <> 'currencies'"
        ),
    )
    return Counter(dict(result.rows))
