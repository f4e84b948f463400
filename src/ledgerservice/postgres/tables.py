"""The tables as SQLAlchemy sees them, for reading. Their columns are read from `schema.sql`."""

import re
from typing import Any

from sqlalchemy import (
    ARRAY,
    JSON,
    BigInteger,
    Boolean,
    Column,
    Date,
    DateTime,
    Double,
    Integer,
    LargeBinary,
    MetaData,
    SmallInteger,
    Table,
    Text,
    Uuid,
)
from sqlalchemy.types import UserDefinedType

from ledgerservice.postgres.schema import SCHEMA, SCHEMA_SQL


class Xid8(UserDefinedType[int]):
    """PostgreSQL's 64-bit transaction id."""

    cache_ok = True

    def get_col_spec(self, **_: object) -> str:
        """The type's name in SQL."""
        return "xid8"


_TYPES: dict[str, Any] = {
    "smallint": SmallInteger,
    "integer": Integer,
    "bigint[]": ARRAY(BigInteger),
    "bigint": BigInteger,
    "double precision": Double,
    "boolean": Boolean,
    "text": Text,
    "timestamptz": DateTime(timezone=True),
    "date": Date,
    "json": JSON,
    "bytea": LargeBinary,
    "uuid": Uuid,
    "xid8": Xid8,
}
_TABLE = re.compile(r"CREATE TABLE ledger\.(\w+) \((.*?)\n\)", re.DOTALL)
_COLUMN = re.compile(rf"^    (\w+) +({'|'.join(map(re.escape, _TYPES))})(?!\w)", re.MULTILINE)

metadata = MetaData(schema=SCHEMA)
for _name, _body in _TABLE.findall(SCHEMA_SQL):
    Table(_name, metadata, *(Column(name, _TYPES[kind]) for name, kind in _COLUMN.findall(_body)))


def _table(name: str) -> Table:
    return metadata.tables[f"{SCHEMA}.{name}"]


accounts = _table("accounts")
approval_rules = _table("approval_rules")
audit = _table("audit")
account_details = _table("account_details")
currencies = _table("currencies")
decisions = _table("decisions")
details = _table("details")
entries = _table("entries")
executions = _table("executions")
holds = _table("holds")
homes = _table("homes")
ledgers = _table("ledgers")
policies = _table("policies")
principals = _table("principals")
proposals = _table("proposals")
schedules = _table("schedules")
secrets = _table("secrets")
transactions = _table("transactions")
webhooks = _table("webhooks")
webhook_deliveries = _table("webhook_deliveries")
webhook_failures = _table("webhook_failures")
webhook_secrets = _table("webhook_secrets")
