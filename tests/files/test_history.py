"""Export of a history, and its import: a ledger that is equal but for ids and recorded times."""

import asyncio
import io
import itertools
from datetime import UTC, datetime, timedelta
from typing import Any

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from ledgerservice import Ledger
from ledgerservice.domain.history import BY_SERVICE
from ledgerservice.domain.instructions import (
    Detail,
    General,
    Kind,
    Origin,
)
from ledgerservice.domain.transactions import Recorded, Rejected, Rejection
from ledgerservice.files.history import export_history, import_history
from ledgerservice.files.options import Format
from ledgerservice.postgres.queries.transaction_filters import TransactionFilter
from tests import examples
from tests.databases import connect, url_text
from tests.files.lives import KINDS, Life, kept, steps
from tests.processes import cli

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


@pytest.mark.thorough
@pytest.mark.parametrize("form", FORMS)
def test_every_kind_is_the_same_in_a_copy(database, no_violations, form):
    life = asyncio.run(check(database, EVERY_KIND, form))
    seen = {(one.kind, one.refusal is None) for one in life.recorded}
    # A ledger with parts has no history of this form.
    assert {kind for kind, posted in seen if posted} == {
        kind for kind in Kind if kind < Kind.CROSSING
    }
    assert {Kind.WITHDRAWAL, Kind.CAPTURE, Kind.TRANSFER} <= {k for k, posted in seen if not posted}
    with connect(database) as connection:
        origins = connection.execute("SELECT DISTINCT origin FROM ledger.transactions").fetchall()
    assert {Origin(row[0]) for row in origins} == BY_SERVICE | {Origin.CALLER}
    assert any(isinstance(one, General) and one.exchange for one, _ in life.instructions)
    for kind in ("conditional", "many", "by_legs"):
        outcomes = [o for k, o in life.made if k == kind and isinstance(o, Recorded)]
        assert {one.posted for one in outcomes} == {True, False}, kind
    no_violations(database)


MARCH = datetime(1993, 3, 1, tzinfo=UTC)
APRIL = datetime(1993, 4, 1, tzinfo=UTC)


def test_an_imported_march_is_shown_by_effective_date(database, tmp_path):
    """By the command line: its statement, trial balance, totals and list have its entries."""
    file = tmp_path / "history.ndjson"
    asyncio.run(lived_in_march(database))
    done = run(database, "export", file, "--history", "--ledger", "source")
    assert done.returncode == 0, done.stderr
    done = run(database, "import", file, "--history", "--ledger", "target")
    assert done.returncode == 0, done.stderr
    asyncio.run(assert_march(database))


def run(database, *arguments):
    return cli(*map(str, arguments), DATABASE_URL=url_text(database))


async def lived_in_march(database):
    async with Ledger.open(url_text(database)) as default:
        await default.add_ledger("target")
        ledger = await default.add_ledger("source")
        opened: Any = await ledger.open_account("Alice", "USD", key="a")
        for day, amount in ((MARCH - timedelta(days=1), "4"), (MARCH, "1"), (APRIL, "2")):
            detail = Detail(effective_at=day, metadata={"job": f"{day:%B}"})
            await ledger.deposit(opened.account_id, amount, key=f"{day}", detail=detail)


async def assert_march(database):
    async with Ledger.open(url_text(database)) as default:
        ledger = await default.ledger("target")
        [account], _ = await ledger.accounts()
        statement: Any = await ledger.statement(account.id, MARCH, APRIL, by="effective")
        assert (statement.opening, statement.closing) == (400, 500)
        assert [line.amount async for line in ledger.lines(statement)] == [100]
        last = APRIL - timedelta(microseconds=1)
        [dollars], _ = await ledger.trial_balance(last, by="effective")
        assert (dollars.accounts, dollars.customers, dollars.external) == (1, 500, -500)
        [owner] = await ledger.owner_balances(at=last, by="effective")
        assert (owner.owner, owner.balance) == ("Alice", 500)
        [(total, _)] = await ledger.totals("job", MARCH, APRIL, by="effective")
        assert (total.value, total.amount) == ("March", 100)
        march = TransactionFilter(since=MARCH, until=APRIL, by="effective")
        [one], _ = await ledger.transactions(march)
        assert one.amount == 100
        # As recorded there was nothing then.
        recorded = await ledger.statement(account.id, MARCH, APRIL)
        assert (recorded.closing, await ledger.trial_balance(last)) == (0, ([], True))


@pytest.fixture(scope="module")
def shared(new_database):
    return new_database()


@given(chosen=steps, form=st.sampled_from(FORMS))
@settings(max_examples=examples(5), deadline=None, suppress_health_check=list(HealthCheck))
def test_any_life_is_the_same_in_a_copy(shared, chosen, form):
    asyncio.run(check(shared, [("deposit", 0, 0, 400), ("deposit", 3, 0, 300), *chosen], form))
