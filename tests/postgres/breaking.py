"""A ledger with some history, and what a superuser breaks in it past the guards."""

from ledgerservice.domain.instructions import Instruction, Kind, Movement
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.verification import verify
from tests.databases import connect
from tests.postings import deposit

BYPASS = "SET session_replication_role = replica"


SOME: list[list[Instruction]] = [
    [deposit(1, 100), deposit(3, 100)],  # 1, 2
    [Movement(Kind.TRANSFER, 1, 2, "30", "t1"), Movement(Kind.TRANSFER, 1, 2, "20", "t2")],
    [Movement(Kind.WITHDRAWAL, 2, None, "999", "w1")],  # 5
    [Movement(Kind.WITHDRAWAL, 2, None, "10", "w2")],  # 6
]


ALWAYS = {
    "transactions": "transactions_immutable",
    "entries": "entries_immutable",
    "accounts": "accounts_permanent",
    "details": "details_immutable",
    "policies": "policies_immutable",
    "holds": "holds_permanent",
    "schedules": "schedules_permanent",
    "dated_entries": "dated_entries_immutable",
    "account_details": "account_details_immutable",
}


def violations(database: Database, *statements: str) -> list[str]:
    """What verify says after a superuser has run `statements` past the guards."""
    with connect(database) as superuser:
        superuser.execute(BYPASS)
        for table, trigger in ALWAYS.items():
            superuser.execute(f"ALTER TABLE ledger.{table} DISABLE TRIGGER {trigger}")
        for statement in statements:
            superuser.execute(statement)
        for table, trigger in ALWAYS.items():
            superuser.execute(f"ALTER TABLE ledger.{table} ENABLE ALWAYS TRIGGER {trigger}")
    return [str(violation) for violation in verify(database.owner_engine())]
