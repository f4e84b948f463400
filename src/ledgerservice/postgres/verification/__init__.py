"""`verify`: proves the invariants over a whole database, and names the rows that break them.

It relies on nothing that a superuser could have written past the guards. Everything is read in one
snapshot, range by range of ids, so that memory stays flat and progress can be shown.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, TextClause, text

from ledgerservice.postgres.schema import SCHEMA, SCHEMA_SQL, in_schema
from ledgerservice.postgres.verification.checks import BY_ACCOUNT, WHOLE, Check
from ledgerservice.postgres.verification.transaction_checks import BY_TRANSACTION

ACCOUNTS_A_STEP = 5_000
TRANSACTIONS_A_STEP = 50_000


class Violation(NamedTuple):
    """A broken invariant, numbered as in `checks`, and the row that breaks it."""

    invariant: int
    where: str
    what: str

    def __str__(self) -> str:
        return f"invariant {self.invariant}: {self.where}: {self.what}"


Bounds = dict[str, int]
Step = tuple[Check, Mapping[str, Any]]

_LEDGERS = text("SELECT ledger_id FROM ledger.ledgers ORDER BY ledger_id")
_END_OF_ACCOUNTS = text(
    "SELECT id FROM ledger.accounts WHERE ledger_id = :ledger AND id >= :low"
    " ORDER BY id OFFSET :size LIMIT 1"
)
_END_OF_TRANSACTIONS = text(
    "SELECT id FROM ledger.transactions WHERE ledger_id = :ledger AND id >= :low"
    " ORDER BY id OFFSET :size LIMIT 1"
)
SMALLEST, BIGGEST = -(2**63), 2**63 - 1

# The guards that there must be are read from where they are made.
_TRIGGERS = dict(
    re.findall(
        r"CREATE (?:CONSTRAINT )?TRIGGER (\w+)[^;]*?EXECUTE FUNCTION ledger\.(\w+)", SCHEMA_SQL
    )
)
_FUNCTIONS = re.findall(
    r"CREATE FUNCTION ledger\.(\w+)\(([^;]*?)AS \$\$(.*?)\$\$;", SCHEMA_SQL, re.DOTALL
)


def _options(header: str) -> str:
    """The SET clauses of a function, as PostgreSQL keeps them."""
    settings = re.findall(r"SET (\w+) = (\w+(?:, \w+)*)", header)
    return ";".join(f"{name}={value}" for name, value in settings)


def _guards(schema: str) -> dict[str, Any]:
    return {
        "schema": schema,
        "bodies": [in_schema(body, schema) for _, _, body in _FUNCTIONS],
        "defined": [name for name, _, _ in _FUNCTIONS],
        "definer": ["SECURITY DEFINER" in header for _, header, _ in _FUNCTIONS],
        "options": [_options(header) for _, header, _ in _FUNCTIONS],
        "triggers": list(_TRIGGERS),
        "functions": list(_TRIGGERS.values()),
        "constraints": re.findall(r"CONSTRAINT (?!TRIGGER)(\w+)", SCHEMA_SQL),
        "keys": re.findall(r"CREATE UNIQUE INDEX (\w+)", SCHEMA_SQL),
    }


Progress = Callable[[int, int], None]


def verify(
    engine: Engine, progress: Progress = lambda _done, _of: None, schema: str = SCHEMA
) -> Iterator[Violation]:
    """Every violation in the database, as it is found.

    `progress` is called after each step, with the number of steps done and of all steps.
    """
    with engine.connect().execution_options(
        isolation_level="REPEATABLE READ", postgresql_readonly=True
    ) as connection:
        steps: list[Step] = [(check, _guards(schema)) for check in WHOLE]
        for (ledger,) in connection.execute(_LEDGERS).all():
            for checks, end, size in (
                (BY_ACCOUNT, _END_OF_ACCOUNTS, ACCOUNTS_A_STEP),
                (BY_TRANSACTION, _END_OF_TRANSACTIONS, TRANSACTIONS_A_STEP),
            ):
                ranges = _ranges(connection, end, ledger, size)
                steps += [(check, bounds) for bounds in ranges for check in checks]
        for done, (check, values) in enumerate(steps, start=1):
            for where, what in connection.execute(text(check.query), values).yield_per(1_000):
                yield Violation(check.invariant, where, what)
            progress(done, len(steps))


def _ranges(connection: Connection, end: TextClause, ledger: int, size: int) -> list[Bounds]:
    """All ids there could be, in ranges that hold `size` rows each."""
    ranges: list[Bounds] = []
    low: int | None = SMALLEST
    while low is not None:
        values = {"ledger": ledger, "low": low}
        after = connection.scalar(end, {**values, "size": size})
        ranges.append({**values, "high": BIGGEST if after is None else after - 1})
        low = after
    return ranges
