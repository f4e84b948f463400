"""Ledgers: the request that adds one, and the answer."""

import re
from datetime import datetime

import msgspec

LEDGER_NAME_PATTERN = r"[a-z0-9][a-z0-9_-]{0,62}"

_is_ledger_name = re.compile(LEDGER_NAME_PATTERN, re.ASCII).fullmatch


class LedgerRequest(msgspec.Struct, frozen=True, gc=False):
    """A request for a ledger. The name is its key. `shard` is where it is to be; None: on main."""

    name: str
    dry_run: bool = False
    principal_id: int = 0
    shard: str | None = None


class LedgerRecord(msgspec.Struct, frozen=True, gc=False):
    """A ledger as recorded; the id is 0 in a dry run. `replayed`: it existed before the request."""

    name: str
    id: int
    created_at: datetime
    shard: str = "main"
    replayed: bool = False


def is_ledger_name(text: str) -> bool:
    """Whether `text` is a valid name: up to 63 lower-case letters, digits, - and _."""
    return _is_ledger_name(text) is not None
