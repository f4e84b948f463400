"""Faults between two databases that `verify` has to find: each is put in, and seen."""

import asyncio
import itertools
from collections.abc import Awaitable, Callable
from dataclasses import replace
from typing import Any

import msgspec
import pytest
from pydantic import SecretStr

from ledgerservice.domain.instructions import CrossDebit, Group, Origin, PolicyChange
from ledgerservice.domain.ledgers import end_key
from ledgerservice.ledger import Ledger
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.verification import Violation
from ledgerservice.postgres.verification.across import verify_across
from ledgerservice.posting.parts.crossing import Crossings, OpenHold
from ledgerservice.runtime import posting, prepared
from ledgerservice.shards import sharded
from tests.crossing.made import Market, account_in_each_part, credited, held
from tests.databases import empty_database
from tests.shards.world import World

Test = Callable[[Market], Awaitable[None]]


@pytest.fixture
def world(new_database: Callable[..., Database]) -> World:
    main = new_database()
    world = World({"main": main, "b": new_database(), "c": empty_database(main, "c")})
    for name in ("b", "c"):
        world.run("shards", "add", name)
    return world


def violations_after(world: World, test: Test) -> set[str]:
    async def go() -> None:
        shards = SecretStr(world.environment()["LEDGER_SHARDS"])
        settings = world.main.settings.model_copy(update={"shards": shards})
        main = await asyncio.to_thread(prepared, replace(world.main, settings=settings))
        async with posting(main) as runtime, sharded(runtime, reading=True) as shards_:
            ledger = await Ledger(shards_).add_ledger("market", shards=3)
            accounts = await account_in_each_part(ledger)
            for number in accounts:
                await ledger.deposit(number, "1000", key="funding")
            await asyncio.wait_for(test(Market(ledger, runtime, accounts)), 60)

    asyncio.run(go())
    engines = {name: one.owner_engine() for name, one in world.databases.items()}
    violations: list[Violation] = list(verify_across(engines))
    assert {one.invariant for one in violations} <= {8}
    return {one.what for one in violations}


def test_no_fault(world: World) -> None:
    async def test(made: Market) -> None:
        a, b, c = made.accounts
        for one, other in itertools.permutations((a, b, c), 2):
            assert (await made.ledger.transfer(one, other, "7", key=f"{other}")).posted
        await credited(made)

    assert violations_after(world, test) == set()


def test_a_recovery_that_credits_again(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
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

    assert "it is the credit of no hold for its account" in violations_after(world, test)


def test_a_capture_before_the_outcome_of_the_credit_is_known(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def capture(self: Crossings, holds: list[OpenHold]) -> list[Any]:
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
        monkeypatch.setattr(Crossings, "finish", capture)
        await made.runtime.crossings.finish([hold])

    [what] = violations_after(world, test)
    assert "the status of its credit" in what
