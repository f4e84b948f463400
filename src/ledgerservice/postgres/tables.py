"""The tables as SQLAlchemy sees them, for reading.

The schema's source is the SQL of the migrations, where every invariant that SQL can hold stands
beside its table. A test compares the two, column by column.
"""

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    Computed,
    DateTime,
    ForeignKey,
    Identity,
    Index,
    Integer,
    LargeBinary,
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
    Column(
        "ledger_id",
        Integer,
        primary_key=True,
        autoincrement=False,
        server_default=text("nextval('ledger.ledger_id')"),
    ),
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
    Column("owner", Text, nullable=False),
    Column("reference", Text),
    Column("idempotency_key", Text),
    Column("ceiling", BigInteger),
    Column("below_floor", BigInteger),
    Column("restricted", SmallInteger, nullable=False, server_default="0"),
    # All but the key are partial: no statement that finds one account can take another for it.
    *(
        Index(
            name, "ledger_id", column, unique=True, postgresql_where=text(f"{column} IS NOT NULL")
        )
        for name, column in (
            ("accounts_reference_key", "reference"),
            ("accounts_idempotency_key", "idempotency_key"),
        )
    ),
    *(
        Index(f"accounts_{name}", "ledger_id", column, "id", postgresql_where=text("id > 0"))
        for name, column in (
            ("owner", "owner"),
            ("currency", "currency"),
            ("created", "created_at"),
        )
    ),
    Index("accounts_restricted", "ledger_id", "id", postgresql_where=text("restricted > 0")),
)

account_details = Table(
    "account_details",
    metadata,
    Column("ledger_id", Integer, primary_key=True),
    Column("account_id", BigInteger, primary_key=True),
    Column("metadata", JSON, nullable=False),
    Index(
        "account_details_by_metadata",
        text("(metadata::jsonb) jsonb_path_ops"),
        postgresql_using="gin",
    ),
)

transactions = Table(
    "transactions",
    metadata,
    Column("ledger_id", Integer, primary_key=True),
    Column("kind", SmallInteger, nullable=False),
    Column("status", SmallInteger, nullable=False),
    Column("id", BigInteger, primary_key=True),
    Column("account_id", BigInteger, nullable=False),
    Column("counterparty_id", BigInteger),
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
    Index("transactions_time", "ledger_id", "status", "kind", "recorded_at"),
    Index("transactions_by_amount", "ledger_id", "amount", "recorded_at"),
    Index(
        "transactions_declined",
        "ledger_id",
        "account_id",
        "recorded_at",
        postgresql_where=text("status = 2"),
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

details = Table(
    "details",
    metadata,
    Column("ledger_id", Integer, primary_key=True),
    Column("transaction_id", BigInteger, primary_key=True),
    Column("parent_id", BigInteger),
    Column("remaining", BigInteger),
    Column("deciding_balance", BigInteger),
    Column("effective_at", DateTime(timezone=True)),
    Column("digest", LargeBinary, nullable=False),
    Column("reference", Text),
    Column("description", Text),
    Column("metadata", JSON),
    Column("exchange", JSON),
    Index(
        "details_parent",
        "ledger_id",
        "parent_id",
        "transaction_id",
        postgresql_where=text("parent_id IS NOT NULL"),
    ),
    Index(
        "details_reference",
        "ledger_id",
        "reference",
        "transaction_id",
        postgresql_where=text("reference IS NOT NULL"),
    ),
    Index(
        "details_metadata",
        text("(metadata::jsonb) jsonb_path_ops"),
        postgresql_using="gin",
        postgresql_where=text("metadata IS NOT NULL"),
    ),
)

secrets = Table(
    "secrets",
    metadata,
    Column("name", Text, primary_key=True),
    Column("secret", Text, nullable=False),
)

holds = Table(
    "holds",
    metadata,
    Column("ledger_id", Integer, primary_key=True),
    Column("transaction_id", BigInteger, primary_key=True),
    Column("account_id", BigInteger, nullable=False),
    Column("counterparty_id", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    Column("remaining", BigInteger, nullable=False, server_default="0"),
    Column("captured", BigInteger, nullable=False, server_default="0"),
    Column("expires_at", DateTime(timezone=True)),
    Column("capture_at", DateTime(timezone=True)),
    Column("capture_tried_at", DateTime(timezone=True)),
    Column(
        "ends_at",
        DateTime(timezone=True),
        Computed(
            "CASE WHEN capture_at < expires_at THEN CASE WHEN capture_tried_at IS NOT NULL"
            " THEN GREATEST(expires_at, capture_tried_at) ELSE NULL::timestamp with time zone END"
            " ELSE expires_at END",
            persisted=True,
        ),
    ),
    Index(
        "holds_open",
        "ledger_id",
        "account_id",
        "ends_at",
        "transaction_id",
        postgresql_where=text("remaining > 0"),
    ),
    Index(
        "holds_ending",
        "ends_at",
        postgresql_where=text("remaining > 0 AND ends_at IS NOT NULL"),
    ),
    Index(
        "holds_to_capture",
        "capture_at",
        postgresql_where=text(
            "remaining > 0 AND capture_at IS NOT NULL AND capture_tried_at IS NULL"
        ),
    ),
)

policies = Table(
    "policies",
    metadata,
    Column("ledger_id", Integer, primary_key=True),
    Column("transaction_id", BigInteger, nullable=False),
    Column("account_id", BigInteger, primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("floor", BigInteger, nullable=False),
    Column("ceiling", BigInteger),
    Column("lowest", BigInteger),
    Column("restricted", SmallInteger, nullable=False),
    Column("actor", Text),
    Column("reason", Text),
    UniqueConstraint("ledger_id", "transaction_id", "account_id", name="policies_transaction"),
)

schedules = Table(
    "schedules",
    metadata,
    Column("ledger_id", Integer, primary_key=True),
    Column("transaction_id", BigInteger, primary_key=True),
    Column("account_id", BigInteger, nullable=False),
    Column("counterparty_id", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    _moment("execute_at"),
    Column("settled_by", BigInteger),
    Index("schedules_due", "execute_at", postgresql_where=text("settled_by IS NULL")),
    Index(
        "schedules_account",
        "ledger_id",
        "account_id",
        "execute_at",
        "transaction_id",
        postgresql_where=text("settled_by IS NULL"),
    ),
)

dated_entries = Table(
    "dated_entries",
    metadata,
    Column("ledger_id", Integer, primary_key=True),
    Column("account_id", BigInteger, primary_key=True),
    Column("effective_at", DateTime(timezone=True), primary_key=True),
    Column("seq", BigInteger, primary_key=True),
    Column("transaction_id", BigInteger, nullable=False),
    Column("amount", BigInteger, nullable=False),
    _moment("recorded_at"),
)
