"""Webhooks as the process that delivers reads and writes them, over its one connection."""

import asyncio
from collections.abc import Coroutine, Sequence
from datetime import UTC, datetime
from typing import Any, NamedTuple, TypeVar

import msgspec

from ledgerservice.postgres.pipeline import (
    Parameters,
    Request,
    Result,
    Rows,
    Wire,
    array,
    number,
    optional_array,
    text_array,
    timestamp,
    timestamp_array,
)

Value = TypeVar("Value")

# One process delivers the webhooks of a ledger's schema.
TRY_LOCK = """
SELECT pg_try_advisory_lock(2020071, 'ledger.webhooks'::regclass::oid::integer)
"""
# The webhooks of a ledger that moves are delivered by one shard at a time.
_HERE = """NOT EXISTS (
    SELECT FROM ledger.fences f
    WHERE f.ledger_id = w.ledger_id AND f.state IN ('arriving', 'left', 'removing'))"""
LIST_ACTIVE = f"""
SELECT ledger_id, id, url, types, account_id, epoch, position, digest, dead_letters, revision
FROM ledger.webhooks w WHERE state = 'active' AND {_HERE}
ORDER BY ledger_id, id
"""
LIST_SECRETS = f"""
SELECT s.ledger_id, s.webhook_id, s.secret, s.expires_at
FROM ledger.webhook_secrets s JOIN ledger.webhooks w
    ON w.ledger_id = s.ledger_id AND w.id = s.webhook_id
WHERE w.state = 'active' AND {_HERE} ORDER BY s.ledger_id, s.webhook_id, s.number DESC
"""
LIST_WAITING = """
SELECT event_id, attempts, failed_at, next_at FROM ledger.webhook_failures
WHERE ledger_id = $1 AND webhook_id = $2 AND next_at IS NOT NULL
ORDER BY next_at, event_id LIMIT $3
"""
# One statement, so that an attempt is in the log if and only if its outcome is kept. It does
# nothing if a caller has changed the endpoint meanwhile.
RECORD = """
WITH moved AS (
    UPDATE ledger.webhooks
    SET position = $4::bigint, digest = $5::bytea, state = coalesce($6::text, state),
        reason = coalesce($7::text, reason), dead_letters = dead_letters + $8::integer
    WHERE ledger_id = $1::integer AND id = $2::bigint AND revision = $3::integer
      AND state = 'active'
    RETURNING ledger_id, id, epoch
), done AS (
    DELETE FROM ledger.webhook_failures f USING moved
    WHERE f.ledger_id = moved.ledger_id AND f.webhook_id = moved.id
      AND f.event_id = ANY ($9::bigint[])
), woken AS (
    UPDATE ledger.webhook_failures f SET next_at = clock_timestamp() FROM moved
    WHERE $10::boolean AND f.ledger_id = moved.ledger_id AND f.webhook_id = moved.id
      AND f.next_at > clock_timestamp() AND f.event_id <> ALL ($9::bigint[])
), failed AS (
    INSERT INTO ledger.webhook_failures
        (ledger_id, webhook_id, event_id, attempts, failed_at, next_at)
    SELECT moved.ledger_id, moved.id, failure.*
    FROM moved, unnest($11::bigint[], $12::integer[], $13::timestamptz[], $14::timestamptz[])
        AS failure (event_id, attempts, failed_at, next_at)
    ON CONFLICT (ledger_id, webhook_id, event_id) DO UPDATE
    SET attempts = excluded.attempts, next_at = excluded.next_at
), logged AS (
    INSERT INTO ledger.webhook_deliveries (ledger_id, webhook_id, epoch, event_id, attempt,
                                           attempted_at, status, error, duration_ms)
    SELECT moved.ledger_id, moved.id, moved.epoch, attempt.*
    FROM moved, unnest($15::bigint[], $16::integer[], $17::timestamptz[], $18::smallint[],
                       $19::text[], $20::integer[])
        AS attempt (event_id, attempt, attempted_at, status, error, duration_ms)
)
SELECT count(*) FROM moved
"""
# What was lost with the old epoch is not tried again; everything after compare_from comes again.
MOVE_EPOCH = """
WITH moved AS (
    UPDATE ledger.webhooks
    SET epoch = $4::integer, position = least(position, $5::bigint), digest = NULL,
        revision = revision + 1
    WHERE ledger_id = $1::integer AND id = $2::bigint AND revision = $3::integer
    RETURNING ledger_id, id
)
DELETE FROM ledger.webhook_failures f USING moved
WHERE f.ledger_id = moved.ledger_id AND f.webhook_id = moved.id AND f.event_id > $5::bigint
"""
PRUNED_ROWS = 10_000
PRUNE = f"""
DELETE FROM ledger.webhook_deliveries WHERE (ledger_id, webhook_id, id) IN (
    SELECT ledger_id, webhook_id, id FROM ledger.webhook_deliveries
    WHERE attempted_at < $1::timestamptz ORDER BY attempted_at LIMIT {PRUNED_ROWS})
"""


class Secret(NamedTuple):
    """A secret, and until when requests are signed with it; None: without end."""

    text: str
    expires_at: datetime | None


