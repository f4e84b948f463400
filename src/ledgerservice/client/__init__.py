"""A client of the service that gathers calls: `AsyncClient` for asyncio, `Client` for threads.

It imports httpx and msgspec, and nothing of the service; a client that signs its requests also
imports what signs.
"""

from ledgerservice.client.answers import (
    Account,
    DecidedOn,
    Entry,
    Event,
    HistoryEntry,
    Hold,
    Posted,
    Proposal,
    Transaction,
)
from ledgerservice.client.asynchronous import AsyncClient
from ledgerservice.client.errors import (
    ApprovalPending,
    ClientClosed,
    ClientError,
    Conflict,
    Declined,
    Fault,
    Forbidden,
    Invalid,
    KeyMisused,
    NoAnswer,
    NotFound,
    PositionLost,
    RateLimited,
    Unauthenticated,
    Unavailable,
)
from ledgerservice.client.items import Amount, Details, Leg
from ledgerservice.client.pages import Pages
from ledgerservice.client.synchronous import Client

__all__ = [
    "Account",
    "Amount",
    "ApprovalPending",
    "AsyncClient",
    "Client",
    "ClientClosed",
    "ClientError",
    "Conflict",
    "DecidedOn",
    "Declined",
    "Details",
    "Entry",
    "Event",
    "Fault",
    "Forbidden",
    "HistoryEntry",
    "Hold",
    "Invalid",
    "KeyMisused",
    "Leg",
    "NoAnswer",
    "NotFound",
    "Pages",
    "PositionLost",
    "Posted",
    "Proposal",
    "RateLimited",
    "Transaction",
    "Unauthenticated",
    "Unavailable",
]
