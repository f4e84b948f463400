"""`ledgerservice consume`: instructions from a topic of Kafka, until Ctrl-C or SIGTERM."""

import asyncio
import logging
import signal
import uuid
from contextlib import suppress
from typing import Annotated

import typer

from ledgerservice import __version__
from ledgerservice.cli.output import AsJson, report
from ledgerservice.errors import ConfigurationError
from ledgerservice.rights import reading_keys
from ledgerservice.runtime import running
from ledgerservice.settings import Settings
from ledgerservice.shards import sharded
from ledgerservice.telemetry.exporter import listening

log = logging.getLogger(__name__)

REPORT_S = 5.0


def consume(
    url: Annotated[str, typer.Argument(help="The cluster: kafka://host:9092/PREFIX.")],
    instance: Annotated[
        str | None,
        typer.Option(help="A name that no other consumer has; after a restart, the same."),
    ] = None,
    principal: Annotated[
        str | None, typer.Option(help="The principal that the instructions are written by.")
    ] = None,
    as_json: AsJson = False,
) -> None:
    """Post the instructions of the topic PREFIX.commands, and write the results to PREFIX.results.

    Several processes share the partitions of the topic.
    """
    with suppress(asyncio.CancelledError):
        name = instance or str(uuid.uuid4())
        asyncio.run(_consume(url, name, principal, as_json=as_json))


async def _consume(url: str, instance: str, principal: str | None, *, as_json: bool) -> None:
    try:
        from ledgerservice.commands.consumer import keep_consuming, tune_process  # noqa: PLC0415
        from ledgerservice.feed.kafka import address_of  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            "A library for kafka is missing: pip install 'ledgerservice[kafka]'"
        ) from error
    task = asyncio.current_task()
    assert task is not None
    for number in (signal.SIGINT, signal.SIGTERM):
        asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    address = address_of(url)
    async with (
        running(Settings.load()) as runtime,
        reading_keys(runtime, with_tokens=False),
        sharded(runtime) as shards,
    ):
        with listening(runtime.settings, __version__):
            lines, writer = _Lines(as_json=as_json), await runtime.principal_id(principal)
            tune_process()
            await keep_consuming(shards, address, instance, lines, writer)


class _Lines:
    """A line with the number of commands, every REPORT_S seconds in which there were some."""

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._commands = 0
        self._timer: asyncio.TimerHandle | None = None

    def __call__(self, commands: int) -> None:
        self._commands += commands
        if self._timer is None:
            self._timer = asyncio.get_running_loop().call_later(REPORT_S, self._show)

    def _show(self) -> None:
        if self._as_json:
            report("", as_json=True, commands=self._commands)
        else:
            log.info("%d commands were answered", self._commands)
        self._commands, self._timer = 0, None
