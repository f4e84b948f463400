"""A ledger with some history, and what a superuser breaks in it past the guards."""

from datetime import UTC, datetime

from ledgerservice.domain.instructions import (
    Cancellation,
    Capture,
    Detail,
    General,
    Hold,
    Instruction,
    Kind,
    Leg,
    Movement,
    PolicyChange,
    Reversal,
    Schedule,
)
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.verification import verify
from tests.databases import connect, without_guards
from tests.postings import deposit, open_accounts, post

SOME: list[list[Instruction]] = [
    [deposit(1, 100), deposit(3, 100)],  # 1, 2
    [Movement(Kind.TRANSFER, 1, 2, "30", "t1"), Movement(Kind.TRANSFER, 1, 2, "20", "t2")],
    [Movement(Kind.WITHDRAWAL, 2, None, "999", "w1")],  # 5
    [Movement(Kind.WITHDRAWAL, 2, None, "10", "w2")],  # 6
]
NOW = datetime(2026, 1, 1, tzinfo=UTC)
FAR = datetime(2099, 1, 1, tzinfo=UTC)


def post_whole(database: Database) -> None:
    """Post every kind of transaction, in a ledger that has no account yet."""
    legs = (Leg(1, "-5"), Leg(2, "5"))
    back_dated = Detail("d", "r", NOW, '{"a":1}')
    open_accounts(database, "USD", "USD", "INR")
    post(
        database,
        *SOME,
        [Hold(1, 2, "10", "h1")],
        [Capture(7, "c1", amount="4", final=True), Hold(1, None, "3", "h2", FAR)],
        [General(legs, "g")],
        [Reversal(10, "rv", amount="2"), PolicyChange(2, "p", "-1", None, actor="a", reason="r")],
        [Movement(Kind.WITHDRAWAL, 2, None, "48", "w3")],
        [Schedule(1, 2, "1", FAR, "s1"), Schedule(1, 2, "1", FAR, "s2")],
        [Cancellation(14, "x")],
        [Movement(Kind.DEPOSIT, 2, None, "50", "b", back_dated)],
        [Movement(Kind.WITHDRAWAL, 2, None, "50", "w4")],
        [Reversal(17, "f", force=True, actor="boss")],
        [Capture(9, "c2", amount="9")],
        [PolicyChange(3, "p3", ceiling="500", frozen=1)],
    )


def violations(database: Database, *statements: str) -> list[str]:
    """What verify says after a superuser has run `statements` past the guards.

    Statements on triggers come last, because the guards are put back before them.
    """
    on_triggers = [statement for statement in statements if "TRIGGER" in statement]
    with connect(database) as superuser:
        with without_guards(superuser):
            for statement in statements:
                if statement not in on_triggers:
                    superuser.execute(statement)
        for statement in on_triggers:
            superuser.execute(statement)
    return [str(violation) for violation in verify(database.owner_engine())]
