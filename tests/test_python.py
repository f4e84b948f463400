"""What Python gets for what is not valid, and what it may pass: a dict as metadata, a session."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime
from decimal import Decimal
from typing import Any

import pytest
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from ledgerservice import Ledger, deposit, transfer, withdrawal
from ledgerservice.domain.instructions import (
    Cancellation,
    Capture,
    Detail,
    General,
    Hold,
    Leg,
    PolicyChange,
    Reversal,
    Schedule,
)
from ledgerservice.errors import InvalidField
from ledgerservice.postgres.queries.accounts import AccountFilter
from ledgerservice.postgres.queries.transaction_filters import TransactionFilter
from tests.databases import url_text

NAIVE: Any = datetime(2099, 1, 1)  # noqa: DTZ001  (it is what is refused)
AWARE = datetime(2099, 1, 1, tzinfo=UTC)
Call = Callable[[Ledger], Awaitable[Any]]


def with_ledger(database, test: Call) -> None:
    async def run() -> None:
        async with Ledger.open(url_text(database)) as ledger:
            for owner in ("Alice", "Bob"):
                await ledger.open_account(owner, "USD", key=owner)
            await ledger.deposit(1, 10, key="funding")
            await test(ledger)

    asyncio.run(asyncio.wait_for(run(), 60))


def refuse(field: str, call: Call) -> Call:
    async def test(ledger: Ledger) -> None:
        with pytest.raises(InvalidField, match=f"^{field}: ") as refused:
            await call(ledger)
        assert refused.value.field == field

    return test


def post(instruction: Any) -> Call:
    return lambda ledger: ledger.post([instruction])


def post_in(instruction: Any) -> Call:
    missing: Any = None
    return lambda ledger: ledger.post_in(missing, [instruction])


BOOKED: Any = "booked"
NAIVE_CALLS: list[tuple[str, Call]] = [
    ("at", lambda ledger: ledger.account_at(1, NAIVE)),
    ("at", lambda ledger: ledger.trial_balance(NAIVE)),
    ("at", lambda ledger: ledger.owner_balances(at=NAIVE)),
    ("by", lambda ledger: ledger.trial_balance(by="effective")),
    ("by", lambda ledger: ledger.owner_balances(by="effective")),
    ("by", lambda ledger: ledger.trial_balance(AWARE, by=BOOKED)),
    ("by", lambda ledger: ledger.owner_balances(at=AWARE, by=BOOKED)),
    ("by", lambda ledger: ledger.totals("order", by=BOOKED)),
    ("by", lambda ledger: ledger.statement(1, by=BOOKED)),
    ("by", lambda ledger: ledger.transactions(TransactionFilter(by=BOOKED))),
    ("since", lambda ledger: ledger.statement(1, NAIVE)),
    ("until", lambda ledger: ledger.statement(1, AWARE, NAIVE)),
    ("since", lambda ledger: ledger.totals("order", NAIVE)),
    ("until", lambda ledger: ledger.totals("order", None, NAIVE)),
    ("since", lambda ledger: ledger.accounts(AccountFilter(since=NAIVE))),
    ("until", lambda ledger: ledger.accounts(AccountFilter(until=NAIVE))),
    ("since", lambda ledger: ledger.transactions(TransactionFilter(since=NAIVE))),
    ("until", lambda ledger: ledger.transactions(TransactionFilter(until=NAIVE))),
    ("after", lambda ledger: ledger.transactions(after=(NAIVE, 1))),
    ("expires_at", post(Hold(1, None, "1", "k", NAIVE))),
    ("capture_at", post(Hold(1, None, "1", "k", AWARE, NAIVE))),
    ("execute_at", post(Schedule(1, 2, "1", NAIVE, "k"))),
    *(("detail.effective_at", call(one))
      for call in (post, post_in)
      for one in (
          deposit(1, 1, "k", Detail(effective_at=NAIVE)),
          General((Leg(1, "-1"), Leg(2, "1")), "k", detail=Detail(effective_at=NAIVE)),
          Capture(7, "k", Detail(effective_at=NAIVE)),
          Reversal(7, "k", Detail(effective_at=NAIVE)),
          Cancellation(7, "k", Detail(effective_at=NAIVE)),
      )),
]  # fmt: skip

INVALID_CALLS: list[tuple[str, Call]] = [
    ("amount", lambda ledger: ledger.deposit(1, 1.5, key="k")),  # type: ignore[arg-type]
    ("key", lambda ledger: ledger.withdraw(1, 1, key="é")),
    ("account_id", lambda ledger: ledger.deposit(2**63, 1, key="k")),
    ("from_account_id", lambda ledger: ledger.transfer(2**63, 1, 1, key="k")),
    ("to_account_id", lambda ledger: ledger.transfer(1, True, 1, key="k")),
    ("until", lambda ledger: ledger.statement(1, AWARE, datetime(2000, 1, 1, tzinfo=UTC))),
    ("metadata", lambda ledger: ledger.transactions(TransactionFilter(metadata="["))),
    ("metadata", lambda ledger: ledger.accounts(AccountFilter(metadata="["))),
    ("owner", lambda ledger: ledger.open_account("", "USD", key="k")),
    ("owner", lambda ledger: ledger.open_account("a\0b", "USD", key="k")),
    ("reference", lambda ledger: ledger.open_account("a", "USD", key="k", reference="\ud800")),
    ("metadata", lambda ledger: ledger.open_account("a", "USD", key="k", metadata={"a": {1}})),
    ("key", lambda ledger: ledger.open_account("a", "USD", key="")),
    ("code", lambda ledger: ledger.add_currency("usd", 2, "Dollar")),
    ("exponent", lambda ledger: ledger.add_currency("ABC", 13, "Coin")),
    ("name", lambda ledger: ledger.add_currency("ABC", 2, "")),
    ("name", lambda ledger: ledger.add_ledger("A B")),
    ("legs", post(General((Leg(1, "1"),), "k"))),
    ("legs.1.amount", post(General((Leg(1, "-1"), Leg(2, "x")), "k"))),
    ("frozen", post(PolicyChange(1, "k", frozen=4, actor="a", reason="r"))),
    ("actor", post(PolicyChange(1, "k", "-1", reason="r"))),
    ("reason", post(PolicyChange(1, "k", "-1", actor="a"))),
    ("capture_at", post(Hold(1, None, "1", "k", AWARE, AWARE))),
    ("detail.effective_at", post(Schedule(1, 2, "1", AWARE, "k", Detail(effective_at=AWARE)))),
    ("detail.description", post(Reversal(1, "k", force=True, actor="a"))),
]


@pytest.mark.parametrize(("field", "call"), NAIVE_CALLS)
def test_a_datetime_without_a_zone_is_refused(database, field: str, call: Call) -> None:
    with_ledger(database, refuse(field, call))


@pytest.mark.parametrize(("field", "call"), INVALID_CALLS)
def test_a_fault_names_the_field(database, field: str, call: Call) -> None:
    with_ledger(database, refuse(field, call))


@pytest.mark.parametrize("make", [deposit, withdrawal])
def test_it_is_a_value_error(make) -> None:
    with pytest.raises(ValueError, match="^amount: must be a positive plain decimal"):
        make(1, "-1", "k")


# Metadata.

WRITTEN = [
    ({"order": 77, "parts": [1, 2.5, Decimal("0.10")], "gift": True, "note": None},
     '{"order":77,"parts":[1,2.5,0.10],"gift":true,"note":null}'),
    ({"a": {"b": ("x", "y")}}, '{"a":{"b":["x","y"]}}'),
    ({}, "{}"),
]  # fmt: skip


@pytest.mark.parametrize(("given", "text"), WRITTEN)
def test_metadata_may_be_a_dict(given, text) -> None:
    assert Detail(metadata=given) == Detail(metadata=text)


@pytest.mark.parametrize(
    "given",
    [{1: "a"}, {"a": float("nan")}, {"a": 1e300}, {"a": Decimal("Infinity")}, {"a": b"x"},
     {"a": "\0"}, {"a": "\ud800"}, {"a": AWARE}, {"a": "x" * 8_192}],
)  # fmt: skip
def test_a_dict_that_is_no_metadata_is_refused(given) -> None:
    with pytest.raises(InvalidField, match="^metadata: "):
        Detail(metadata=given)


def test_a_dict_is_kept_and_found_as_metadata(database) -> None:
    async def test(ledger: Ledger) -> None:
        noted = Detail(metadata={"order": 77})
        assert (await ledger.deposit(1, 1, key="d", detail=noted)).posted
        assert (
            await ledger.deposit(1, 1, key="d", detail=Detail(metadata='{"order":77}'))
        ).replayed
        [found], _ = await ledger.transactions(TransactionFilter(metadata='{"order":77}'))
        assert found.key == "d"
        await ledger.open_account("Carol", "USD", key="c", metadata={"tier": "gold"})
        [carol], _ = await ledger.accounts(AccountFilter(metadata='{"tier":"gold"}'))
        assert carol.owner == "Carol"

    with_ledger(database, test)


# A session of SQLAlchemy.


class Base(DeclarativeBase):
    pass


class Order(Base):
    __tablename__ = "orders"
    number: Mapped[str] = mapped_column(primary_key=True)


@pytest.mark.parametrize("commits", [True, False])
def test_a_session_books_an_order_and_its_payment_in_one_commit(
    database, no_violations, commits: bool
) -> None:
    async def test(ledger: Ledger) -> None:
        engine = create_async_engine(database.url.set(drivername="postgresql+psycopg"))
        async with engine.begin() as connection:
            await connection.run_sync(Base.metadata.create_all)
        async with AsyncSession(engine) as session:
            session.add(Order(number="77"))
            outcomes = await ledger.post_in(session, [transfer(1, 2, "4", "order-77")])
            assert isinstance(outcomes, list) and outcomes[0].posted
            assert not session.new  # it was flushed before the accounts were locked
            await (session.commit() if commits else session.rollback())
        async with AsyncSession(engine) as session:
            assert (await session.get(Order, "77") is not None) is commits
        assert (await ledger.account(2)).balance == (400 if commits else 0)
        await engine.dispose()

    with_ledger(database, test)
    no_violations(database)
