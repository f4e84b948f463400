"""A ledger with some history, and what a superuser breaks in it past the guards."""

from ledgerservice.domain.instructions import Instruction, Kind, Movement
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.verification import verify
from tests.databases import connect, without_guards
from tests.postings import deposit

SOME: list[list[Instruction]] = [
    [deposit(1, 100), deposit(3, 100)],  # 1, 2
    [Movement(Kind.TRANSFER, 1, 2, "30", "t1"), Movement(Kind.TRANSFER, 1, 2, "20", "t2")],
    [Movement(Kind.WITHDRAWAL, 2, None, "999", "w1")],  # 5
    [Movement(Kind.WITHDRAWAL, 2, None, "10", "w2")],  # 6
]


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
