"""An account as of any time, recorded and effective, equals a fold over all its entries."""

import asyncio
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import NamedTuple

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerservice.domain.accounts import Opening
from ledgerservice.domain.instructions import (
    Capture,
    Detail,
    General,
    Group,
    Hold,
    Instruction,
    Kind,
    Leg,
    Movement,
    Reversal,
)
from ledgerservice.domain.transactions import Failed, Recorded, Transaction
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.queries import effective
from ledgerservice.postgres.queries.as_of import account_at
from ledgerservice.postgres.queries.reports import list_owner_balances, trial_balance
from ledgerservice.postgres.reader import Reader
from ledgerservice.postgres.registration import open_accounts
from ledgerservice.posting.movements import MovementBatch
from tests import examples

shifts = st.none() | st.integers(-50, 50).map(lambda n: n / 10)


@pytest.fixture(scope="module")
def ledger(new_database: Callable[..., Database]) -> Database:
    return new_database()


class Drawn(NamedTuple):
    """An instruction to make: of two of the accounts, or of an earlier transaction; and how many
    seconds before or after its recording it takes effect.
    """

    kind: str
    own: int
    apart: int
    amount: int
    earlier: int
    shift: float | None


KINDS = ["DEPOSIT", "WITHDRAWAL", "TRANSFER", "GENERAL", "HOLD", "CAPTURE", "REVERSAL"]
drawn = st.builds(
    Drawn,
    st.sampled_from(KINDS),
    st.integers(0, 2),
    st.integers(1, 2),
    st.integers(1, 50),
    st.integers(0, 9),
    shifts,
)


class Answers:
    """Instructions that build on each other, and the entries that were answered."""

    def __init__(self, owner: str, accounts: list[int]) -> None:
        self.owner = owner
        self.accounts = accounts
        self.posted: list[Transaction] = []
        self.rows: list[tuple[int, datetime, datetime, int, int]] = []

    def instruction(self, one: Drawn, key: str) -> Instruction:
        """The instruction that was drawn, or a deposit if there is nothing to build on yet."""
        at = None if one.shift is None else datetime.now(UTC) + timedelta(seconds=one.shift)
        detail = None if at is None else Detail(effective_at=at)
        own = self.accounts[one.own]
        other, third = (self.accounts[(one.own + n * one.apart) % 3] for n in (1, 2))
        cents = f"0.{one.amount:02}"
        of = {Kind.HOLD} if one.kind == "CAPTURE" else set(Kind) - {Kind.HOLD, Kind.REVERSAL}
        parents = [t.id for t in self.posted if t.kind in of]
        parent = parents[one.earlier % len(parents)] if parents else None
        if one.kind == "GENERAL":
            legs = Leg(own, f"-{cents}"), Leg(own, "-0.01"), Leg(other, cents), Leg(third, "0.01")
            return General(legs, key, detail=detail)
        if one.kind == "HOLD":
            return Hold(own, other, cents, key, detail=detail)
        if one.kind == "CAPTURE" and parent is not None:
            return Capture(parent, key, detail, cents)
        if one.kind == "REVERSAL" and parent is not None:
            return Reversal(parent, key, detail)
        kind = Kind[one.kind] if one.kind in ("WITHDRAWAL", "TRANSFER") else Kind.DEPOSIT
        return Movement(kind, own, other if kind is Kind.TRANSFER else None, cents, key, detail)

    def keep(self, instruction: Instruction, outcome: Recorded) -> None:
        detail, transaction = instruction.detail, outcome.transaction
        if transaction.entries:
            self.posted.append(transaction)
        recorded_at = transaction.recorded_at
        effective_at = (detail and detail.effective_at) or recorded_at
        self.rows += [
            (e.account_id, recorded_at, effective_at, e.amount, e.held_change)
            for e in transaction.entries
        ]

    def state_at(self, account: int, at: datetime) -> tuple[int, ...]:
        """Balance, held and version as recorded by then, and the balance as effective by then."""
        own = [row[1:] for row in self.rows if row[0] == account]
        past = [row for row in own if row[0] <= at]
        effective = sum(amount for _, effective_at, amount, _ in own if effective_at <= at)
        return sum(row[2] for row in past), sum(row[3] for row in past), len(past), effective


async def posted(ledger: Database, batches: list[list[Drawn]]) -> Answers:
    """The answers to all that was drawn, on three new accounts with some money."""
    wire, batch = await ledger.connect_writer(), MovementBatch()
    mark = f"{id(batch)} {time.time()}"
    openings = [Opening(mark, "USD", None, f"{mark} {n}") for n in range(3)]
    opened = await open_accounts(wire, openings)
    answers = Answers(mark, [one.account_id for one in opened if one.account_id is not None])
    funding = [Drawn("DEPOSIT", n, 1, 50, 0, None) for n in range(3)]
    for place, of_batch in enumerate([funding, *batches]):
        instructions = [answers.instruction(one, f"{place}.{n}") for n, one in enumerate(of_batch)]
        [outcomes] = await batch(wire, [Group(instructions)])
        assert not isinstance(outcomes, Failed)
        for instruction, outcome in zip(instructions, outcomes, strict=True):
            if isinstance(outcome, Recorded):
                answers.keep(instruction, outcome)
    await wire.close()
    return answers


