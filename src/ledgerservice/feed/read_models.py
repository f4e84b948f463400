"""Where reads may come from instead of the primary: a cache, a store, a standby."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import replace
from typing import Any

from ledgerservice.feed import balances
from ledgerservice.feed.balances import Balances
from ledgerservice.feed.history import History
from ledgerservice.feed.stores import history_of
from ledgerservice.feed.targets import targets_of
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.sharding.databases import databases_of
from ledgerservice.postgres.sharding.directory import Directory
from ledgerservice.postgres.urls import parse_url
from ledgerservice.posting.standby import Standby, keep_beating
from ledgerservice.settings import Settings

STANDBY = "LEDGER_STANDBY_URL"


def check_addresses(settings: Settings) -> None:
    """Raise ConfigurationError for a mistake in the URL of another server. Nothing is connected."""
    if settings.publish is not None:
        targets_of(settings.publish.get_secret_value())
    if settings.cache is not None:
        balances.check(settings.cache.get_secret_value())
    if settings.history is not None:
        history_of(settings.history.get_secret_value())
    if settings.standby_url is not None:
        parse_url(settings.standby_url.get_secret_value(), STANDBY)
    databases_of(settings)


@asynccontextmanager
async def reading_elsewhere(
    database: Database, directory: Directory
) -> AsyncIterator[dict[str, Any]]:
    """The cache, the store and the standby that reads may come from; None without."""
    settings = database.settings
    cache = history = None
    async with AsyncExitStack() as stack:
        if settings.cache is not None:
            url, connect = settings.cache.get_secret_value(), database.connect_writer
            cache = Balances(url, connect, directory.generation_of)
            stack.push_async_callback(cache.close)
        if settings.history is not None:
            history = History(settings.history.get_secret_value())
            stack.push_async_callback(history.close)
        standby = await stack.enter_async_context(_standby_of(database))
        yield {"cache": cache, "history": history, "standby": standby}


@asynccontextmanager
async def _standby_of(database: Database) -> AsyncIterator[Standby | None]:
    """The standby that reads may come from."""
    settings, connect = database.settings, database.connect_writer
    if settings.standby_url is None:
        yield None
        return
    url = parse_url(settings.standby_url.get_secret_value(), STANDBY)
    lag_s = settings.standby_lag_s
    standby = Standby(replace(database, url=url).connect_standby, lag_s)
    beating = asyncio.create_task(keep_beating(connect, lag_s, standby))
    try:
        yield standby
    finally:
        beating.cancel()
        await asyncio.gather(beating, return_exceptions=True)
        await standby.close()
