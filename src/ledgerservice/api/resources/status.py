"""The state of the process and of what it depends on, for whoever operates the service."""

import asyncio
import re
from collections.abc import Awaitable, Callable, Mapping
from datetime import UTC, datetime
from functools import partial
from typing import Annotated, Literal, Self, TypeVar

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec import UNSET, Meta, UnsetType
from pydantic import SecretStr

from ledgerservice import __version__
from ledgerservice.access.grants import Need
from ledgerservice.access.scopes import Scope
from ledgerservice.api.http.authentication import caller_of
from ledgerservice.api.http.call import json_response, runtime_of, shards_of
from ledgerservice.api.http.fields import Answer, TimestampText
from ledgerservice.api.http.openapi import get
from ledgerservice.api.http.parameters import NoParameters, parameters_of
from ledgerservice.api.resources.verification import verification_of
from ledgerservice.api.resources.webhooks import StateName
from ledgerservice.domain.events import position
from ledgerservice.domain.timestamps import timestamp
from ledgerservice.errors import LedgerError
from ledgerservice.postgres.access.expiring import list_expiring
from ledgerservice.postgres.connections import FIND_SERVER, ServerState
from ledgerservice.postgres.queries.structs import find_one
from ledgerservice.postgres.queries.webhooks import WebhookState, list_states
from ledgerservice.posting.remote import RemotePoster
from ledgerservice.runtime import Runtime
from ledgerservice.settings import Settings, variables
from ledgerservice.telemetry import metrics
from ledgerservice.telemetry.backups import show_results
from ledgerservice.telemetry.measures import Gauge, Labels
from ledgerservice.telemetry.summaries import Summary, summaries

router = APIRouter(tags=["operations"])

Value = TypeVar("Value")
Fault = Literal["draining", "poster_unavailable", "database_unavailable"]


class Queue(msgspec.Struct, kw_only=True):
    """What waits to be written in this process, and the batches that it has written."""

    queue: str
    requests: Annotated[int, Meta(description="Those that wait.")]
    age_s: Annotated[float, Meta(description="How long the oldest of them has waited.")]
    batch_requests: Annotated[Summary | None, Meta(description="The sizes of batches.")]
    batch_s: Annotated[Summary | None, Meta(description="Their durations, in seconds.")]


class Sweeper(msgspec.Struct, kw_only=True):
    """When holds and schedules that are due were last looked for, and how late the oldest was."""

    last_success_at: TimestampText
    lag_s: float


class Verifying(msgspec.Struct, kw_only=True):
    """How far the verification is. `violations` is their number, for who reads all ledgers."""

    running: bool
    pass_ratio: float | None
    last_success_at: TimestampText | None
    violations: int | None


class WebhookProgress(Answer, kw_only=True):
    """How far a webhook is. `failing_since`: the first failure of an event that waits."""

    ledger: str
    id: int
    state: StateName
    position: str
    waiting: int
    failing_since: TimestampText | None
    dead_letters: int

    @classmethod
    def of(cls, row: WebhookState) -> Self:
        """The webhook as it is answered."""
        return cls.of_row(row, position=position(row.epoch, row.position))


class ExpiringKey(Answer, kw_only=True):
    """A key that expires within 30 days, by the part of it that is no secret."""

    id: str
    expires_at: TimestampText


class FeedReader(msgspec.Struct, kw_only=True):
    """A publisher of this process, or the delivery of webhooks: how far it is."""

    reader: str
    position: int
    safe_id: Annotated[int, Meta(description="The id up to which events are known.")]
    lag_s: Annotated[float, Meta(description="How long the oldest event has waited for it.")]


class BackupResult(msgspec.Struct, kw_only=True):
    """What became of the last run of a kind: a backup, a base backup, or a drill of one."""

    kind: str
    failed: bool
    last_success_at: TimestampText | None
    duration_s: float | None


class Archive(msgspec.Struct, kw_only=True):
    """An archive of the write-ahead log."""

    archive: str
    active: bool
    lag_bytes: int
    lag_s: float


class Setting(msgspec.Struct, kw_only=True):
    """A setting in force. A secret is `***`."""

    variable: str
    value: str | None
    is_default: bool


