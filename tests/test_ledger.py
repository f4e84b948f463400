"""The ledger in process: outcomes, linked movements, and posting in a transaction of one's own."""

import asyncio
import decimal
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine
from sqlalchemy.pool import NullPool

from ledgerservice import Ledger, deposit, transfer, withdrawal
from ledgerservice.domain.accounts import Opened
from ledgerservice.domain.instructions import (
    Cancellation,
    Capture,
    Detail,
    Exchange,
    Execution,
    General,
    Hold,
    Kind,
    Leg,
    Movement,
    Origin,
    PolicyChange,
    Release,
    Reversal,
    Schedule,
)
from ledgerservice.domain.transactions import DeclineReason, Failed, Recorded, Rejected, Rejection
from ledgerservice.domain.validation import fault_of
from ledgerservice.errors import CannotJoin, InvalidField
from ledgerservice.postgres import search
from ledgerservice.postgres.queries.accounts import AccountFilter
from ledgerservice.postgres.queries.transaction_filters import TransactionFilter
from tests.databases import connect, url_text


def with_ledger(database, test: Callable[[Ledger], Awaitable[None]]) -> None:
    """Run `test` on a ledger with the accounts 1 (USD 10.00) and 2 (USD 0)."""

    async def run() -> None:
        async with Ledger.open(url_text(database)) as ledger:
            for number in (1, 2):
                opened = await ledger.open_account("Alice", "USD", key=f"open-{number}")
                assert isinstance(opened, Opened)
            assert (await ledger.deposit(1, 10, key="funding")).posted
            await test(ledger)

    asyncio.run(asyncio.wait_for(run(), 60))


async def balances(ledger: Ledger) -> list[int]:
    return [(await ledger.account(number)).balance for number in (1, 2)]


def test_money_moves_and_outcomes_are_values(database, no_violations):
    async def test(ledger: Ledger) -> None:
        moved = await ledger.transfer(1, 2, "2.50", key="t")
        assert moved.posted
        assert (await ledger.transfer(1, 2, decimal.Decimal("2.5"), key="t")).replayed
        assert (await ledger.outcome_of(1, "t")).id == moved.transaction.id
        assert (await ledger.transaction(moved.transaction.id)).amount == 250
        declined = await ledger.withdraw(2, 3, key="w")
        assert declined.transaction.refusal.reason is DeclineReason.INSUFFICIENT_FUNDS
        assert (await ledger.deposit(99, 1, key="d")).reason is Rejection.ACCOUNT_NOT_FOUND
        assert [entry.amount for entry in await ledger.history(1)] == [-250, 1000]
        assert await balances(ledger) == [750, 250]

    with_ledger(database, test)
    no_violations(database)


def test_what_cannot_be_recorded_is_not_there(database):
    async def test(ledger: Ledger) -> None:
        for number in (0, -99, 99, 2**63 - 1, 2**63, -(2**63) - 1, 10**30):
            assert await ledger.account(number) is None
            assert await ledger.transaction(number) is None
            assert await ledger.hold(number) is None
            assert await ledger.outcome_of(number, "funding") is None
            assert await ledger.account_at(number, datetime(2099, 1, 1, tzinfo=UTC)) is None
            assert await ledger.schedule(number) is None
            assert await ledger.statement(number) is None
            assert await ledger.statement(number, by="effective") is None
            for listing in (ledger.history, ledger.holds, ledger.schedules, ledger.policies):
                assert await listing(number) == []
            assert await ledger.named_accounts([], [number]) == []
        for key in ("", "\0", "a\0b", "\ud800", "größe", "k" * 10_000):
            assert await ledger.outcome_of(1, key) is None
            assert await ledger.named_accounts([key], []) == []
        with pytest.raises(InvalidField):
            await ledger.totals("a\0b")

    with_ledger(database, test)


