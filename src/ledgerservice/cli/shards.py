"""`ledgerservice shards`: the databases that have some of the ledgers, as their owner."""

import asyncio
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Annotated, TypeVar

import typer
from sqlalchemy import Connection

from ledgerservice.cli.audit import note
from ledgerservice.cli.data import check_schema
from ledgerservice.cli.moving import move
from ledgerservice.cli.output import AsJson, report
from ledgerservice.errors import ConfigurationError, LedgerError
from ledgerservice.postgres.connections import Database, check_server, explained
from ledgerservice.postgres.migrations.locks import patiently
from ledgerservice.postgres.moving import fences, homes
from ledgerservice.postgres.sharding import adding, chunks
from ledgerservice.postgres.sharding.databases import databases_of
from ledgerservice.postgres.sharding.identity import MAIN, Identity, identity_of
from ledgerservice.runtime import opened_database, upgrade
from ledgerservice.settings import Settings

T = TypeVar("T")

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
    help="The databases that have some of the ledgers: list and add them, move ledgers.",
)

app.command()(move)

ShardName = Annotated[str, typer.Argument(help="Name of the shard, as in LEDGER_SHARDS.")]


@app.command("list")
def list_shards(as_json: AsJson = False) -> None:
    """List the shards, the number of their ledgers, and whether each can be used."""
    settings = Settings.load()
    with opened_database(settings, create=False) as (main, _), explained():
        check_schema(main)
        with main.owner_engine().begin() as connection:
            identity = identity_of(connection)
            views = adding.list_shards(connection)
        for view in views:
            state = "up" if view.name == MAIN else _state(main, identity, view.name)
            text = f"[bold]{view.name}[/]: {view.ledgers} ledgers, {state}"
            report(text, as_json=as_json, **view._asdict(), state=state)
    if not views and not as_json:
        report("There is one database, which has all ledgers.", as_json=False)


def _state(main: Database, identity: Identity | None, name: str) -> str:
    """Whether a shard can be used, and if not, why; and what an abort has left on it."""
    database = databases_of(main.settings).get(name)
    if database is None:
        return "not in LEDGER_SHARDS"
    assert identity is not None
    try:
        database = replace(database, identity=identity._replace(shard=name))
        with explained(), database.owner_engine().begin() as connection:
            arriving = fences.list_arriving(connection)
    except LedgerError as error:
        return f"down: {error}"
    with main.owner_engine().begin() as directory:
        left = homes.names_elsewhere(directory, arriving, name)
    return f"up, has what an aborted move has left: {', '.join(left)}" if left else "up"


@app.command()
def add(name: ShardName, as_json: AsJson = False) -> None:
    """Make the database that LEDGER_SHARDS names NAME a shard: new ledgers can be on it.

    It gets the schema, and must have no ledgers. The same command again goes on where it ended.
    """
    settings = Settings.load()
    shard = databases_of(settings).get(name)
    if shard is None:
        raise ConfigurationError(f"LEDGER_SHARDS does not name {name!a}.")
    with opened_database(settings, create=False) as (main, _), explained():
        check_schema(main)
        check_server(shard.of_owner())
        added = _add(main, shard, name)
        asyncio.run(_lease(main, shard, name))
    text = f"{name} is a shard{'' if added else ' already'}."
    report(text, as_json=as_json, shard=name, added=added)


def _add(main: Database, shard: Database, name: str) -> bool:
    """Make the database a shard; False if it was one."""
    with shard.owner_engine().begin() as connection:
        adding.check_unused(connection, name)
    identity = _locking(main, adding.begin)
    for sequence in chunks.SEQUENCES:
        _locking(main, partial(adding.bound, sequence=sequence))
    upgrade(shard)
    with shard.owner_engine().begin() as connection:
        adding.identify(connection, identity._replace(shard=name))
    with main.owner_engine().begin() as connection:
        added = adding.enter(connection, name)
        if added:
            note(connection, "add_shard", name)
    return added


def _locking(database: Database, step: Callable[[Connection], T]) -> T:
    """A step in a transaction of its own, which waits for locks a short time, again and again."""
    with database.owner_engine().connect() as connection:

        def work() -> T:
            result = step(connection)
            connection.commit()
            return result

        return patiently(connection, work)


async def _lease(main: Database, shard: Database, name: str) -> None:
    """Let the shard give out ids of its own chunks."""
    directory = await main.of_owner().connect_writer()
    wire = await shard.of_owner().connect_writer()
    try:
        await chunks.keep(directory, wire, name)
    finally:
        await directory.close()
        await wire.close()