class Operations(msgspec.Struct, kw_only=True):
    """What concerns all ledgers: for keys with the scope on all of them."""

    queues: list[Queue]
    phases_s: Annotated[
        dict[str, Summary],
        Meta(description="The phases of batches of movements: lock, plan, write, commit."),
    ]
    feed: list[FeedReader]
    backups: list[BackupResult]
    archives: list[Archive]
    settings: list[Setting]


class Status(msgspec.Struct, kw_only=True):
    """The state of the service, as the process that answers sees it. What is not known is null."""

    version: str
    started_at: TimestampText
    uptime_s: float
    ready: bool
    faults: Annotated[list[Fault], Meta(description="Why it is not ready.")]
    shards: dict[str, Literal["up", "down"]] | UnsetType = UNSET
    server: Annotated[
        ServerState | None,
        Meta(description="The server of DATABASE_URL, and the revision of the schema there."),
    ]
    sweeper: Sweeper | None
    verification: Verifying | None
    webhooks: Annotated[
        list[WebhookProgress] | None, Meta(description="Those of the ledgers of the key.")
    ]
    expiring_keys: Annotated[
        list[ExpiringKey] | None,
        Meta(description="Keys with a grant on the ledgers of the key, 100 at most."),
    ]
    operations: Operations | None


@get(router, "/status", Status, NoParameters, need=Need(Scope.METRICS_READ))
async def get_status(request: Request) -> Response:
    """The state of the process that answers, of its database, and of what reads the ledger.

    It is 200 also when the service is not ready; `faults` says why. What concerns other ledgers
    than those on which the key has the scope is left out: `operations` is null, and so is
    the number of violations. `queues`, `feed` and `sweeper` are those of the process that answers.
    """
    parameters_of(request, NoParameters)
    runtime = runtime_of(request).main
    caller = caller_of(request.scope)
    is_everywhere = bool(caller.everywhere & Scope.METRICS_READ)
    seen = None if is_everywhere else _seen(caller.by_ledger)
    faults = await _faults(request, runtime)
    known = partial(_known, "database_unavailable" not in faults)
    status = Status(
        version=__version__,
        started_at=timestamp(runtime.started_at),
        uptime_s=(datetime.now(UTC) - runtime.started_at).total_seconds(),
        ready=not faults,
        faults=faults,
        shards=_shards(request),
        server=await known(partial(find_one, runtime.reader, ServerState, FIND_SERVER)),
        sweeper=_sweeper(),
        verification=await known(partial(_verifying, request, is_everywhere)),
        webhooks=await known(partial(_webhooks, request, runtime, seen)),
        expiring_keys=await known(partial(_keys, runtime, seen)),
        operations=await _operations(runtime) if is_everywhere else None,
    )
    return json_response(status)


def _seen(by_ledger: Mapping[int, int]) -> list[int]:
    """The ledgers on which a caller has the scope."""
    return [ledger for ledger, scopes in by_ledger.items() if scopes & Scope.METRICS_READ]


async def _known(is_up: bool, read: Callable[[], Awaitable[Value]]) -> Value | None:
    """What the database answers, or None."""
    try:
        return await read() if is_up else None
    except LedgerError:
        return None


async def _faults(request: Request, runtime: Runtime) -> list[Fault]:
    faults: list[Fault] = []
    if request.app.state.is_draining:
        faults.append("draining")
    if isinstance(runtime.movements, RemotePoster) and not runtime.movements.is_connected:
        faults.append("poster_unavailable")
    if not await runtime.probe.ask():
        faults.append("database_unavailable")
    return faults


def _shards(request: Request) -> dict[str, Literal["up", "down"]] | UnsetType:
    states = shards_of(request).states()
    return {name: "up" if is_up else "down" for name, is_up in states.items()} or UNSET


def _sweeper() -> Sweeper | None:
    looked_s = metrics.SWEEP_SUCCESS.now().get(())
    if not looked_s:
        return None
    lag_s = metrics.SWEEP_LAG.now().get((), 0.0)
    return Sweeper(last_success_at=_time(looked_s), lag_s=lag_s)