def test_what_http_can_read_python_can(database):
    async def test(ledger: Ledger) -> None:
        opened = await ledger.open_account("Bob", "USD", key="b", metadata='{"tier":"gold"}')
        deep = '{"a":' * 8 + "1" + "}" * 8
        for bad in ("[]", "{", '{"a":"\\u0000"}', '{"a":' * 5_000, '{"a":1e9}', '{"a":1,"a":2}',
                    '{"a":"\\ud800"}', deep, '{"a":"%s"}' % ("x" * 8_192)):  # fmt: skip
            with pytest.raises(ValueError, match="metadata"):
                await ledger.open_account("Bob", "USD", key="c", metadata=bad)
        for bad_key in ("", "größe", "k" * 256):
            with pytest.raises(ValueError, match="key"):
                await ledger.open_account("Bob", "USD", key=bad_key)
        [held, scheduled] = await ledger.post(
            [
                Hold(1, opened.account_id, "4", "h"),
                Schedule(1, 2, "1", datetime(2099, 1, 1, tzinfo=UTC), "s"),
            ]
        )
        await ledger.post([PolicyChange(1, "p", "-5", actor="me", reason="so")])
        noted = Detail("salary", metadata='{"month":"May"}')
        assert opened.account_id is not None
        assert (await ledger.deposit(opened.account_id, 7, key="n", detail=noted)).posted
        with pytest.raises(ValueError, match="metadata"):
            await ledger.deposit(opened.account_id, 7, key="o", detail=Detail(metadata="[]"))
        [(total, _)] = await ledger.totals("month")
        assert (total.value, total.amount) == ("May", 700)
        owners = {row.owner: row.balance for row in await ledger.owner_balances()}
        assert owners["Bob"] == 700
        assert (await ledger.hold(held.transaction.id)).remaining == 400
        assert (await ledger.schedule(scheduled.transaction.id)).settled_by is None
        lists: list[tuple[Any, Any]] = [(ledger.holds, held), (ledger.schedules, scheduled)]
        for listed, one in lists:
            [only] = await listed(1)
            assert (only.id, await listed(1, after=only)) == (one.transaction.id, [])
        assert [policy.floor for policy in await ledger.policies(1)] == [-500]

        gold = AccountFilter(metadata='{"tier":"gold"}')
        [bob], end = await ledger.accounts(gold)
        assert (bob.id, bob.metadata, end) == (opened.account_id, '{"tier":"gold"}', None)
        seen: list[int] = []
        place: Any = None
        while len(seen) < 9:
            some, place = await ledger.accounts(limit=2, after=place)
            seen += [account.id for account in some]
            if place is None:
                break
        assert seen == [1, 2, opened.account_id]
        holds, _ = await ledger.transactions(TransactionFilter(kind=Kind.HOLD))
        assert [t.id for t in holds] == [held.transaction.id]

        moment = held.transaction.recorded_at
        then = await ledger.account_at(1, moment - timedelta(microseconds=1))
        assert (then.view.balance, then.view.held, then.final) == (1000, 0, True)
        statement = await ledger.statement(1, until=moment)
        assert statement is not None
        assert (statement.opening, statement.closing) == (0, 1000)
        assert [line.amount async for line in ledger.lines(statement)] == [1000]
        [dollars], final = await ledger.trial_balance(moment)
        assert (dollars.currency, dollars.total, dollars.customers, final) == ("USD", 0, 1000, True)
        assert await ledger.account_at(99, moment) is None
        assert await ledger.statement(99) is None
        naive = moment.replace(tzinfo=None)
        for ask in (ledger.account_at(1, naive), ledger.trial_balance(naive)):
            with pytest.raises(ValueError, match="zone"):
                await ask
        with pytest.raises(ValueError, match="until"):
            await ledger.statement(1, moment, moment - timedelta(seconds=1))

    with_ledger(database, test)


def test_what_takes_effect_by_a_time_is_there_in_python(database):
    """Each read by effective time; what was recorded by that time is nothing."""
    first, second = datetime(1993, 3, 1, tzinfo=UTC), datetime(1993, 3, 2, tzinfo=UTC)

    async def test(ledger: Ledger) -> None:
        dated = Detail(effective_at=first, metadata={"month": "March"})
        await ledger.deposit(1, "5", key="dated", detail=dated)
        await ledger.deposit(2, "7", key="undated", detail=Detail(metadata={"month": "now"}))
        statement = await ledger.statement(1, first, second, by="effective")
        assert statement is not None
        assert (statement.opening, statement.closing) == (0, 500)
        assert [line.amount async for line in ledger.lines(statement)] == [500]
        recorded = await ledger.statement(1, first, second)
        assert recorded is not None
        assert [line.amount async for line in ledger.lines(recorded)] == []
        [dollars], final = await ledger.trial_balance(first, by="effective")
        assert (dollars.customers, dollars.total, dollars.accounts, final) == (500, 0, 1, False)
        assert await ledger.trial_balance(first) == ([], True)
        before = first - timedelta(microseconds=1)
        assert await ledger.trial_balance(before, by="effective") == ([], False)
        [owner] = await ledger.owner_balances(at=first, by="effective")
        assert (owner.balance, owner.held, owner.accounts) == (500, None, 1)
        assert await ledger.owner_balances(at=first) == []
        [(total, _)] = await ledger.totals("month", first, second, by="effective")
        assert (total.value, total.amount) == ("March", 500)
        assert await ledger.totals("month", first, second) == []
        period = TransactionFilter(since=first, until=second, by="effective")
        [one], _ = await ledger.transactions(period)
        assert one.key == "dated"
        listed, _ = await ledger.transactions(TransactionFilter(by="effective"))
        assert [row.key for row in listed] == ["undated", "funding", "dated"]

    with_ledger(database, test)


