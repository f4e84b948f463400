"""The tables as SQLAlchemy sees them, for reading, and the name of their schema.

`schema.sql` defines the tables. A test compares the columns here with those of a database.
"""

import re
from typing import Any

from sqlalchemy import (
    JSON,
    BigInteger,
    Boolean,
    Column,
    DateTime,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
)
from sqlalchemy.types import UserDefinedType

SCHEMA = "ledger"
"""The schema's name in all SQL here; `in_schema` puts another one in its place."""
DEFAULT_LEDGER = 1

_SCHEMA_NAME = re.compile(
    rf"\b{SCHEMA}\.(?=[a-z_])|(?<=SCHEMA ){SCHEMA}\b|(?<=EXISTS ){SCHEMA}\b"
    rf"|(?<='){SCHEMA}(?='::regnamespace)"
)


def in_schema(statement: str, schema: str) -> str:
    """A statement as it is for a schema of another name."""
    if schema == SCHEMA:
        return statement
    return _SCHEMA_NAME.sub(lambda found: found[0].replace(SCHEMA, f'"{schema}"', 1), statement)


class Xid8(UserDefinedType[int]):
    """PostgreSQL's 64-bit transaction id."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """The type's name in SQL."""
        return "xid8"


metadata = MetaData(schema=SCHEMA)
_Time = DateTime(timezone=True)


def _table(name: str, /, **types: Any) -> Table:
    return Table(name, metadata, *(Column(column, kind) for column, kind in types.items()))


ledgers = _table(
    "ledgers",
    ledger_id=Integer,
    name=Text,
    created_at=_Time,
    change_id=BigInteger,
    principal_id=Integer,
    origin=SmallInteger,
)

currencies = _table(
    "currencies",
    code=Text,
    number=SmallInteger,
    exponent=SmallInteger,
    name=Text,
    change_id=BigInteger,
    principal_id=Integer,
    origin=SmallInteger,
)

accounts = _table(
    "accounts",
    ledger_id=Integer,
    id=BigInteger,
    balance=BigInteger,
    held=BigInteger,
    version=BigInteger,
    floor=BigInteger,
    ceiling=BigInteger,
    below_floor=BigInteger,
    change_id=BigInteger,
    last_recorded_at=_Time,
    created_at=_Time,
    principal_id=Integer,
    currency_number=SmallInteger,
    exponent=SmallInteger,
    restricted=SmallInteger,
    origin=SmallInteger,
    row_lock=Boolean,
    currency=Text,
    owner=Text,
    reference=Text,
    idempotency_key=Text,
)

account_details = _table("account_details", ledger_id=Integer, account_id=BigInteger, metadata=JSON)

transactions = _table(
    "transactions",
    ledger_id=Integer,
    kind=SmallInteger,
    status=SmallInteger,
    id=BigInteger,
    account_id=BigInteger,
    counterparty_id=BigInteger,
    amount=BigInteger,
    recorded_at=_Time,
    posted_by=Xid8,
    account_seq=BigInteger,
    counterparty_seq=BigInteger,
    deciding_account_id=BigInteger,
    deciding_version=BigInteger,
    deciding_available=BigInteger,
    deciding_balance=BigInteger,
    principal_id=Integer,
    origin=SmallInteger,
    renderer=SmallInteger,
    has_details=Boolean,
    idempotency_key=Text,
    decline_reason=Text,
)

entries = _table(
    "entries",
    ledger_id=Integer,
    currency_number=SmallInteger,
    account_id=BigInteger,
    seq=BigInteger,
    transaction_id=BigInteger,
    amount=BigInteger,
    held_change=BigInteger,
    balance=BigInteger,
    held=BigInteger,
    recorded_at=_Time,
)

details = _table(
    "details",
    ledger_id=Integer,
    transaction_id=BigInteger,
    parent_id=BigInteger,
    remaining=BigInteger,
    effective_at=_Time,
    digest=LargeBinary,
    salt=LargeBinary,
    reference=Text,
    description=Text,
    metadata=JSON,
    exchange=JSON,
)

holds = _table(
    "holds",
    ledger_id=Integer,
    transaction_id=BigInteger,
    account_id=BigInteger,
    counterparty_id=BigInteger,
    amount=BigInteger,
    remaining=BigInteger,
    captured=BigInteger,
    expires_at=_Time,
    capture_at=_Time,
    capture_tried_at=_Time,
    ends_at=_Time,
)

policies = _table(
    "policies",
    ledger_id=Integer,
    transaction_id=BigInteger,
    account_id=BigInteger,
    seq=BigInteger,
    floor=BigInteger,
    ceiling=BigInteger,
    lowest=BigInteger,
    restricted=SmallInteger,
    actor=Text,
    reason=Text,
)

schedules = _table(
    "schedules",
    ledger_id=Integer,
    transaction_id=BigInteger,
    account_id=BigInteger,
    counterparty_id=BigInteger,
    amount=BigInteger,
    execute_at=_Time,
    settled_by=BigInteger,
)

dated_entries = _table(
    "dated_entries",
    ledger_id=Integer,
    account_id=BigInteger,
    effective_at=_Time,
    seq=BigInteger,
    transaction_id=BigInteger,
    amount=BigInteger,
    recorded_at=_Time,
)

secrets = _table("secrets", name=Text, secret=Text)
