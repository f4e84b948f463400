"""Faults of the protocol that the checks have to find: each is put in, and seen."""

import asyncio
import itertools
from typing import Any

import msgspec

from ledgerservice.domain.instructions import CrossDebit, Group, Origin, PolicyChange
from ledgerservice.domain.ledgers import end_key
from ledgerservice.postgres.verification import Violation, verify
from ledgerservice.posting.parts.crossing import Crossings, OpenHold
from tests.crossing.made import Market, credited, held, market


def violations_after(database: Any, test: Any) -> list[Violation]:
    async def go() -> None:
        async with market(database) as made:
            await asyncio.wait_for(test(made), 60)

    asyncio.run(go())
    return list(verify(database.owner_engine()))


def test_a_recovery_that_credits_again(database, monkeypatch):
    """The key of the credit is all that keeps the second one from moving money."""
    numbers = itertools.count()
    credit = OpenHold.credit

    def another_key(self: OpenHold) -> Any:
        step = credit(self)
        return msgspec.structs.replace(step, key=f"{step.key}:{next(numbers)}")

    async def test(made: Market) -> None:
        monkeypatch.setattr(OpenHold, "credit", another_key)
        await credited(made)
        a, b, _ = made.accounts
        await made.ledger.transfer(a, b, "30", key="k")

    found_violations = violations_after(database, test)
    assert {one.invariant for one in found_violations} == {8}
    assert any("both balances together" in one.what for one in found_violations)


def test_a_capture_before_the_outcome_of_the_credit_is_known(database, monkeypatch):
    async def finish_early(self: Crossings, holds: list[OpenHold]) -> list[Any]:
        for hold in holds:
            number = hold.transaction.id
            end = CrossDebit(number, end_key(number), None, origin=Origin.CROSSING)
            source = await self.home_of(hold.ledger_id)
            await source.post(Group([end], ledger=hold.ledger_id))
            target = await self.home_of(hold.to_ledger_id)
            await target.post(Group([hold.credit()], ledger=hold.to_ledger_id))
        return [hold.transaction for hold in holds]

    async def test(made: Market) -> None:
        frozen = PolicyChange(made.accounts[1], "f", frozen=2, actor="me", reason="test")
        await made.ledger.post([frozen])
        hold = await held(made)
        monkeypatch.setattr(Crossings, "finish", finish_early)
        await made.runtime.crossings.finish([hold])

    found_violations = violations_after(database, test)
    assert {one.invariant for one in found_violations} == {8}
    assert any("the status of its credit" in one.what for one in found_violations)