def test_a_list_is_of_one_snapshot(database):
    """A commit between a page and the search for its end changes neither."""

    async def test(ledger: Ledger) -> None:
        counting = "SELECT count(*) FROM ledger.transactions WHERE ledger_id = :ledger"
        async with search.pinned(ledger._readers.only) as run:
            before = await run(counting, {})
            await ledger.deposit(1, 1, key="between")
            assert await run(counting, {}) == before

    with_ledger(database, test)


@pytest.mark.parametrize("size", [1, 499, 500, 9_000])
def test_many_movements_a_call_are_answered_in_order_and_replayed_whole(
    database, no_violations, size
):
    """By INSERT, by COPY, and past the limit of a batch."""

    async def test(ledger: Ledger) -> None:
        movements = [transfer(1, 2, "0.01", f"\\{n} '\"") for n in range(size)]
        first = await ledger.post(movements)
        posted = min(size, 1000)
        assert [o.posted for o in first] == [True] * posted + [False] * (size - posted)
        assert [o.transaction.key for o in first] == [m.key for m in movements]
        again = await ledger.post(movements)
        assert all(o.replayed for o in again)
        assert [o.transaction for o in again] == [o.transaction for o in first]
        assert await balances(ledger) == [1000 - posted, posted]

    with_ledger(database, test)
    no_violations(database)


PAID, POOR = transfer(1, 2, 4, "seen"), withdrawal(2, 4, "seen")
SEEN = {
    "a repeat": (PAID, transfer(1, 2, "4.00", "seen"), True),
    "a repeat of a decline": (POOR, POOR, True),
    "another amount": (PAID, transfer(1, 2, 5, "seen"), False),
    "an amount that cannot be": (PAID, transfer(1, 2, "0.001", "seen"), False),
    "an account that is not there": (PAID, transfer(1, 99, 4, "seen"), False),
}


@pytest.mark.parametrize("linked", [False, True])
@pytest.mark.parametrize(("first", "then", "same"), SEEN.values(), ids=SEEN)
def test_a_key_seen_before_is_found_among_many_new_ones(
    database, no_violations, first, then, same, linked
):
    """A large batch is posted without looking for its keys, as long as all are new."""

    async def test(ledger: Ledger) -> None:
        seen = await ledger.post([first])
        new = [deposit(1, 1, f"new-{n}") for n in range(500)]
        answer = await ledger.post([*new[:250], then, *new[250:]], linked=linked)
        single = await ledger.post([then])
        if linked and not single[0].posted:
            assert answer == Failed(250, single[0])
            assert await ledger.outcome_of(1, "new-0") is None
        else:
            assert answer[250] == single[0]
            assert all(o.posted and not o.replayed for o in answer[:250] + answer[251:])
        if same:
            assert single[0] == Recorded(seen[0].transaction, replayed=True)
        else:
            assert single[0] == Rejected(Rejection.KEY_REUSED, 1)

    with_ledger(database, test)
    no_violations(database)


def test_linked_movements_are_all_posted_or_none(database, no_violations):
    async def test(ledger: Ledger) -> None:
        pay = [transfer(1, 2, 4, "a"), transfer(2, 1, 1, "b"), transfer(1, 2, 8, "c")]
        failed = await ledger.post(pay, linked=True)
        assert isinstance(failed, Failed)
        assert failed.index == 2
        assert failed.outcome.transaction.refusal.available == 700
        assert await balances(ledger) == [1000, 0]
        assert [await ledger.outcome_of(1, key) for key in "ac"] == [None, None]
        missing = await ledger.post([pay[0], deposit(99, 1, "z")], linked=True)
        assert (missing.index, missing.outcome.reason) == (1, Rejection.ACCOUNT_NOT_FOUND)
        await ledger.deposit(1, 1, key="more")
        assert all(outcome.posted for outcome in await ledger.post(pay, linked=True))
        assert all(outcome.replayed for outcome in await ledger.post(pay, linked=True))
        assert await balances(ledger) == [0, 1100]

    with_ledger(database, test)
    no_violations(database)


