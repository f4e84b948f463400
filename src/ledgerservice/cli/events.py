"""`ledgerservice events`: the change feed as lines, up to now or without an end."""

import asyncio
import signal
import sys
from contextlib import suppress
from typing import Annotated, Any

import msgspec
import typer

from ledgerservice.cli.connection import (
    DEFAULT_NAME,
    LedgerName,
    Url,
    body_of,
    connected,
    path_of,
)
from ledgerservice.cli.output import AsJson

AT_ONCE = 1_000
WAIT_S = 30


class _Event(msgspec.Struct):
    id: str
    type: str
    recorded_at: str | None
    data: msgspec.Raw


class _Page(msgspec.Struct):
    events: list[msgspec.Raw]
    next: str


def events(
    after: Annotated[
        str | None, typer.Option(help="The id of an event: what comes after it. Or: new.")
    ] = None,
    follow: Annotated[bool, typer.Option("--follow", "-f", help="Wait for more events.")] = False,
    account: Annotated[int | None, typer.Option(help="Only events of this account.")] = None,
    kind: Annotated[
        str | None, typer.Option("--type", help="Only these types, separated by commas.")
    ] = None,
    url: Url = None,
    ledger: LedgerName = DEFAULT_NAME,
    as_json: AsJson = False,
) -> None:
    """Print events, oldest first: id, time, type and data. With --json the bytes of the feed."""
    filters = {"after": after, "account_id": account, "type": kind}
    parameters = {name: value for name, value in filters.items() if value is not None}
    with suppress(asyncio.CancelledError):
        asyncio.run(_print(path_of("/events", ledger), parameters, url, follow, as_json=as_json))


async def _print(
    path: str, parameters: dict[str, Any], url: str | None, follow: bool, *, as_json: bool
) -> None:
    task = asyncio.current_task()
    assert task is not None
    if follow:
        for number in (signal.SIGINT, signal.SIGTERM):
            asyncio.get_running_loop().add_signal_handler(number, task.cancel)
    bounds = {"limit": AT_ONCE, "wait_s": WAIT_S if follow else 0}
    async with connected(url) as client:
        while True:
            answer = await client.get(path, params={**bounds, **parameters})
            if not answer.is_success:
                body_of(answer, as_json=as_json)
            page = msgspec.json.decode(answer.content, type=_Page)
            for event in page.events:
                print(_line(bytes(event), as_json=as_json))
            sys.stdout.flush()
            # A page may be empty because of the filters; then its position is a later one.
            if not (follow or page.events) and page.next == parameters.get("after"):
                return
            parameters["after"] = page.next


def _line(event: bytes, *, as_json: bool) -> str:
    if as_json:
        return event.decode()
    parsed = msgspec.json.decode(event, type=_Event)
    return f"{parsed.id} {parsed.recorded_at} {parsed.type} {bytes(parsed.data).decode()}"
