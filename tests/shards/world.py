"""A service with three databases: main, b and c."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg

from ledgerservice.postgres.connections import Database
from tests.databases import connect, url_text
from tests.processes import RunningService, cli, serving

CHUNK_IDS = 1 << 36


@dataclass(frozen=True)
class World:
    """The databases by the names of their shards."""

    databases: dict[str, Database]

    @property
    def main(self) -> Database:
        return self.databases["main"]

    def environment(self, **changes: str) -> dict[str, str]:
        """The environment of a process that knows all shards."""
        named = [f"{n}={url_text(one)}" for n, one in self.databases.items() if n != "main"]
        return {
            "DATABASE_URL": url_text(self.main),
            "LEDGER_SHARDS": "\n".join(named),
            "LEDGER_VERIFY_INTERVAL_S": "0",
        } | changes

    def command(self, *arguments: str, **changes: str) -> "Any":
        return cli(*arguments, **self.environment(**changes))

    def run(self, *arguments: str, **changes: str) -> list[dict[str, Any]]:
        """What a command that succeeds prints with --json."""
        done = self.command(*arguments, "--json", **changes)
        assert done.returncode == 0, done.stdout + done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    def rows(self, shard: str, statement: str) -> list[tuple[Any, ...]]:
        with self.connected(shard) as connection:
            return connection.execute(statement).fetchall()

    @contextmanager
    def connected(self, shard: str) -> Iterator["psycopg.Connection[Any]"]:
        """The owner of a shard's database."""
        with connect(self.databases[shard]) as connection:
            yield connection

    @contextmanager
    def serving(self, **changes: str) -> Iterator[RunningService]:
        with serving(**self.environment(**changes)) as service:
            yield service


def add_ledger(service: RunningService, name: str, shard: str | None = None) -> dict[str, Any]:
    body = {"name": name} if shard is None else {"name": name, "shard": shard}
    answer = service.post("/ledgers/", body)
    assert answer.status_code == 201, answer.text
    content: dict[str, Any] = answer.json()
    return content
