"""Export of a history, and its import: a ledger that is equal but for ids and recorded times."""

import asyncio
import io
import itertools
from datetime import UTC, datetime
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledgerservice import Ledger
from ledgerservice.domain.history import BY_SERVICE
from ledgerservice.domain.instructions import Detail, General, Kind, Origin
from ledgerservice.domain.transactions import Recorded, Rejected, Rejection
from ledgerservice.files.history import export_history, import_history
from ledgerservice.files.options import Format
from tests.databases import connect, url_text
from tests.files.lives import KINDS, Life, kept, steps

FORMS = (Format.NDJSON, Format.CSV)
_numbers = itertools.count()
Step = tuple[str, int, int, int]


async def lived(default: Ledger, chosen: list[Step]) -> tuple[str, Life]:
    name = f"source-{next(_numbers)}"
    life = Life(await default.add_ledger(name))
    await life.open()
    await life.live(chosen)
    return name, life


async def copied(default: Ledger, database: Any, name: str, form: Format) -> Ledger:
    file = io.BytesIO()
    export_history(database.owner_engine(), file, name, form)
    file.seek(0)
    target = await default.add_ledger(f"target-{next(_numbers)}")
    await import_history(target, file, form)
    return target


def assert_equal(database: Any, source: Ledger, target: Ledger) -> None:
    with connect(database) as connection:
        before, after = kept(connection, source._ledger), kept(connection, target._ledger)
    # All entries of the copy are dated; those that were not have the time at which they were
    # recorded, and `entries` compares these.
    assert set(before.pop("dated")) <= set(after.pop("dated"))
    assert after == before


async def assert_same_balances_as_effective(life: Life, target: Ledger, ids: list[int]) -> None:
    times = {datetime(1993, 3, 1, tzinfo=UTC), datetime(1980, 1, 1, tzinfo=UTC)}
    times |= {one.recorded_at for one in life.recorded[::5]}
    for time in times:
        for old, new in zip(life.accounts, ids, strict=True):
            before, after = [await one.account_at(number, time)
                             for one, number in ((life.ledger, old), (target, new))]  # fmt: skip
            assert (after.effective, time) == (before.effective, time)


def translated(instruction: Any, accounts: dict[int, int], parents: dict[int, int]) -> Any:
    changes: dict[str, Any] = {}
    for name in ("account_id", "counterparty_id", "rounding_account_id"):
        number = getattr(instruction, name, None)
        if number is not None and name in instruction.__struct_fields__:
            changes[name] = accounts[number]
    if hasattr(instruction, "parent_id"):
        changes["parent_id"] = parents[instruction.parent_id]
    if getattr(instruction, "legs", None):
        changes["legs"] = tuple(translated(leg, accounts, parents) for leg in instruction.legs)
    if getattr(instruction, "exchange", None):
        changes["exchange"] = translated(instruction.exchange, accounts, parents)
    return msgspec.structs.replace(instruction, **changes)


async def assert_keys_are_replayed(life: Life, target: Ledger, ids: list[int], pairs: Any) -> None:
    accounts, parents = dict(zip(life.accounts, ids, strict=True)), dict(pairs)
    for instruction, outcome in life.instructions:
        if not isinstance(outcome, Recorded):
            continue
        [again] = await target.post([translated(instruction, accounts, parents)])
        assert isinstance(again, Recorded), (instruction, outcome)
        assert (again.replayed, again.posted) == (True, outcome.posted)
        another = await other_outcome(target, instruction, accounts, parents)
        assert isinstance(another, Rejected), instruction
        assert another.reason is Rejection.KEY_REUSED


async def other_outcome(
    target: Ledger, instruction: Any, accounts: dict[int, int], parents: dict[int, int]
) -> Any:
    """The answer to another request with the same key."""
    text = Detail("another request", None, None, None)
    another = translated(instruction, accounts, parents)
    [outcome] = await target.post([msgspec.structs.replace(another, detail=text)])
    return outcome


def ids_in_order(database: Any, ledger: Ledger) -> tuple[list[int], list[int]]:
    with connect(database) as connection:
        of_accounts = "SELECT id FROM ledger.accounts WHERE ledger_id = %s AND id > 0 ORDER BY id"
        accounts = connection.execute(of_accounts, [ledger._ledger]).fetchall()
        of_transactions = (
            "SELECT id FROM ledger.transactions WHERE ledger_id = %s ORDER BY recorded_at, id"
        )
        transactions = connection.execute(of_transactions, [ledger._ledger]).fetchall()
    return [row[0] for row in accounts], [row[0] for row in transactions]


async def check(database: Any, chosen: list[Step], form: Format) -> Life:
    async with Ledger.open(url_text(database)) as default:
        name, life = await lived(default, chosen)
        target = await copied(default, database, name, form)
        assert_equal(database, life.ledger, target)
        ids, new = ids_in_order(database, target)
        _, old = ids_in_order(database, life.ledger)
        await assert_same_balances_as_effective(life, target, ids)
        await assert_keys_are_replayed(life, target, ids, zip(old, new, strict=True))
        assert_equal(database, life.ledger, target)
    return life


EVERY_KIND: list[Step] = [
    *(("deposit", account, 0, 400) for account in range(5)),
    *((kind, one, other, 10) for kind in KINDS for one in (0, 1, 4) for other in (1, 2, 3, 6)
      if kind not in {"wait", "policy", "forced", "by_legs"}),
    *(("by_legs", one, other, 1) for one in range(10) for other in (0, 1)),
    *(("release", one, 1, 1) for one in range(10)),
    ("wait", 0, 0, 1),
    *(("policy", account, other, 50) for account in (0, 1, 3) for other in (0, 1, 2, 3, 4)),
    ("policy", 2, 5, 400),
    *(("withdrawal", 2, 0, 9), ("withdrawal", 0, 0, 400), ("withdrawal", 1, 0, 400)),
    *(("forced", one, 0, 1) for one in range(8)),
    ("capture_soon", 4, 1, 5),
    ("withdrawal", 4, 0, 300),
    ("wait", 0, 0, 1),
    *((kind, one, other, 7) for kind in KINDS for one in (2, 3) for other in (0, 4)),
]  # fmt: skip


@pytest.mark.parametrize("form", FORMS)
def test_every_kind_is_the_same_in_a_copy(database, no_violations, form):
    life = asyncio.run(check(database, EVERY_KIND, form))
    seen = {(one.kind, one.refusal is None) for one in life.recorded}
    assert {kind for kind, posted in seen if posted} == set(Kind)
    assert {Kind.WITHDRAWAL, Kind.CAPTURE, Kind.TRANSFER} <= {k for k, posted in seen if not posted}
    with connect(database) as connection:
        origins = connection.execute("SELECT DISTINCT origin FROM ledger.transactions").fetchall()
    assert {Origin(row[0]) for row in origins} == BY_SERVICE | {Origin.CALLER}
    assert any(isinstance(one, General) and one.exchange for one, _ in life.instructions)
    for kind in ("conditional", "many", "by_legs"):
        outcomes = [o for k, o in life.made if k == kind and isinstance(o, Recorded)]
        assert {one.posted for one in outcomes} == {True, False}, kind
    no_violations(database)


@pytest.fixture(scope="module")
def shared(new_database):
    return new_database()


@given(chosen=steps, form=st.sampled_from(FORMS))
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
def test_any_life_is_the_same_in_a_copy(shared, chosen, form):
    asyncio.run(check(shared, [("deposit", 0, 0, 400), ("deposit", 3, 0, 300), *chosen], form))
