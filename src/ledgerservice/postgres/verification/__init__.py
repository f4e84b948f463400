"""`verify`: proves the invariants over a whole database, and names the rows that break them.

It relies on nothing that a superuser could have written past the guards. Everything is read in one
snapshot, range by range of ids, so that memory stays flat and progress can be shown.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, TextClause, text

from ledgerservice.errors import printable
from ledgerservice.postgres import migrations
from ledgerservice.postgres.schema import SCHEMA, SCHEMA_SQL, in_schema
from ledgerservice.postgres.verification.checks import BY_ACCOUNT, CATALOGUE, WHOLE, Check
from ledgerservice.postgres.verification.recent_checks import BY_NEW_TRANSACTION
from ledgerservice.postgres.verification.transaction_checks import BY_TRANSACTION

log = logging.getLogger(__name__)

ACCOUNTS_A_STEP = 5_000
TRANSACTIONS_A_STEP = 50_000


class Violation(NamedTuple):
    """A broken invariant, numbered as in `checks`, and the row that breaks it."""

    invariant: int
    where: str
    what: str

    def __str__(self) -> str:
        return printable(f"invariant {self.invariant}: {self.where}: {self.what}")


Bounds = dict[str, int]
Step = tuple[Check, Mapping[str, Any]]

# The rows of a ledger that arrives are not complete yet; whoever moves it verifies it.
_LEDGERS = text(
    "SELECT ledger_id FROM ledger.ledgers WHERE ledger_id NOT IN"
    " (SELECT ledger_id FROM ledger.fences WHERE state IN ('arriving', 'removing'))"
    " ORDER BY ledger_id"
)
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


def guards(schema: str) -> dict[str, Any]:
    """The parameters of the checks of CATALOGUE."""
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
    source: Engine | Connection,
    progress: Progress = lambda _done, _of: None,
    schema: str = SCHEMA,
) -> Iterator[Violation]:
    """Every violation in the database, as it is found.

    Out of an engine everything is read in one snapshot. A connection is read in its transaction,
    what it has not committed included; nobody else may change the ledger then. `progress` is called
    after each step, with the number of steps done and of all steps.
    """
    with _connected(source) as connection:
        steps = _steps(connection, schema)
        for done, (check, values) in enumerate(steps, start=1):
            yield from find_violations(connection, check, values)
            progress(done, len(steps))


def verify_ledger(
    connection: Connection, ledger: int, progress: Progress = lambda _done, _of: None
) -> Iterator[Violation]:
    """Every violation in the rows of a ledger, also of one that is arriving."""
    steps = list(_steps_of(connection, ledger))
    for done, (check, values) in enumerate(steps, start=1):
        yield from find_violations(connection, check, values)
        progress(done, len(steps))


def verify_since(connection: Connection, ledger: int, after: int) -> Iterator[Violation]:
    """Every violation in the transactions of a ledger with an id above `after`, and in the accounts
    that they touched.
    """
    part, low = PARTS[TRANSACTIONS], after + 1
    while low <= BIGGEST:
        bounds = part.next_range(connection, ledger, low)
        for check in NEW:
            yield from find_violations(connection, check, bounds)
        low = bounds["high"] + 1


def verify_guards(connection: Connection, schema: str) -> Iterator[Violation]:
    """Every guard that is missing or changed."""
    for check in without_unknown(connection, CATALOGUE):
        yield from find_violations(connection, check, guards(schema))


def find_violations(
    connection: Connection, check: Check, values: Mapping[str, Any]
) -> Iterator[Violation]:
    """The violations that one check finds."""
    for where, what in connection.execute(text(check.query), values).yield_per(1_000):
        yield Violation(check.invariant, where, what)


@contextmanager
def _connected(source: Engine | Connection) -> Iterator[Connection]:
    if isinstance(source, Connection):
        yield source
        return
    options = {"isolation_level": "REPEATABLE READ", "postgresql_readonly": True}
    with source.connect().execution_options(**options) as connection:
        yield connection


def without_unknown(connection: Connection, checks: Sequence[Check]) -> list[Check]:
    """The checks, without those of the guards if the schema is a newer release's.

    In a rolling upgrade that release has replaced functions, and this one does not know their text.
    """
    present = migrations.revision(connection)
    if present is None or migrations.is_known(present):
        return list(checks)
    log.warning("the schema is at revision %s of a newer release: guards are not verified", present)
    return [check for check in checks if check not in CATALOGUE]


def _steps(connection: Connection, schema: str) -> list[Step]:
    checks = without_unknown(connection, WHOLE)
    steps: list[Step] = [(check, guards(schema)) for check in checks]
    for ledger in list_ledgers(connection):
        steps += _steps_of(connection, ledger)
    return steps


def _steps_of(connection: Connection, ledger: int) -> Iterator[Step]:
    for part in PARTS.values():
        low = SMALLEST
        while low <= BIGGEST:
            bounds = part.next_range(connection, ledger, low)
            yield from ((check, bounds) for check in part.checks)
            low = bounds["high"] + 1


def list_ledgers(connection: Connection) -> list[int]:
    """The ids of all ledgers that are complete, in order."""
    return [ledger for (ledger,) in connection.execute(_LEDGERS)]


class Part(NamedTuple):
    """Rows that are verified in ranges of `size` by their ids, and their checks."""

    checks: Sequence[Check]
    end: TextClause
    size: int

    def next_range(self, connection: Connection, ledger: int, low: int) -> Bounds:
        """The ids from `low` on that hold `size` rows, or all further ids that there could be."""
        values = {"ledger": ledger, "low": low}
        after = connection.scalar(self.end, {**values, "size": self.size})
        return {**values, "high": BIGGEST if after is None else after - 1}


ACCOUNTS, TRANSACTIONS = "accounts", "transactions"
PARTS = {
    ACCOUNTS: Part(BY_ACCOUNT, _END_OF_ACCOUNTS, ACCOUNTS_A_STEP),
    TRANSACTIONS: Part(BY_TRANSACTION, _END_OF_TRANSACTIONS, TRANSACTIONS_A_STEP),
}
NEW = [*BY_NEW_TRANSACTION, *BY_TRANSACTION]
"""The checks of what was recorded after all before it was verified."""