def test_linked_groups_share_a_batch_with_others(database, no_violations):
    """What a failed group did is taken back before the next is decided."""

    async def test(ledger: Ledger) -> None:
        groups = [
            ledger.post([transfer(1, 2, 6, f"{n}"), transfer(1, 2, 6, f"{n}+")], linked=True)
            for n in range(20)
        ]
        single = ledger.transfer(1, 2, 10, key="single")
        *failed, outcome = await asyncio.gather(*groups, single)
        assert all(isinstance(answer, Failed) and answer.index == 1 for answer in failed)
        assert outcome.posted

    with_ledger(database, test)
    no_violations(database)


@pytest.mark.parametrize(
    ("amount", "key"),
    [(1.5, "k"), ("-1", "k"), (0, "k"), (True, "k"), ("1e3", "k"), (1, ""), (1, "é"),
     (1, "k" * 256), (decimal.Decimal("NaN"), "k")],
)  # fmt: skip
def test_what_is_no_movement_is_not_made(amount, key):
    with pytest.raises(ValueError, match=r"amount|key"):
        withdrawal(1, amount, key)


EARLY = datetime(2026, 1, 1, tzinfo=UTC)
MALFORMED = [
    (PolicyChange(1, "p", frozen=8, actor="a", reason="r"), "frozen"),
    (PolicyChange(1, "p", frozen=4, actor="a", reason="r"), "frozen"),
    (PolicyChange(1, "p", "-1", reason="r"), "actor"),
    (PolicyChange(1, "p", "-1", actor="a"), "reason"),
    (Reversal(1, "r", force=True, actor="a"), "description"),
    (Reversal(1, "r", force=True, detail=Detail("why")), "actor"),
    (Reversal(1, "r", actor="a"), "actor"),
    (Hold(1, None, "1", "h", EARLY, EARLY), "capture_at"),
    (General((Leg(1, "-1"), Leg(2, "1")), "g", Exchange("USD", "INR", "1" * 41)), "rate"),
    (Movement(Kind.DEPOSIT, 1, None, "1", "m", Detail(metadata='{"a":1e9}')), "metadata"),
    *((step(7, "execution 8", origin=origin), "origin")
      for step in (Capture, Release, Reversal, Execution, Cancellation)
      for origin in Origin if origin is not Origin.CALLER),
]  # fmt: skip


@pytest.mark.parametrize(("asked", "field"), MALFORMED, ids=[field for _, field in MALFORMED])
def test_a_malformed_instruction_is_not_posted(asked, field):
    assert field in str(fault_of(asked))


# In a transaction of the caller's.


def with_orders(database, test: Callable, **engine_options: object) -> None:
    """Run `test` with a ledger, and an engine on a table of orders in the same database."""
    with connect(database) as connection:
        connection.execute("CREATE TABLE orders (key text PRIMARY KEY)")
    url = database.url.render_as_string(hide_password=False)

    async def run(ledger: Ledger) -> None:
        engine = create_async_engine(url, poolclass=NullPool, **engine_options)
        await test(ledger, engine)

    with_ledger(database, run)


def orders(database) -> int:
    with connect(database) as connection:
        [(number,)] = connection.execute("SELECT count(*) FROM orders").fetchall()
        return number


BOOK = text("INSERT INTO orders VALUES (:key)")


@pytest.mark.parametrize("size", [1, 600])
def test_an_order_and_its_payments_are_booked_in_one_commit(database, no_violations, size):
    payments = [transfer(1, 2, "0.01", f"order-{n}") for n in range(size)]

    async def test(ledger, engine) -> None:
        async with engine.begin() as connection:
            await connection.execute(BOOK, {"key": "1"})
            outcomes = await ledger.post_in(connection, payments)
            assert all(outcome.posted for outcome in outcomes)
            assert await balances(ledger) == [1000, 0]  # not seen before the commit
        assert await balances(ledger) == [1000 - size, size]
        async with engine.begin() as connection:
            again = await ledger.post_in(connection, payments)
            assert [outcome.transaction for outcome in again] == [o.transaction for o in outcomes]
            await connection.execute(BOOK, {"key": "2"})  # the connection is still its owner's

    with_orders(database, test)
    assert orders(database) == 2
    no_violations(database)


