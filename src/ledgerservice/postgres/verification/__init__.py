"""Proves the invariants over a whole database, and names what breaks them.

It believes nothing that a superuser could have written past the guards. All of it is read in one
snapshot, range of ids by range of ids, so that memory stays flat and progress can be shown.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, TextClause, text

from ledgerservice.postgres.verification.checks import BY_ACCOUNT, BY_TRANSACTION, WHOLE, Check

ACCOUNTS_A_STEP = 5_000
TRANSACTIONS_A_STEP = 50_000


class Violation(NamedTuple):
    """A broken invariant (1 to 6, as DESIGN.md numbers them) and the row that breaks it."""

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

# What guards there must be is read from where they are made; a later migration may replace one.
_SOURCE = "".join(
    file.read_text()
    for file in sorted((Path(__file__).parents[1] / "migrations" / "versions").glob("*.sql"))
)
_TRIGGERS = dict(
    re.findall(r"CREATE (?:CONSTRAINT )?TRIGGER (\w+)[^;]*?EXECUTE FUNCTION ledger\.(\w+)", _SOURCE)
)
_ALWAYS = set(re.findall(r"ENABLE ALWAYS TRIGGER (\w+)", _SOURCE))
_FUNCTIONS = dict(
    re.findall(r"FUNCTION ledger\.(\w+)\([^;]*?AS \$\$(.*?)\$\$;", _SOURCE, re.DOTALL)
)


def _constraints() -> list[str]:
    """The constraints that there are in the end; what was dropped may have been made again."""
    found: dict[str, None] = {}
    for dropped, name in re.findall(r"(DROP )?CONSTRAINT (?!TRIGGER)(\w+)", _SOURCE):
        if dropped:
            found.pop(name, None)
        else:
            found[name] = None
    return list(found)


_GUARDS: dict[str, Any] = {
    "bodies": list(_FUNCTIONS.values()),
    "defined": list(_FUNCTIONS),
    "triggers": list(_TRIGGERS),
    "functions": list(_TRIGGERS.values()),
    "always": [name in _ALWAYS for name in _TRIGGERS],
    "constraints": _constraints(),
    "keys": re.findall(r"CREATE UNIQUE INDEX (\w+)", _SOURCE),
}

Progress = Callable[[int, int], None]


def verify(engine: Engine, progress: Progress = lambda _done, _of: None) -> Iterator[Violation]:
    """Every violation in the database, as it is found.

    `progress` is called with the steps done and their number, after each step.
    """
    with engine.connect().execution_options(
        isolation_level="REPEATABLE READ", postgresql_readonly=True
    ) as connection:
        steps: list[Step] = [(check, _GUARDS) for check in WHOLE]
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
