"""The rows of a ledger, table by table: what is copied, in which order, and what is removed."""

from collections.abc import Iterator, Mapping
from typing import NamedTuple

from psycopg import sql
from sqlalchemy import Connection

from ledgerservice.postgres.contents import StoredTable, driver

# Rows that never change are copied while the ledger goes on, by the ids of their transactions. Each
# table comes after those that its triggers look into.
BY_TRANSACTION = {
    "transactions": ("id", "id"),
    "details": ("transaction_id", "transaction_id"),
    "entries": ("transaction_id", "transaction_id, account_id, seq"),
    "policies": ("transaction_id", "transaction_id, account_id"),
}
"""The column with the transaction's id, and the order of the rows."""
# The rest is copied while nothing is recorded in the ledger.
AT_THE_END = {
    "account_details": "account_id",
    "accounts": "id",
    "holds": "transaction_id",
    "schedules": "transaction_id",
}
WEBHOOKS = {
    "webhooks": "id",
    "webhook_secrets": "webhook_id, number",
    "webhook_failures": "webhook_id, event_id",
    "webhook_deliveries": "webhook_id, id",
}
REMOVED = (
    *("webhooks", "schedules", "holds", "policies", "dated_entries", "entries", "details"),
    *("transactions", "account_details", "accounts"),
)
"""What goes with webhooks goes with its foreign keys."""

# By its own keys: the table has no index by transaction.
_DATED = """SELECT {columns} FROM {details} x
JOIN {entries} e ON e.ledger_id = x.ledger_id AND e.transaction_id = x.transaction_id
JOIN {dated_entries} d ON d.ledger_id = e.ledger_id AND d.account_id = e.account_id
    AND d.effective_at = x.effective_at AND d.seq = e.seq
WHERE x.ledger_id = {ledger} AND x.effective_at IS NOT NULL
    AND x.transaction_id > {after} AND x.transaction_id <= {until}
ORDER BY x.transaction_id, d.account_id, d.seq"""


class Part(NamedTuple):
    """Some rows of a table: what selects them in both databases, in one order, and its columns."""

    table: str
    columns: tuple[str, ...]
    source: sql.Composed
    target: sql.Composed


class Place(NamedTuple):
    """The point in the feed at which a database is: its epoch, and what readers compare from."""

    epoch: int
    compare_from: int


class Rows:
    """The rows of a ledger, in databases with the tables of one schema."""

    def __init__(self, ledger: int, tables: Mapping[str, StoredTable], schemas: tuple[str, str]):
        """`schemas`: the names of the schema in the source and in the target."""
        self._ledger = sql.Literal(ledger)
        self._tables = tables
        self._schemas = schemas

    def of_transactions(self, after: int, until: int) -> Iterator[Part]:
        """What belongs to the transactions with an id in (after, until], and never changes."""
        for table, (column, order) in BY_TRANSACTION.items():
            where = sql.SQL("{} > {} AND {} <= {}").format(
                sql.Identifier(column), after, sql.Identifier(column), until
            )
            yield self._part(table, order, where)
        yield self._dated(after, until)

    def at_the_end(self) -> Iterator[Part]:
        """What changes."""
        for table, order in AT_THE_END.items():
            yield self._part(table, order, sql.SQL("true"))

    def of_webhooks(self, before: Place, after: Place) -> Iterator[Part]:
        """The webhooks. Their positions go on in the epoch of the target."""
        epoch = sql.SQL("{}").format(after.epoch)
        in_epoch = sql.SQL("epoch = {}").format(before.epoch)
        same = in_epoch if before.epoch == after.epoch else sql.SQL("false")
        changed: dict[str, sql.Composable] = {
            "epoch": epoch,
            "position": sql.SQL("CASE WHEN {} THEN position ELSE least(position, {}) END").format(
                in_epoch, before.compare_from
            ),
            "digest": sql.SQL("CASE WHEN {} THEN digest END").format(same),
        }
        for table, order in WEBHOOKS.items():
            new = changed if table == "webhooks" else {}
            yield self._part(table, order, sql.SQL("true"), new)

    def _part(
        self,
        table: str,
        order: str,
        where: sql.Composable,
        new: Mapping[str, sql.Composable] | None = None,
    ) -> Part:
        columns = self._tables[table].columns
        plain: list[sql.Composable] = [sql.Identifier(column) for column in columns]
        values = [
            (new or {}).get(column, name) for column, name in zip(columns, plain, strict=True)
        ]
        source, target = (
            sql.SQL("SELECT {} FROM ONLY {} WHERE ledger_id = {} AND {} ORDER BY {}").format(
                sql.SQL(", ").join(listed),
                sql.Identifier(schema, table),
                self._ledger,
                where,
                sql.SQL(order),
            )
            for schema, listed in zip(self._schemas, (values, plain), strict=True)
        )
        return Part(table, columns, source, target)

    def _dated(self, after: int, until: int) -> Part:
        columns = self._tables["dated_entries"].columns
        listed = sql.SQL(", ").join(sql.Identifier("d", column) for column in columns)
        source, target = (
            sql.SQL(_DATED).format(
                columns=listed,
                ledger=self._ledger,
                after=after,
                until=until,
                **{
                    name: sql.Identifier(schema, name)
                    for name in ("details", "entries", "dated_entries")
                },
            )
            for schema in self._schemas
        )
        return Part("dated_entries", columns, source, target)

    def remove(self, target: Connection) -> None:
        """Remove every row of the ledger from the target; its transaction may do so (`load`)."""
        for table in REMOVED:
            self._remove(target, table)

    def remove_some(self, target: Connection, *tables: str) -> None:
        """Remove the ledger's rows of some tables."""
        for table in tables:
            self._remove(target, table)

    def _remove(self, target: Connection, table: str) -> None:
        statement = sql.SQL("DELETE FROM {} WHERE ledger_id = {}").format(
            sql.Identifier(self._schemas[1], table), self._ledger
        )
        driver(target).execute(statement)
