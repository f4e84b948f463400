"""Cassandra as a target, read by CQL of a reader's own."""

from collections.abc import Sequence
from typing import Any

from tests.engines.servers import Cassandra
from tests.engines.stores import Balance, EntryRow, State, Store


class CassandraStore(Store):
    """A keyspace of its own."""

    def __init__(self, engine: Cassandra, keyspace: str) -> None:
        self.engine: Cassandra = engine
        self.keyspace = keyspace
        self.url = f"cassandra://{engine.address}/{keyspace}?replication=1&consistency=QUORUM"

    def state(self, epoch: int = 1) -> State:
        if not self.cql("SELECT table_name FROM system_schema.tables WHERE keyspace_name = %s",
                        [self.keyspace]):  # fmt: skip
            return State([], {})
        columns = ", ".join(EntryRow._fields)
        rows = self.cql(
            f"SELECT {columns} FROM {self.keyspace}.account_entries WHERE epoch = {epoch}"
            " ALLOW FILTERING"
        )
        heads = self.cql(
            f"SELECT ledger_id, account_id, version, balance, held"
            f" FROM {self.keyspace}.account_heads WHERE epoch = {epoch} ALLOW FILTERING"
        )
        entries = sorted(EntryRow(*row) for row in rows)
        return State(entries, {tuple(row[:2]): Balance(*row[2:]) for row in heads})

    def forget_position(self) -> None:
        self.cql(f"TRUNCATE {self.keyspace}.positions")

    def cql(self, statement: str, values: Sequence[Any] = ()) -> list[Any]:
        """The rows of a statement."""
        with self.engine.session() as session:
            return [tuple(row) for row in session.execute(statement, values or None)]

    def remove_row(self, account: int, version: int) -> None:
        self.cql(f"DELETE FROM {self.keyspace}.account_entries WHERE {_place(account, version)}")

    def change_row(self, account: int, version: int, **values: Any) -> None:
        """Change columns of a row, as somebody does by hand."""
        changes = ", ".join(f"{name} = {value!r}" for name, value in values.items())
        self.cql(
            f"UPDATE {self.keyspace}.account_entries SET {changes} WHERE {_place(account, version)}"
        )

    def change_head(self, account: int, version: int, balance: int) -> None:
        self.cql(
            f"UPDATE {self.keyspace}.account_heads SET version = {version}, balance = {balance}"
            f" WHERE epoch = 1 AND ledger_id = 1 AND account_id = {account}"
        )


def _place(account: int, version: int) -> str:
    partition = f"epoch = 1 AND ledger_id = 1 AND account_id = {account}"
    return f"{partition} AND bucket = {version // 1000} AND version = {version}"
