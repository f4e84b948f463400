"""Alembic's part: the revisions, and altering a schema from one to another."""

from collections.abc import Callable
from pathlib import Path

import iso4217
from alembic import command
from alembic.config import Config
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, text

from ledgerservice.domain.instructions import Origin
from ledgerservice.postgres.migrations import COMPATIBLE, HEAD
from ledgerservice.postgres.schema import FUNCTIONS_SQL, SCHEMA

Applied = Callable[[Connection, str], None]
"""Called in the transaction of each revision that was reached, with its name."""


def _config(
    connection: Connection | None = None, schema: str = SCHEMA, applied: Applied | None = None
) -> Config:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent))
    in_transaction = connection is not None and connection.in_transaction()
    config.attributes |= {"connection": connection, "schema": schema, "applied": applied}
    config.attributes["in_transaction"] = in_transaction
    return config


_scripts = ScriptDirectory.from_config(_config())
KNOWN = frozenset(script.revision for script in _scripts.walk_revisions())
"""The revisions that this release can bring up to its own."""


def stamp(connection: Connection, schema: str) -> None:
    """Note that the schema is at the head."""
    command.stamp(_config(connection, schema, _record_compatible), HEAD)


def alter(
    connection: Connection,
    schema: str,
    to_revision: str,
    finish: Callable[[], None] = lambda: None,
) -> None:
    """Run the revisions up to `to_revision`, and `finish` in the transaction of the head."""

    def applied(connection: Connection, at_revision: str) -> None:
        _record_compatible(connection, at_revision)
        if at_revision == HEAD:
            # A revision alters tables and triggers. The functions' text is in `schema.sql` alone.
            for function in FUNCTIONS_SQL:
                connection.exec_driver_sql(function.replace("%", "%%"))
            add_currencies(connection)
            finish()

    command.upgrade(_config(connection, schema, applied), to_revision)


def _record_compatible(connection: Connection, at_revision: str) -> None:
    """Name a revision, and those before it whose releases may serve it."""
    names = COMPATIBLE + " ".join(_served(at_revision))
    connection.exec_driver_sql(f"COMMENT ON TABLE {SCHEMA}.alembic_version IS '{names}'")


def _served(at_revision: str) -> list[str]:
    """The revisions whose releases may serve a schema: back to the last one that bars others."""
    revisions: list[str] = []
    oldest: set[object] = set()
    for script in _scripts.walk_revisions(head=at_revision):
        revisions.append(script.revision)
        compatible = getattr(script.module, "compatible", False)
        oldest.add(script.revision if compatible is False else compatible)
        if script.revision in oldest:
            break
    return revisions


def add_currencies(connection: Connection) -> None:
    """Add the currencies of ISO 4217 that the database does not have."""
    connection.execute(_ADD_CURRENCY, _iso_4217())


USD_AND_INR = {"USD": 1, "INR": 2}


def _iso_4217() -> list[dict[str, object]]:
    """The currencies of ISO 4217 that have a minor unit; gold and test codes have none."""
    return [
        {
            "code": currency.code,
            "number": USD_AND_INR.get(currency.code, currency.number),
            "exponent": currency.exponent,
            "name": currency.currency_name,
            "change_id": place,
            "origin": Origin.SETUP,
        }
        for place, currency in enumerate(iso4217.Currency, start=2)
        if currency.exponent is not None
    ]


# A currency that exists stays as it is: its exponent never changes. A code that became one of ISO
# 4217 after a ledger had taken it for a unit of its own stays with this ledger.
_ADD_CURRENCY = text(
    f"INSERT INTO {SCHEMA}.currencies (code, number, exponent, name, change_id, origin)"
    " SELECT :code, :number, :exponent, :name, :change_id, :origin"
    f" WHERE NOT EXISTS (SELECT FROM {SCHEMA}.currencies WHERE code = :code)"
    " ON CONFLICT DO NOTHING"
)
