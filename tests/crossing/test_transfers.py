"""Transfers between parts of a ledger: what the caller is answered, and what is recorded."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from ledgerservice.api.movements.answers import answer
from ledgerservice.domain.instructions import (
    Capture,
    CrossingBack,
    Detail,
    General,
    Hold,
    Kind,
    Leg,
    Movement,
    PolicyChange,
    Release,
    Reversal,
    Schedule,
)
from ledgerservice.domain.movements import transfer
from ledgerservice.domain.transactions import Failed, Recorded, Rejected
from ledgerservice.errors import CannotJoin, InvalidField, LedgerHasParts
from ledgerservice.postgres import locking
from ledgerservice.postgres.pipeline import Request, Result, Wire
from ledgerservice.postgres.queries.transaction_filters import TransactionFilter
from ledgerservice.postgres.verification import verify
from tests.crossing.made import (
    Market,
    account_in_each_part,
    credited,
    held,
    hold_of,
    market,
)
from tests.domain.world import verdict

Test = Callable[[Market], Awaitable[None]]


@pytest.fixture
def run(database):
    """Runs a test on a market, then verifies the database."""

    def run_it(test: Test, **funds: str) -> None:
        async def go() -> None:
            async with market(database, **funds) as made:
                await asyncio.wait_for(test(made), 60)

        asyncio.run(go())
        assert list(verify(database.owner_engine())) == []

    return run_it


async def standing(made: Market, *accounts: int) -> list[tuple[int, int]]:
    """Balance and held of each account, in minor units."""
    views = [await made.ledger.account(number) for number in accounts or made.accounts]
    return [(view.balance, view.held) for view in views if view is not None]


async def policy(made: Market, account: int, key: str, **limits: Any) -> None:
    [outcome] = await made.ledger.post(
        [PolicyChange(account, key, **limits, actor="me", reason="test")]
    )
    assert outcome.posted


def test_a_transfer_has_both_halves(run):
    async def test(made: Market) -> None:
        a, b, _ = made.accounts
        detail = Detail("rent", "r-1", metadata={"order": 7})
        sent = await made.ledger.transfer(a, b, "30", key="k", detail=detail)
        assert isinstance(sent, Recorded)
        whole = sent.transaction
        halves = [(e.account_id, e.amount, e.held_change, e.balance, e.held) for e in whole.entries]
        assert halves == [(a, -30_00, -30_00, 970_00, 0), (b, 30_00, 0, 1030_00, 0)]
        assert sum(entry.amount for entry in whole.entries) == 0
        again = await made.ledger.transfer(a, b, "30.0", key="k", detail=detail)
        assert (again.replayed, again.transaction) == (True, whole)
        other = await made.ledger.transfer(a, b, "31", key="k", detail=detail)
        assert verdict(other) == "idempotency_key_reused"
        assert await made.ledger.transaction(whole.id) == whole
        assert await made.ledger.outcome_of(a, "k") == whole
        [debit, credit] = [await made.ledger.transaction(e.transaction_id) for e in whole.entries]
        assert [debit.kind, credit.kind] == [Kind.CROSS_DEBIT, Kind.CROSS_CREDIT]
        assert debit.extra.detail == credit.extra.detail == whole.extra.detail
        kinds = [[one.kind for one in await made.ledger.history(number)] for number in (a, b)]
        assert kinds == [
            [Kind.CROSS_DEBIT, Kind.CROSSING, Kind.DEPOSIT],
            [Kind.CROSS_CREDIT, Kind.DEPOSIT],
        ]
        for number, closing in ((a, 970_00), (b, 1030_00)):
            period = await made.ledger.statement(number)
            assert period is not None
            lines = [line async for line in made.ledger.lines(period)]
            assert (period.closing, sum(line.amount for line in lines)) == (closing, closing)

    run(test)


DECLINED_BY: dict[str, tuple[int, dict[str, Any], str]] = {
    "frozen": (1, {"frozen": 2}, "account_frozen"),
    "ceiling": (1, {"ceiling": "1010"}, "balance_ceiling"),
    "source": (0, {"frozen": 1}, "account_frozen"),
}


@pytest.mark.parametrize("case", DECLINED_BY)
def test_what_declines_a_transfer(run, case):
    """The money is available again, and the answer stays, also when the reason is gone."""
    index, limits, reason = DECLINED_BY[case]

    async def test(made: Market) -> None:
        a, b, _ = made.accounts
        await policy(made, made.accounts[index], "limit", **limits)
        sent = await made.ledger.transfer(a, b, "30", key="k")
        assert verdict(sent) == reason
        refusal = sent.transaction.refusal
        assert refusal.account_id == made.accounts[index]
        await policy(made, made.accounts[index], "no limit", frozen=0, ceiling=None)
        again = await made.ledger.transfer(a, b, "30", key="k")
        assert (again.replayed, answer(again.transaction)) == (True, answer(sent.transaction))
        assert await standing(made) == [(1000_00, 0)] * 3
        assert await made.ledger.transaction(sent.transaction.id) == again.transaction

    run(test)


def test_a_closed_destination_declines(run):
    async def test(made: Market) -> None:
        a, b, _ = made.accounts
        await made.ledger.withdraw(b, "1000", key="all")
        await policy(made, b, "close", closed=True)
        assert verdict(await made.ledger.transfer(a, b, "30", key="k")) == "account_closed"
        assert verdict(await made.ledger.transfer(a, b, "3000", key="l")) == "insufficient_funds"
        assert await standing(made, a) == [(1000_00, 0)]

    run(test)


def test_what_is_rejected_is_not_recorded(run):
    async def test(made: Market) -> None:
        a, b, _ = made.accounts
        rupees = await account_in_each_part(made.ledger, "INR")
        missing = max(rupees) + 300
        missing += (b - missing) % 3
        cases = [
            (a, missing, "30", "account_not_found"),
            (missing, a, "30", "account_not_found"),
            (a, -1, "30", "account_not_found"),
            (a, rupees[1], "30", "currency_mismatch"),
            (a, b, "30.001", "amount_precision"),
            (a, b, "99999999999999", "amount_limit"),
        ]
        for one, other, amount, code in cases:
            for _ in range(2):
                assert verdict(await made.ledger.transfer(one, other, amount, key="k")) == code
        assert (await made.ledger.transfer(a, b, "30", key="k")).posted

    run(test)


@pytest.mark.parametrize("died", [held, credited])
@pytest.mark.parametrize("frozen", [0, 1, 3])
def test_the_same_key_finishes_what_is_open(run, died, frozen):
    """Whatever the account has become since: the money is on its way, or there."""

    async def test(made: Market) -> None:
        a, b, _ = made.accounts
        hold = await died(made)
        await policy(made, a, "freeze", frozen=frozen, ceiling="1")
        raw = await made.ledger.transaction(hold.transaction.id)
        assert [entry.amount for entry in raw.entries] == [0]
        before = (await standing(made, a))[0]
        assert before == (1000_00, 30_00)
        sent = await made.ledger.transfer(a, b, "30", key="k")
        assert (sent.posted, sent.replayed) == (True, True)
        assert sent.transaction.id == hold.transaction.id
        assert await standing(made, a, b) == [(970_00, 0), (1030_00, 0)]
        again = await made.ledger.transfer(a, b, "30", key="k")
        assert again.transaction == sent.transaction

    run(test)


def test_any_two_finish_the_same_one(run):
    async def test(made: Market) -> None:
        a, b, _ = made.accounts
        hold = await held(made)
        finish = made.runtime.crossings.finish
        tasks = [finish([hold]) for _ in range(8)]
        requests = [made.ledger.transfer(a, b, "30", key="k") for _ in range(8)]
        finished = await asyncio.gather(*tasks)
        sent = await asyncio.gather(*requests)
        assert {len(set(map(repr, finished)))} == {1}
        assert all(one.transaction == finished[0][0] for one in sent)
        assert await standing(made, a, b) == [(970_00, 0), (1030_00, 0)]

    run(test)


def test_only_the_service_ends_a_hold_or_reverses_a_half(run):
    async def test(made: Market) -> None:
        a, b, _ = made.accounts
        hold = await held(made)
        number = hold.transaction.id
        steps: list[Any] = [
            Capture(number, "c"),
            Capture(number, "c", amount="1", final=True),
            Release(number, "r"),
        ]
        assert list(map(verdict, await made.ledger.post(steps))) == ["hold_not_found"] * 3
        assert list(map(verdict, await made.ledger.post([Reversal(number, "v")]))) == [
            "not_reversible"
        ]
        sent = await made.ledger.transfer(a, b, "30", key="k")
        halves = [Reversal(entry.transaction_id, "v") for entry in sent.transaction.entries]
        assert list(map(verdict, await made.ledger.post(halves))) == ["not_reversible"] * 2
        with pytest.raises(InvalidField):
            await made.ledger.post([hold_of(made)])
        back: Any = {"counterparty_id": a, "to_ledger_id": 1, "clearing_id": -40_000}
        with pytest.raises(InvalidField):
            await made.ledger.post([CrossingBack(parent_id=number, key="x", **back)])

    run(test)


def test_what_stays_in_one_part(run):
    async def test(made: Market) -> None:
        a, b, c = made.accounts
        legs = Leg(a, "-5"), Leg(b, "3"), Leg(c, "2")
        at = made.ledger
        refused: list[Any] = [
            Hold(a, b, "5", "k"),
            Schedule(a, b, "5", (await at.account(a)).created_at, "k"),
            General(legs, "k"),
            General((Leg(b, "5"), Leg(a, "-5")), "k"),
            General((Leg(a, "-5", available_at_least="1"), Leg(b, "5")), "k"),
        ]
        verdicts = list(map(verdict, await at.post(refused)))
        assert verdicts == ["accounts_in_different_parts"] * len(refused)
        linked = await at.post([transfer(a, b, "5", "k"), transfer(b, a, "5", "k")], linked=True)
        assert isinstance(linked, Failed)
        assert verdict(linked) == (0, "accounts_in_different_parts")
        local = await at.post(
            [Hold(a, None, "5", "h"), PolicyChange(a, "p", floor="1", actor="me", reason="test")],
            linked=True,
        )
        assert not isinstance(local, Failed)
        pair = General((Leg(a, "-5"), Leg(b, "5")), "pair")
        [sent] = await at.post([pair])
        assert sent.posted
        assert verdict((await at.post([pair]))[0]) == "replayed"
        with pytest.raises(CannotJoin):
            await at.post_in(None, [])  # type: ignore[arg-type]
        with pytest.raises(LedgerHasParts):
            await at.add_currency("PTS", 0, "Points", own=True)

    run(test)


def test_lists_and_totals_are_of_all_parts(run):
    async def test(made: Market) -> None:
        a, b, _ = made.accounts
        detail = Detail(metadata={"order": 7})
        sent = await made.ledger.transfer(a, b, "30", key="k", detail=detail)
        opened, _ = await made.ledger.accounts(limit=2)
        assert [one.id for one in opened] == sorted(made.accounts)[:2]
        whole = TransactionFilter(whole=True)
        [newest, *_], _ = await made.ledger.transactions(whole)
        assert (newest.id, newest.entries) == (sent.transaction.id, sent.transaction.entries)
        steps, _ = await made.ledger.transactions(limit=3)
        assert {one.kind.name for one in steps} == {"CROSSING", "CROSS_CREDIT", "CROSS_DEBIT"}
        [(total, _)] = await made.ledger.totals("order")
        assert (total.value, total.transactions, total.amount) == ("7", 1, 30_00)

    run(test)


def test_a_transfer_is_reversed_by_one_the_other_way(run):
    async def test(made: Market) -> None:
        a, b, _ = made.accounts
        at = made.ledger
        sent = await at.transfer(a, b, "30", key="k")
        first = Reversal(sent.transaction.id, "v1", amount="10")
        [back] = await at.post([first])
        assert back.posted
        assert [(e.account_id, e.amount) for e in back.transaction.entries] == [
            (b, -10_00), (a, 10_00),
        ]  # fmt: skip
        assert verdict((await at.post([first]))[0]) == "replayed"
        more = Reversal(sent.transaction.id, "v2", amount="20.01")
        assert verdict((await at.post([more]))[0]) == "reversal_exceeded"
        rest = [Reversal(sent.transaction.id, key) for key in ("v3", "v4")]
        assert list(map(verdict, await at.post(rest))) == ["posted", "reversal_exceeded"]
        forced = Reversal(sent.transaction.id, "v5", Detail("why"), force=True, actor="me")
        assert verdict((await at.post([forced]))[0]) == "accounts_in_different_parts"
        assert await standing(made, a, b) == [(1000_00, 0), (1000_00, 0)]

    run(test)


def test_reversals_at_the_same_time_return_no_more_than_was_moved(run):
    async def test(made: Market) -> None:
        a, b, _ = made.accounts
        sent = await made.ledger.transfer(a, b, "30", key="k")
        number = sent.transaction.id
        posting = [made.ledger.post([Reversal(number, f"v{n}", amount="7")]) for n in range(10)]
        verdicts = sorted(verdict(one) for [one] in await asyncio.gather(*posting))
        assert verdicts == ["posted"] * 4 + ["reversal_exceeded"] * 6
        assert await standing(made, a, b) == [(998_00, 0), (1002_00, 0)]

    run(test)


def test_a_dry_run_writes_nothing(run):
    async def test(made: Market) -> None:
        a, b, _ = made.accounts
        await policy(made, b, "ceiling", ceiling="1100")
        dry = [transfer(a, b, amount, f"k {amount}") for amount in ("30", "300", "3000")]
        answers = await made.ledger.post(dry, dry_run=True)
        verdicts = ["posted", "balance_ceiling", "insufficient_funds"]
        assert list(map(verdict, answers)) == verdicts
        assert await made.ledger.outcome_of(a, "k 30") is None
        sent = await made.ledger.transfer(a, b, "30", key="k 30")
        shapes = [
            [(e.account_id, e.seq, e.amount, e.held_change, e.balance, e.held) for e in one.entries]
            for one in (answers[0].transaction, sent.transaction)
        ]
        assert shapes[0] == shapes[1]

    run(test)


def test_a_batch_goes_to_all_parts(run):
    """Each item has its own answer, in order: local, across, declined, rejected, repeated."""

    async def test(made: Market) -> None:
        a, b, c = made.accounts
        batch = [
            transfer(a, b, "1", "1"),
            Movement(Kind.DEPOSIT, c, None, "5", "2"),
            transfer(b, c, "2", "3"),
            transfer(a, c, "99999", "4"),
            transfer(a, 999_999, "1", "5"),
            transfer(a, b, "1", "1"),
        ]
        verdicts: Any = [
            "posted", "posted", "posted", "insufficient_funds", "account_not_found", "replayed",
        ]  # fmt: skip
        assert list(map(verdict, await made.ledger.post(batch))) == verdicts
        verdicts[:3] = ["replayed"] * 3
        verdicts[3] = "replayed"
        assert list(map(verdict, await made.ledger.post(batch))) == verdicts
        assert await standing(made) == [(999_00, 0), (999_00, 0), (1007_00, 0)]

    run(test)


def test_reports_count_money_on_its_way_once(run):
    async def test(made: Market) -> None:
        await credited(made)
        [row], _ = await made.ledger.trial_balance()
        assert (row.customers, row.external, row.total) == (3000_00, -3000_00, 0)
        assert (row.accounts >= 3, row.debits) == (True, row.credits)

    run(test)


def test_keys_and_references_are_unique_in_the_whole_ledger(run):
    async def test(made: Market) -> None:
        at = made.ledger
        asked = [at.open_account("x", "USD", key=f"u{n}", reference="ref") for n in range(12)]
        answers = await asyncio.gather(*asked)
        opened = [one for one in answers if not isinstance(one, Rejected)]
        taken = [one.reason for one in answers if isinstance(one, Rejected)]
        assert (len(opened), set(taken)) == (1, {"reference_taken"})
        key = opened[0].key
        again = await at.open_account("x", "USD", key=key, reference="ref")
        assert not isinstance(again, Rejected)
        assert (again.account_id, again.replayed) == (opened[0].account_id, True)
        for reference in (None, "another"):
            other = await at.open_account("x", "USD", key=key, reference=reference)
            assert isinstance(other, Rejected)
        with pytest.raises(InvalidField):
            await at.add_ledger("market", shards=4)

    run(test)


def test_the_end_of_a_hold_is_read_with_the_locks(run, monkeypatch):
    """What it builds on is known, and its hold is read in the round trip of the locks. Clearing
    accounts are opened once.
    """
    sent: list[list[str]] = []
    exchange = Wire.exchange

    async def noted(self: Wire, *requests: Request) -> list[Result]:
        sent.append([request.statement for request in requests])
        return await exchange(self, *requests)

    async def test(made: Market) -> None:
        a, b, _ = made.accounts
        monkeypatch.setattr(Wire, "exchange", noted)
        await made.ledger.transfer(a, b, "30", key="first")
        assert sum(locking.OPEN_CLEARING in requests for requests in sent) == 2
        sent.clear()
        await made.ledger.transfer(a, b, "30", key="k")
        statements = [one for requests in sent for one in requests]
        assert locking.OPEN_CLEARING not in statements
        assert locking.FIND_TRANSACTIONS not in statements
        assert locking.FIND_HOLDS not in statements
        [ending] = [requests for requests in sent if locking.FIND_HOLDS_NOW in requests]
        assert locking.TAKE_CLOCK_AND_IDS in ending
        assert len([requests for requests in sent if "COMMIT" in requests]) == 3

    run(test)


def test_an_end_after_the_process_that_began_it(run):
    """Another process does not know the hold, and reads it."""

    async def test(made: Market) -> None:
        hold = await credited(made)
        made.runtime.movements._batches._crossings.clear()
        await made.runtime.crossings.finish([hold])

    run(test)


def test_what_is_known_of_a_hold_is_forgotten_with_its_connection(run):
    """The next connection can be to a server that was promoted, and has lost the hold."""

    async def test(made: Market) -> None:
        hold = await credited(made)
        movements = made.runtime.movements
        known: dict[Any, Any] = movements._batches._crossings
        known.update(dict.fromkeys(known, None))
        assert known
        ending = asyncio.run_coroutine_threadsafe(movements._disconnect(), movements._writer_loop)
        await asyncio.wrap_future(ending)
        await made.runtime.crossings.finish([hold])

    run(test)