def _time(seconds: float) -> str:
    return timestamp(datetime.fromtimestamp(seconds, UTC))


async def _verifying(request: Request, is_everywhere: bool) -> Verifying:
    state = await verification_of(request)
    violations = state.violations if is_everywhere else None
    return Verifying(
        running=state.running,
        pass_ratio=state.pass_ratio,
        last_success_at=state.last_success_at,
        violations=None if violations is None else len(violations),
    )


async def _webhooks(
    request: Request, main: Runtime, ledgers: list[int] | None
) -> list[WebhookProgress]:
    """Those on all shards that can be used."""
    shards = [one for one in shards_of(request).runtimes().values() if one is not None]
    return [
        WebhookProgress.of(row)
        for runtime in (main, *shards)
        for row in await list_states(runtime.reader, ledgers)
    ]


async def _keys(main: Runtime, ledgers: list[int] | None) -> list[ExpiringKey]:
    return [ExpiringKey.of_row(row) for row in await list_expiring(main.reader, ledgers)]


async def _operations(runtime: Runtime) -> Operations:
    runtime.sample()
    await asyncio.to_thread(show_results, runtime.settings.results_folder)
    phases = summaries(metrics.PHASES)
    return Operations(
        queues=_queues(),
        phases_s={str(phase): summary for (phase,), summary in phases.items()},
        feed=_feed(),
        backups=_backups(),
        archives=_archives(),
        settings=settings_in_force(runtime.settings),
    )


def _queues() -> list[Queue]:
    waiting, ages = metrics.QUEUE_REQUESTS.now(), metrics.QUEUE_AGE.now()
    sizes, durations = summaries(metrics.BATCH_REQUESTS), summaries(metrics.BATCH_DURATION)
    return [
        Queue(
            queue=str(labels[0]),
            requests=int(waiting[labels]),
            age_s=ages.get(labels, 0.0),
            batch_requests=sizes.get(labels),
            batch_s=durations.get(labels),
        )
        for labels in waiting
    ]


def _feed() -> list[FeedReader]:
    positions, safe_ids, lags = (
        gauge.now() for gauge in (metrics.FEED_POSITION, metrics.FEED_SAFE_ID, metrics.FEED_LAG)
    )
    return [
        FeedReader(
            reader=str(labels[0]),
            position=int(positions[labels]),
            # A process that has not read the horizon yet has the position of the one before.
            safe_id=int(max(safe_ids.get(labels, 0), positions[labels])),
            lag_s=lags.get(labels, 0.0),
        )
        for labels in positions
    ]


def _backups() -> list[BackupResult]:
    successes, durations = metrics.BACKUP_SUCCESS.now(), metrics.BACKUP_DURATION.now()
    return [
        BackupResult(
            kind=str(labels[0]),
            failed=bool(failed),
            last_success_at=_time(successes[labels]) if labels in successes else None,
            duration_s=durations.get(labels),
        )
        for labels, failed in metrics.BACKUP_FAILED.now().items()
    ]


def _archives() -> list[Archive]:
    def number(gauge: Gauge, labels: Labels) -> float:
        return gauge.now().get(labels, 0.0)

    return [
        Archive(
            archive=str(labels[0]),
            active=bool(active),
            lag_bytes=int(number(metrics.ARCHIVE_LAG_BYTES, labels)),
            lag_s=number(metrics.ARCHIVE_LAG, labels),
        )
        for labels, active in metrics.ARCHIVE_ACTIVE.now().items()
    ]


def settings_in_force(settings: Settings) -> list[Setting]:
    """Each setting of the process by its variable, without secrets."""
    shown = []
    for row, name in zip(variables(), Settings.model_fields, strict=True):
        text = _shown(getattr(settings, name))
        is_default = text == row["default"]
        shown.append(Setting(variable=str(row["variable"]), value=text, is_default=is_default))
    return shown


def _shown(value: object) -> str | None:
    """A value as text. An address may have a password in it, too."""
    if value is None:
        return None
    if isinstance(value, SecretStr):
        return "***"
    return re.sub(r"//[^/\s]*@", "//***@", str(value))