class Endpoint(NamedTuple):
    """An active endpoint, as it was read. The secrets are ordered, newest first."""

    ledger_id: int
    id: int
    url: str
    types: str | None
    account_id: int | None
    epoch: int
    position: int
    digest: bytes | None
    dead_letters: int
    revision: int
    secrets: tuple[Secret, ...] = ()

    def secrets_at(self, time: datetime) -> list[str]:
        """What a request is signed with."""
        return [s.text for s in self.secrets if s.expires_at is None or time < s.expires_at]


class Failure(NamedTuple):
    """An event that was not taken. `next_at`: the next attempt; None: it is a dead letter."""

    event_id: int
    attempts: int
    failed_at: datetime
    next_at: datetime | None


class Tried(NamedTuple):
    """A line of the log."""

    event_id: int
    attempt: int
    at: datetime
    status: int | None
    error: str | None
    duration_ms: int


class Progress(msgspec.Struct):
    """What is recorded of an endpoint together. `done` are failures that were delivered.

    `wake`: the endpoint takes events again, so those that wait are tried now.
    """

    position: int
    digest: bytes | None
    tried: list[Tried] = []
    failures: list[Failure] = []
    done: list[int] = []
    wake: bool = False
    state: str | None = None
    reason: str | None = None


class Store:
    """The connection of the process that delivers. Its methods take turns."""

    def __init__(self, wire: Wire) -> None:
        self._wire = wire
        self._turn = asyncio.Lock()

    async def lock(self) -> bool:
        """Try to become the one process that delivers, for as long as the connection lives."""
        return bool((await self._rows(TRY_LOCK))[0][0])

    async def active(self) -> list[Endpoint]:
        """All active endpoints.

        What a caller changes between the two statements changes the revision. So the secrets are
        read last: they may be newer than the revision, for as long as that is read once more, but
        never older. An endpoint that has no secret by then has been changed, and is left out.
        """
        rows = await self._rows(LIST_ACTIVE)
        secrets: dict[tuple[int, int], list[Secret]] = {}
        for ledger, webhook, *secret in await self._rows(LIST_SECRETS):
            secrets.setdefault((ledger, webhook), []).append(Secret(*secret))
        return [
            Endpoint._make((*row, tuple(secrets[row[0], row[1]])))
            for row in rows
            if (row[0], row[1]) in secrets
        ]

    async def waiting(self, endpoint: Endpoint, rows: int) -> list[Failure]:
        """The first of an endpoint's failures that are tried again."""
        waiting = await self._rows(LIST_WAITING, *_key(endpoint), number(rows))
        return [Failure(*row) for row in waiting]

    async def record(self, endpoint: Endpoint, progress: Progress) -> bool:
        """Keep what was done; False if the endpoint has been changed meanwhile."""
        revision = number(endpoint.revision)
        values = *_key(endpoint), revision, *_values(progress)
        return bool((await self._rows(RECORD, *values))[0][0])

    async def move_epoch(self, endpoint: Endpoint, epoch: int, compare_from: int) -> None:
        """Let an endpoint go on in a new epoch of the feed."""
        numbers = map(number, (endpoint.revision, epoch, compare_from))
        await self._rows(MOVE_EPOCH, *_key(endpoint), *numbers)

    async def prune(self, before: datetime) -> None:
        """Remove what the log has of the time before."""
        tag = f"DELETE {PRUNED_ROWS}"
        while tag == f"DELETE {PRUNED_ROWS}":
            prune = Request(PRUNE, [timestamp(before)])
            tag = (await uninterrupted(self._exchange(prune))).tag

    async def _rows(self, statement: str, *values: bytes | None) -> Rows:
        return (await uninterrupted(self._exchange(Request(statement, values)))).rows

    async def _exchange(self, request: Request) -> Result:
        async with self._turn:
            [result] = await self._wire.exchange(request)
        return result


async def uninterrupted(work: Coroutine[Any, Any, Value]) -> Value:
    """The result of `work`. A cancellation waits for its end.

    An exchange that is left in its middle costs the connection, which others use too.
    """
    task = asyncio.create_task(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        await asyncio.wait([task])
        raise


def _key(endpoint: Endpoint) -> tuple[bytes, bytes]:
    return number(endpoint.ledger_id), number(endpoint.id)


def _values(progress: Progress) -> Parameters:
    dead = sum(failure.next_at is None for failure in progress.failures)
    digest = None if progress.digest is None else b"\\x" + progress.digest.hex().encode()
    return [
        number(progress.position),
        digest,
        _text(progress.state),
        _text(progress.reason),
        number(dead),
        array(progress.done),
        b"true" if progress.wake else b"false",
        *_failures(progress.failures),
        *_log(progress.tried),
    ]


def _text(value: str | None) -> bytes | None:
    return None if value is None else value.encode()


def _failures(failures: Sequence[Failure]) -> Parameters:
    return [
        array(one.event_id for one in failures),
        array(one.attempts for one in failures),
        timestamp_array(one.failed_at for one in failures),
        timestamp_array(one.next_at for one in failures),
    ]


def _log(tried: Sequence[Tried]) -> Parameters:
    return [
        array(one.event_id for one in tried),
        array(one.attempt for one in tried),
        timestamp_array(one.at for one in tried),
        optional_array(one.status for one in tried),
        text_array(one.error for one in tried),
        array(one.duration_ms for one in tried),
    ]


def utc_now() -> datetime:
    """The time of this process."""
    return datetime.now(UTC)
