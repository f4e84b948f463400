"""The tables as SQLAlchemy sees them, for reading.

The schema's source is the SQL of the migrations, where every invariant that SQL can hold stands
beside its table. A test compares the two, column by column.
"""

from sqlalchemy import (
    BigInteger,
    Boolean,
    Column,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    MetaData,
    SmallInteger,
    Table,
    Text,
    UniqueConstraint,
    text,
)
from sqlalchemy.types import UserDefinedType

SCHEMA = "ledger"
DEFAULT_LEDGER = 1

metadata = MetaData(schema=SCHEMA)


class Xid8(UserDefinedType[int]):
    """PostgreSQL's 64-bit transaction id."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """The type's name in SQL."""
        return "xid8"


def _moment(name: str, *, default: bool = False) -> Column[object]:
    server_default = text("clock_timestamp()") if default else None
    return Column(name, DateTime(timezone=True), nullable=False, server_default=server_default)


ledgers = Table(
    "ledgers",
    metadata,
    Column("ledger_id", Integer, primary_key=True, autoincrement=False),
    Column("name", Text, nullable=False, unique=True),
    _moment("created_at", default=True),
)

currencies = Table(
    "currencies",
    metadata,
    Column("code", Text, primary_key=True),
    Column(
        "number",
        SmallInteger,
        nullable=False,
        unique=True,
        server_default=text("nextval('ledger.currency_number')"),
    ),
    Column("exponent", SmallInteger, nullable=False),
    Column("name", Text, nullable=False),
)

accounts = Table(
    "accounts",
    metadata,
    Column("ledger_id", ForeignKey(ledgers.c.ledger_id), primary_key=True, autoincrement=False),
    Column("id", BigInteger, Identity(), primary_key=True),
    Column("balance", BigInteger, nullable=False, server_default="0"),
    Column("held", BigInteger, nullable=False, server_default="0"),
    Column("version", BigInteger, nullable=False, server_default="0"),
    Column("floor", BigInteger, server_default="0"),
    _moment("last_recorded_at", default=True),
    _moment("created_at", default=True),
    Column("currency_number", ForeignKey(currencies.c.number), nullable=False),
    Column("exponent", SmallInteger, nullable=False),
    Column(
        "row_lock",
        Boolean,
        nullable=False,
        server_default=text("false"),
        comment="Means nothing: locking a row needs the right to update a column, and this one is"
        " harmless.",
    ),
    Column("currency", ForeignKey(currencies.c.code), nullable=False),
    Column("status", Text, nullable=False, server_default="active"),
    Column("owner", Text, nullable=False),
    Column("reference", Text),
    Column("idempotency_key", Text),
    UniqueConstraint("ledger_id", "reference", name="accounts_reference_key"),
    UniqueConstraint("ledger_id", "idempotency_key", name="accounts_idempotency_key"),
    Index("accounts_owner", "ledger_id", "owner", "id"),
    Index("accounts_currency", "ledger_id", "currency", "id"),
)

transactions = Table(
    "transactions",
    metadata,
    Column("ledger_id", Integer, primary_key=True),
    Column("kind", SmallInteger, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("id", BigInteger, primary_key=True),
    Column("account_id", BigInteger, nullable=False),
    Column("counterparty_id", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    _moment("recorded_at"),
    Column(
        "posted_by",
        Xid8,
        nullable=False,
        server_default=text("pg_current_xact_id()"),
        comment="The database transaction that wrote the row: entries can only be added by the"
        " same one. A restored database counts them anew, so the moment must be of that"
        " transaction too.",
    ),
    Column("deciding_account_id", BigInteger),
    Column("deciding_version", BigInteger),
    Column("deciding_available", BigInteger),
    Column("renderer", SmallInteger, nullable=False),
    Column("idempotency_key", Text, nullable=False),
    Column("decline_reason", Text),
    UniqueConstraint(
        "ledger_id", "account_id", "idempotency_key", name="transactions_idempotency_key"
    ),
)

entries = Table(
    "entries",
    metadata,
    Column("ledger_id", Integer, primary_key=True),
    Column("currency_number", SmallInteger, nullable=False),
    Column("account_id", BigInteger, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("transaction_id", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("held_change", BigInteger, nullable=False),
    Column("balance", BigInteger, nullable=False),
    Column("held", BigInteger, nullable=False),
    _moment("recorded_at"),
    Index("entries_transaction", "ledger_id", "transaction_id"),
)
