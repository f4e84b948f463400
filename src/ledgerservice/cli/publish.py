"""`ledgerservice publish`: the change feed to other servers, until Ctrl-C or SIGTERM."""

import asyncio
import logging
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Annotated

import msgspec
import typer
from rich.progress import MofNCompleteColumn, TaskID

from ledgerservice import __version__
from ledgerservice.cli.output import AsJson, progress_bar
from ledgerservice.errors import ConfigurationError
from ledgerservice.feed.publisher import Progress, keep_publishing
from ledgerservice.feed.targets import targets_of
from ledgerservice.feed.webhooks.deliverer import keep_delivering
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.sharding.databases import databases_of
from ledgerservice.postgres.sharding.stores import stores_of
from ledgerservice.runtime import started
from ledgerservice.settings import Settings
from ledgerservice.shards import prepared_shard
from ledgerservice.telemetry.exporter import listening

REPORT_S = 5.0
RESTART_S = 1.0

log = logging.getLogger(__name__)


def publish(
    urls: Annotated[
        list[str] | None,
        typer.Argument(help="Where to, such as kafka://host:9092. [LEDGER_PUBLISH]"),
    ] = None,
    webhooks: Annotated[bool, typer.Option(help="Deliver webhooks too.")] = False,
    as_json: AsJson = False,
    with_parent: Annotated[bool, typer.Option(hidden=True)] = False,
) -> None:
    """Publish all events to Kafka, Redis, Cassandra or DynamoDB, from where each of them is.

    With --webhooks their endpoints get events too. One process at a time is active for a target,
    and one for webhooks; others wait until it is gone. What a shard publishes has its name behind
    the prefix, keyspace or table of the URL.
    """
    if with_parent:
        threading.Thread(target=_end_with_parent, daemon=True).start()
    settings = Settings.load()
    listed = urls or ([settings.publish.get_secret_value()] if settings.publish else [])
    targets = [target for text in listed for target in targets_of(text)]
    for name in databases_of(settings):
        targets_of(stores_of(",".join(listed), name))  # raises before anything is published
    if not (targets or webhooks):
        raise ConfigurationError("Name a target, set LEDGER_PUBLISH, or use --webhooks.")
    with (
        started(settings, create=False) as database,
        listening(settings, __version__),
        _reporting(as_json=as_json) as report,
        suppress(asyncio.CancelledError),
    ):
        asyncio.run(_publish(database, listed, report, webhooks=webhooks))


def _end_with_parent() -> None:
    sys.stdin.buffer.read()
    os.kill(os.getpid(), signal.SIGTERM)


async def _publish(
    main: Database, urls: Sequence[str], report: Callable[[Progress], None], *, webhooks: bool
) -> None:
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    listed = ",".join(urls)

    async def publish_shard(name: str, unprepared: Database) -> None:
        database = await prepared_shard(main, name, unprepared)
        await publish_all(database, stores_of(listed, name))

    async def publish_all(database: Database, listed: str) -> None:
        work = [keep_publishing(database, target, report) for target in targets_of(listed)]
        if webhooks:
            work.append(keep_delivering(database, database.settings))
        await asyncio.gather(*work)

    shards = [publish_shard(name, one) for name, one in databases_of(main.settings).items()]
    await asyncio.gather(publish_all(main, listed), *shards)


@contextmanager
def _reporting(*, as_json: bool) -> Iterator[Callable[[Progress], None]]:
    """Shows how far each target is: as a bar on a terminal, else as lines now and then."""
    if as_json or not sys.stderr.isatty():
        yield _Lines(as_json=as_json)
        return
    with progress_bar(MofNCompleteColumn()) as bar:
        tasks: dict[str, TaskID] = {}

        def show(progress: Progress) -> None:
            if progress.target not in tasks:
                tasks[progress.target] = bar.add_task(progress.target)
            task = tasks[progress.target]
            bar.update(task, completed=progress.id, total=progress.last_id)

        yield show


class _Lines:
    """A line for each target, every REPORT_S seconds in which it got on."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._shown: dict[str, tuple[float, int]] = {}

    def __call__(self, progress: Progress) -> None:
        now_s = time.monotonic()
        shown_s, events = self._shown.get(progress.target, (now_s - REPORT_S, 0))
        if now_s - shown_s < REPORT_S or (progress.events == events and not progress.fault):
            return
        self._shown[progress.target] = (now_s, progress.events)
        if self._as_json:
            print(msgspec.json.encode(progress).decode(), flush=True)
            return
        rate = (progress.events - events) / (now_s - shown_s)
        place = f"{progress.epoch}-{progress.id}"
        log.info("%s is at %s of %d, %d/s", progress.target, place, progress.last_id, rate)


@contextmanager
def publishing_beside(settings: Settings) -> Iterator[None]:
    """`ledgerservice publish` in a process of its own meanwhile, if LEDGER_PUBLISH is set.

    In this process it would take turns with the write path. It is started again if it dies.
    """
    if settings.publish is None:
        yield
        return
    stop = threading.Event()
    watch = threading.Thread(target=_keep_running, args=(stop,), name="publish")
    watch.start()
    try:
        yield
    finally:
        stop.set()
        watch.join()


def _keep_running(stop: threading.Event) -> None:
    command = [sys.executable, "-m", "ledgerservice", "publish"]
    while not stop.is_set():
        # Its standard input is closed when this process ends, however that happens.
        with subprocess.Popen([*command, "--with-parent"], stdin=subprocess.PIPE) as child:
            while child.poll() is None and not stop.wait(0.2):
                pass
            child.terminate()
        if not stop.wait(RESTART_S):
            log.warning("the publishing process has ended, and is started again")