looks = st.lists(st.tuples(st.integers(0, 200), st.sampled_from([-1, 0, 1])), max_size=6)


@settings(max_examples=examples(12), deadline=None)
@given(st.lists(st.lists(drawn, min_size=1, max_size=4), max_size=8), looks)
def test_an_account_as_of_any_time_equals_a_fold_over_its_entries(ledger, batches, looks) -> None:
    """For all that moves money, some of which takes effect before or after it is recorded."""
    asyncio.run(compare(ledger, batches, looks))


async def compare(
    ledger: Database, batches: list[list[Drawn]], looks: list[tuple[int, int]]
) -> None:
    """Compare all accounts about the times at which something was recorded, or takes effect."""
    answers = await posted(ledger, batches)
    engine = ledger.read_engine()
    reader = Reader(engine, 1, 10)
    edges = sorted(edge for row in answers.rows for edge in row[1:3])
    try:
        for place, microseconds in looks:
            at = edges[place % len(edges)] + timedelta(microseconds=microseconds)
            for account in answers.accounts:
                state = await account_at(reader, account, at)
                assert state is not None
                view = state.view
                figures = view.balance, view.held, view.version, state.effective
                assert figures == answers.state_at(account, at)
                assert state.final or at > datetime.now(UTC)
            await compare_reports(reader, answers, at)
    finally:
        await engine.dispose()


async def compare_reports(reader: Reader, answers: Answers, at: datetime) -> None:
    """The balances of the owner are the sums of the accounts'; the trial balance sums all owners'.
    What is effective before an account is opened counts, too.
    """
    states = [answers.state_at(account, at) for account in answers.accounts]
    before = (answers.owner, "")
    recorded = await list_owner_balances(reader, 1, before, at)
    shown = [(row.balance, row.held) for row in recorded if row.owner == answers.owner]
    expected = sum(state[0] for state in states), sum(state[1] for state in states)
    assert (shown or [(0, 0)]) == [expected]
    owners = await list_owner_balances(reader, 10_000, None, at, "effective")
    sums = [row.balance for row in owners if row.owner == answers.owner]
    assert sum(sums) == sum(state[3] for state in states)
    rows, final = await trial_balance(reader, at, "effective")
    assert [row.customers for row in rows] == [sum(row.balance for row in owners)] * len(rows)
    assert [row.accounts for row in rows] == [sum(row.accounts for row in owners)] * len(rows)
    assert {row.total for row in rows} <= {0}
    assert bool(rows) == bool(owners)
    assert not final


look = st.none() | st.tuples(st.integers(0, 200), st.sampled_from([-1, 0, 1]))
periods = st.lists(st.tuples(look, look), max_size=4)


@settings(max_examples=examples(12), deadline=None)
@given(st.lists(st.lists(drawn, min_size=1, max_size=4), max_size=8), periods, st.integers(1, 4))
def test_an_effective_statement_equals_a_fold_over_the_entries(
    ledger, batches, periods, rows
) -> None:
    """In pages of any size, for periods that begin and end about the times of the entries."""
    asyncio.run(compare_statements(ledger, batches, periods, rows))


async def compare_statements(
    ledger: Database, batches: list[list[Drawn]], periods: list[tuple], rows: int
) -> None:
    """Compare the statements of all accounts."""
    answers = await posted(ledger, batches)
    engine = ledger.read_engine()
    reader = Reader(engine, 1, 10)
    edges = sorted(edge for row in answers.rows for edge in row[1:3])
    try:
        for period in [(None, None), *periods]:
            since, until = (
                one and edges[one[0] % len(edges)] + timedelta(microseconds=one[1])
                for one in period
            )
            if since is not None and until is not None and until < since:
                since, until = until, since
            for account in answers.accounts:
                shown = await effective_statement(reader, account, since, until, rows)
                assert shown == expected_statement(answers, account, since, until)
    finally:
        await engine.dispose()


async def effective_statement(
    reader: Reader, account: int, since: datetime | None, until: datetime | None, rows: int
) -> tuple:
    """Opening and closing balance, and of each line the version, the amount and the balance."""
    period = await effective.find_period(reader, account, since, until)
    assert period is not None
    assert not period.final
    lines, place = [], effective.beginning(period)
    while page := await effective.list_lines(reader, period, place, rows):
        lines += [(line.version, line.amount, line.balance) for line, _ in page]
        place = page[-1][1]
    assert len(lines) == period.entries_total
    return period.opening, period.closing, lines


def expected_statement(
    answers: Answers, account: int, since: datetime | None, until: datetime | None
) -> tuple:
    """The same, summed. An entry that moves nothing stands at its recording time."""
    own = [row[1:] for row in answers.rows if row[0] == account]
    entries = sorted(
        (effective_at if amount else recorded_at, version, amount)
        for version, (recorded_at, effective_at, amount, _) in enumerate(own, 1)
    )
    opening = balance = sum(n for at, _, n in entries if since is not None and at < since)
    lines = []
    for at, version, amount in entries:
        if (since is None or at >= since) and (until is None or at < until):
            balance += amount
            lines.append((version, amount, balance))
    return opening, balance, lines
