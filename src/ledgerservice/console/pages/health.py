"""The health of the service: whether it is ready, how fast it writes, and what reads from it."""

import asyncio
from functools import partial
from typing import Any

from starlette.responses import Response

from ledgerservice.console.calls import Answer
from ledgerservice.console.durations import duration
from ledgerservice.console.visits import DEFAULT_LEDGER, Visit

MOST_WEBHOOKS, DELIVERIES = 5, 8
MOVEMENTS = "movements"
DURABILITY = (
    ("fsync", ("on",)),
    ("full_page_writes", ("on",)),
    ("synchronous_commit", ("on", "remote_write", "remote_apply")),
    ("data_checksums", ("on",)),
)
"""The settings that decide whether a crash can lose a commit, and their safe values."""


async def page(visit: Visit) -> Response:
    """What GET /status answers, with the violations and the deliveries that the reader may see."""
    answer = await visit.figure("/status")
    shared: dict[str, Any] = {"answer": answer, "duration": partial(duration, visit.t)}
    if not answer.is_good:
        return visit.page("health.html", **shared)
    verification, deliveries = await asyncio.gather(
        visit.peek("/verification/"), _deliveries(visit, answer.body["webhooks"] or [])
    )
    return visit.page(
        "health.html",
        **shared,
        queues=_busy_queues(answer.body["operations"]),
        durability=_durability(answer.body["server"]),
        verification=verification,
        deliveries=deliveries,
    )


def _busy_queues(operations: dict[str, Any] | None) -> list[dict[str, Any]]:
    """The queue of movements, and the others that have had a batch or have something to do."""
    queues = [] if operations is None else operations["queues"]
    return [one for one in queues if one["queue"] == MOVEMENTS or one["batch_s"] or one["requests"]]


def _durability(server: dict[str, str] | None) -> list[tuple[str, str, bool]]:
    """Each setting, its value, and whether that is safe."""
    if server is None:
        return []
    return [(name, server[name], server[name] in safe) for name, safe in DURABILITY]


async def _deliveries(visit: Visit, webhooks: list[dict[str, Any]]) -> list[tuple[int, Answer]]:
    """The latest deliveries of some webhooks of the ledger, where the reader may see them."""
    ledger = visit.api.ledger or DEFAULT_LEDGER
    ids = [one["id"] for one in webhooks if one["ledger"] == ledger][:MOST_WEBHOOKS]
    answers = await asyncio.gather(
        *(visit.peek(f"/webhooks/{number}/deliveries", limit=DELIVERIES) for number in ids)
    )
    return [(n, one) for n, one in zip(ids, answers, strict=True) if one.is_good and one.body]
