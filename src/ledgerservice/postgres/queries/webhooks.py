"""Webhooks as callers see and change them. Each statement is a transaction of its own."""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Any

import msgspec
from sqlalchemy import text

from ledgerservice.postgres.queries.structs import find_all, find_one
from ledgerservice.postgres.reader import Reader

MAX_SECRETS = 5
"""Of an endpoint, during rotations; older ones are removed."""


class WebhookView(msgspec.Struct, frozen=True):
    """An endpoint. `types` are separated by commas; None: all."""

    id: int
    url: str
    types: str | None
    account_id: int | None
    state: str
    reason: str | None
    epoch: int
    position: int
    waiting: int
    dead_letters: int
    created_at: datetime


class SecretView(msgspec.Struct, frozen=True):
    """A secret of an endpoint."""

    webhook_id: int
    secret: str
    created_at: datetime
    expires_at: datetime | None


class WebhookState(msgspec.Struct, frozen=True):
    """How far an endpoint of any ledger is. `failing_since`: the first failure of those that wait
    to be tried again.
    """

    ledger: str
    id: int
    state: str
    epoch: int
    position: int
    waiting: int
    failing_since: datetime | None
    dead_letters: int


class DeliveryView(msgspec.Struct, frozen=True):
    """An attempt to deliver an event."""

    id: int
    epoch: int
    event_id: int
    attempt: int
    attempted_at: datetime
    status: int | None
    error: str | None
    duration_ms: int


_FAILURES = """(SELECT count({}) FROM ledger.webhook_failures f
     WHERE f.ledger_id = w.ledger_id AND f.webhook_id = w.id {})"""
_VIEW = f"""
SELECT w.id, w.url, w.types, w.account_id, w.state, w.reason, w.epoch, w.position,
    {_FAILURES.format("f.next_at", "")} AS waiting,
    {_FAILURES.format("*", "AND f.next_at IS NULL")} AS dead_letters, w.created_at
FROM ledger.webhooks w
"""
FIND = text(f"{_VIEW} WHERE w.ledger_id = :ledger AND w.id = :id")
LIST = text(
    f"{_VIEW} WHERE w.ledger_id = :ledger AND w.id > CAST(:after AS bigint)"
    " ORDER BY w.id LIMIT :rows"
)
MOST_STATES = 1_000
"""The largest LEDGER_WEBHOOKS_LIMIT."""
LIST_STATES = text(f"""
SELECT l.name AS ledger, w.id, w.state, w.epoch, w.position,
    {_FAILURES.format("f.next_at", "")} AS waiting,
    (SELECT min(f.failed_at) FROM ledger.webhook_failures f
     WHERE f.ledger_id = w.ledger_id AND f.webhook_id = w.id AND f.next_at IS NOT NULL)
        AS failing_since,
    {_FAILURES.format("*", "AND f.next_at IS NULL")} AS dead_letters
FROM ledger.webhooks w JOIN ledger.ledgers l ON l.ledger_id = w.ledger_id
WHERE CAST(:ledgers AS integer[]) IS NULL OR w.ledger_id = ANY (CAST(:ledgers AS integer[]))
ORDER BY w.ledger_id, w.id LIMIT {MOST_STATES}
""")
LIST_SECRETS = text("""
SELECT webhook_id, secret, created_at, expires_at FROM ledger.webhook_secrets
WHERE ledger_id = :ledger AND webhook_id = ANY (CAST(:ids AS bigint[]))
  AND (expires_at IS NULL OR expires_at > clock_timestamp())
ORDER BY webhook_id, number DESC
""")
LIST_DELIVERIES = text("""
SELECT id, epoch, event_id, attempt, attempted_at, status, error, duration_ms
FROM ledger.webhook_deliveries
WHERE ledger_id = :ledger AND webhook_id = :id AND id < CAST(:before AS bigint)
ORDER BY ledger_id DESC, webhook_id DESC, id DESC LIMIT :rows
""")
ADD = text("""
WITH added AS (
    INSERT INTO ledger.webhooks (ledger_id, url, types, account_id, epoch, position)
    SELECT :ledger, :url, CAST(:types AS text), CAST(:account_id AS bigint), :epoch, :position
    WHERE (SELECT count(*) FROM ledger.webhooks) < :most
    RETURNING ledger_id, id
), signed AS (
    INSERT INTO ledger.webhook_secrets (ledger_id, webhook_id, number, secret)
    SELECT ledger_id, id, 1, :secret FROM added
)
SELECT id FROM added
""")
CHANGE = text("""
UPDATE ledger.webhooks
SET url = coalesce(CAST(:url AS text), url),
    types = CASE WHEN :sets_types THEN CAST(:types AS text) ELSE types END,
    dead_letters = CASE WHEN CAST(:state AS text) = 'active' THEN 0 ELSE dead_letters END,
    reason = CASE WHEN CAST(:state AS text) IS NULL THEN reason END,
    state = coalesce(CAST(:state AS text), state), revision = revision + 1
WHERE ledger_id = :ledger AND id = :id RETURNING id
""")
REMOVE = text("DELETE FROM ledger.webhooks WHERE ledger_id = :ledger AND id = :id RETURNING id")
# The row of the endpoint is locked, so that two rotations follow each other.
ROTATE = text(f"""
WITH found AS (
    UPDATE ledger.webhooks SET revision = revision + 1
    WHERE ledger_id = :ledger AND id = :id RETURNING ledger_id, id
), last AS (
    SELECT max(s.number) AS number FROM ledger.webhook_secrets s, found
    WHERE s.ledger_id = found.ledger_id AND s.webhook_id = found.id
), old AS (
    UPDATE ledger.webhook_secrets s
    SET expires_at = least(expires_at, clock_timestamp() + make_interval(secs => :overlap_s))
    FROM found, last WHERE s.ledger_id = found.ledger_id AND s.webhook_id = found.id
      AND s.number > last.number + 1 - {MAX_SECRETS}
), oldest AS (
    DELETE FROM ledger.webhook_secrets s USING found, last
    WHERE s.ledger_id = found.ledger_id AND s.webhook_id = found.id
      AND s.number <= last.number + 1 - {MAX_SECRETS}
), added AS (
    INSERT INTO ledger.webhook_secrets (ledger_id, webhook_id, number, secret)
    SELECT found.ledger_id, found.id, last.number + 1, :secret FROM found, last
    RETURNING webhook_id
)
SELECT webhook_id FROM added
""")
MOVE = text("""
UPDATE ledger.webhooks
SET epoch = :epoch, position = :position, digest = NULL, revision = revision + 1
WHERE ledger_id = :ledger AND id = :id RETURNING id
""")
REVIVE = text("""
WITH found AS (
    UPDATE ledger.webhooks SET revision = revision + 1, dead_letters = 0
    WHERE ledger_id = :ledger AND id = :id RETURNING ledger_id, id
), revived AS (
    UPDATE ledger.webhook_failures f
    SET attempts = 0, failed_at = clock_timestamp(), next_at = clock_timestamp()
    FROM found
    WHERE f.ledger_id = found.ledger_id AND f.webhook_id = found.id AND f.next_at IS NULL
)
SELECT id FROM found
""")

