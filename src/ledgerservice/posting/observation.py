"""Lets the metrics read the parts of a running process, and measures the event loop."""

import asyncio
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import ExitStack, asynccontextmanager
from shutil import disk_usage
from typing import Any

from sqlalchemy.ext.asyncio import AsyncEngine

from ledgerservice.postgres.connections import Database
from ledgerservice.posting.bounds import Budget
from ledgerservice.posting.poster import Poster
from ledgerservice.posting.sampling import SAMPLE_S, keep_sampling
from ledgerservice.settings import Settings
from ledgerservice.telemetry import metrics
from ledgerservice.telemetry.backups import show_results
from ledgerservice.telemetry.logs import flush_repeats

TICK_S = 0.5


@asynccontextmanager
async def observed(
    database: Database,
    engine: AsyncEngine,
    posters: Mapping[str, Poster[Any, Any]],
    budget: Budget,
    *,
    is_main: bool = True,
) -> AsyncIterator[Callable[[], None]]:
    """Meanwhile the metrics show these parts. The database is sampled only if they are scraped: by
    the listener, or after a call of what this yields.

    Of another shard than main they show the queues.
    """
    settings = database.settings
    with ExitStack() as stack:
        for name, poster in posters.items():
            stack.enter_context(metrics.QUEUE_REQUESTS.reading(poster.waiting_requests, name))
            stack.enter_context(metrics.QUEUE_AGE.reading(poster.waiting_s, name))
        if not is_main:
            yield lambda: None
            return
        stack.enter_context(metrics.BODY_BYTES.reading(lambda: budget.taken))
        _read_pool(stack, engine)
        if settings.database_url is None:
            _read_disk(stack, settings)
        tasks = [asyncio.create_task(_keep_ticking())]

        def sample() -> None:
            if len(tasks) == 1:
                tasks.append(asyncio.create_task(keep_sampling(database.connect_writer)))
                tasks.append(asyncio.create_task(_keep_showing_backups(settings)))

        if settings.metrics_port is not None:
            sample()
        try:
            yield sample
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)


def _read_pool(stack: ExitStack, engine: AsyncEngine) -> None:
    pool: Any = engine.pool
    stack.enter_context(metrics.READ_CONNECTIONS.reading(pool.checkedout, "in_use"))
    stack.enter_context(metrics.READ_CONNECTIONS.reading(pool.checkedin, "idle"))
    stack.enter_context(
        metrics.READS_WAITING.reading(lambda: max(0, metrics.READS.number - pool.checkedout()))
    )


def _read_disk(stack: ExitStack, settings: Settings) -> None:
    folder = settings.data_folder
    stack.enter_context(metrics.DISK_FREE.reading(lambda: disk_usage(folder).free))
    stack.enter_context(metrics.DISK_SIZE.reading(lambda: disk_usage(folder).total))


async def _keep_showing_backups(settings: Settings) -> None:
    while True:
        show_results(settings.results_folder)
        await asyncio.sleep(SAMPLE_S)


async def _keep_ticking() -> None:
    """Measure how late the event loop is, and let the log write what is due."""
    time = asyncio.get_running_loop().time
    while True:
        due_s = time() + TICK_S
        await asyncio.sleep(TICK_S)
        metrics.LOOP_LAG.observe(max(0.0, time() - due_s))
        flush_repeats()