def test_what_is_rolled_back_was_never_paid(database, no_violations):
    async def test(ledger, engine) -> None:
        payment = [transfer(1, 2, 4, "order-1")]
        async with engine.connect() as connection:
            await connection.execute(BOOK, {"key": "1"})
            assert (await ledger.post_in(connection, payment))[0].posted
            await connection.rollback()
        assert await ledger.outcome_of(1, "order-1") is None
        assert not (await ledger.post(payment))[0].replayed

    with_orders(database, test)
    assert orders(database) == 0
    no_violations(database)


def test_a_fault_leaves_the_caller_s_transaction_to_be_rolled_back(database):
    """Another run won the key in between: the unique key is the last judge."""

    async def test(ledger, engine) -> None:
        with connect(database) as owner:
            owner.execute("ALTER TABLE ledger.entries ADD CHECK (amount <> 123)")
        async with engine.connect() as connection:
            with pytest.raises(psycopg.errors.CheckViolation):
                await ledger.post_in(connection, [transfer(1, 2, "1.23", "k")])
            await connection.rollback()
            await connection.execute(BOOK, {"key": "after"})
            assert (await ledger.post_in(connection, [transfer(1, 2, "1.24", "k")]))[0].posted
            await connection.commit()

    with_orders(database, test)
    assert orders(database) == 1


@pytest.mark.parametrize(
    ("options", "said"),
    [({"isolation_level": "REPEATABLE READ"}, "REPEATABLE READ"),
     ({"isolation_level": "AUTOCOMMIT"}, "autocommit")],
)  # fmt: skip
def test_only_a_transaction_that_can_be_joined_is_joined(database, options, said):
    async def test(ledger, engine) -> None:
        async with engine.connect() as connection:
            with pytest.raises(CannotJoin, match=said):
                await ledger.post_in(connection, [deposit(1, 1, "k")])
        assert await ledger.outcome_of(1, "k") is None

    with_orders(database, test, **options)


HOSTILE = (
    "-c array_nulls=off -c search_path=pg_temp -c jit_above_cost=0 -c transform_null_equals=on"
    " -c synchronous_commit=off -c enable_indexscan=off -c bytea_output=escape -c datestyle=German"
)


def test_a_caller_s_settings_change_nothing_and_are_left_as_they_are(database, no_violations):
    """An array that has NULL is a text "NULL" to this session."""
    names = "array_nulls", "search_path", "enable_sort", "jit", "plan_cache_mode"

    async def settings(connection) -> list[str]:
        shown = ", ".join(f"current_setting('{name}')" for name in names)
        return list((await connection.execute(text(f"SELECT {shown}"))).one())

    async def test(ledger, engine) -> None:
        movement = transfer(1, 2, "1.00", "order-1", Detail(description="an order"))
        async with engine.begin() as connection:
            before = await settings(connection)
            assert before[0] == "off"
            assert (await ledger.post_in(connection, [movement]))[0].posted
            assert await settings(connection) == before
            commit = await connection.scalar(text("SHOW synchronous_commit"))
            assert commit == "on"
        recorded = await ledger.outcome_of(1, "order-1")
        assert recorded.extra.detail == Detail(description="an order")

    with_orders(database, test, connect_args={"options": HOSTILE})
    no_violations(database)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [({"options": "-c session_replication_role=replica"}, "session_replication_role is replica"),
     ({"client_encoding": "latin1"}, "client_encoding")],
)  # fmt: skip
def test_a_session_that_would_write_something_else_is_not_joined(database, arguments, said):
    async def test(ledger, engine) -> None:
        async with engine.connect() as connection:
            with pytest.raises(CannotJoin, match=said):
                await ledger.post_in(connection, [deposit(1, 1, "k")])

    with_orders(database, test, connect_args=arguments)


def test_a_transaction_is_posted_in_once(database):
    async def test(ledger, engine) -> None:
        async with engine.begin() as connection:
            await ledger.post_in(connection, [deposit(2, 1, "k")])
            with pytest.raises(CannotJoin, match="once"):
                await ledger.post_in(connection, [deposit(1, 1, "k")])
        async with engine.begin() as connection:
            await ledger.post_in(connection, [deposit(1, 1, "k")])

    with_orders(database, test)