NEWEST = 2**63 - 1


async def find(reader: Reader, webhook_id: int) -> WebhookView | None:
    """The endpoint with this id, or None."""
    return await find_one(reader, WebhookView, FIND, id=webhook_id)


async def list_all(reader: Reader, rows: int, after: int) -> list[WebhookView]:
    """Up to `rows` endpoints by id, after an id."""
    return await find_all(reader, WebhookView, LIST, rows=rows, after=after)


async def list_secrets(reader: Reader, ids: Sequence[int]) -> list[SecretView]:
    """The secrets of endpoints that requests are signed with, newest first."""
    return await find_all(reader, SecretView, LIST_SECRETS, ids=list(ids))


async def list_of_all(
    readers: Sequence[Reader], rows: int, after: int
) -> tuple[list[WebhookView], list[SecretView]]:
    """Up to `rows` endpoints of all parts of a ledger by id, after an id, and their secrets."""
    views: list[WebhookView] = []
    secrets: list[SecretView] = []
    for reader in readers:
        own = await list_all(reader, rows, after)
        views += own
        secrets += await list_secrets(reader, [view.id for view in own])
    return sorted(views, key=lambda view: view.id)[:rows], secrets


async def list_deliveries(
    reader: Reader, webhook_id: int, rows: int, before: int | None
) -> list[DeliveryView]:
    """Up to `rows` attempts of an endpoint, newest first, before an id."""
    values = {"id": webhook_id, "rows": rows, "before": before or NEWEST}
    return await find_all(reader, DeliveryView, LIST_DELIVERIES, **values)


async def write(reader: Reader, statement: Any, **values: Any) -> int | None:
    """Run one of the statements that write; the endpoint's id, or None if there is none."""
    rows = await reader.rows(statement, **values)
    return rows[0][0] if rows else None


async def list_states(reader: Reader, ledgers: Collection[int] | None) -> list[WebhookState]:
    """The states of the endpoints of a database: of all ledgers, or of these."""
    ids = None if ledgers is None else list(ledgers)
    return await find_all(reader, WebhookState, LIST_STATES, ledgers=ids)
