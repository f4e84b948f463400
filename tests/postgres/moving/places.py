"""A directory with two further shards, and a ledger that has everything."""

import uuid
from contextlib import asynccontextmanager

from ledgerservice import Ledger
from ledgerservice.postgres.connections import Database
from ledgerservice.runtime import posting
from ledgerservice.shards import Shards as Running
from tests.databases import connect
from tests.files.lives import KINDS, Life

SEQUENCES = ("transaction_id", "account_id", "webhook_id", "webhook_delivery_id")
Shards = dict[str, Database]


def add_shards(shards: Shards) -> None:
    """What `shards add` does: the rows of the directory, identities, and chunks of ids."""
    number_of_directory = uuid.uuid4()
    for name, database in shards.items():
        with connect(database) as shard:
            row = [number_of_directory, name]
            shard.execute("INSERT INTO ledger.identity (directory, shard) VALUES (%s, %s)", row)
    with connect(shards["main"]) as directory:
        for number, name in enumerate(shards):
            directory.execute(
                "INSERT INTO ledger.shards (name, number) VALUES (%s, %s)", [name, number]
            )
            for sequence in SEQUENCES:
                directory.execute(
                    "INSERT INTO ledger.chunks (sequence, number, shard) VALUES (%s, %s, %s)",
                    [sequence, number, name],
                )
                with connect(shards[name]) as shard:
                    shard.execute("SELECT ledger.take_chunk(%s, %s)", [sequence, number])


@asynccontextmanager
async def ledger_of(database: Database, number: int):
    """A ledger of a database."""
    async with posting(database) as runtime:
        yield Ledger(Running(runtime), number)


async def live(database: Database, name: str, steps) -> int:
    """Add a ledger and let it live; its id."""
    async with posting(database) as runtime:
        ledger = await Ledger(Running(runtime)).add_ledger(name)
        life = Life(ledger)
        await life.open()
        await life.live(steps)
        return ledger._ledger


EVERYTHING = [("deposit", n, n, 400) for n in range(5)] + [
    (kind, n, n + 1, 10 + n) for n in range(4) for kind in KINDS
]


SAME = (
    *("transactions", "entries", "details", "dated_entries", "policies", "holds", "schedules"),
    *("accounts", "account_details", "webhooks", "webhook_secrets", "webhook_deliveries"),
)


def rows(database: Database, ledger: int) -> dict[str, list[str]]:
    with connect(database) as reading:
        return {
            table: [
                str(row)
                for (row,) in reading.execute(
                    f"SELECT t::text FROM ledger.{table} t WHERE ledger_id = {ledger} ORDER BY 1"
                )
            ]
            for table in SAME
        }


def quiet(*_: object) -> None:
    pass


async def deposit(database: Database, number: int, key: str) -> None:
    async with ledger_of(database, number) as ledger:
        accounts, _ = await ledger.accounts()
        if not accounts:
            raise LookupError
        first = accounts[0]
        await ledger.deposit(first.id, "1", key=key)


def home_of(shards: Shards, ledger: int) -> str:
    query = "SELECT shard FROM ledger.homes WHERE ledger_id = %s"
    with connect(shards["main"]) as directory:
        row = directory.execute(query, [ledger]).fetchone()
    return row[0] if row else "main"
