"""The most frequent reads, which the service answers without FastAPI's routing."""

import re
from typing import NamedTuple

from ledgerservice.api.http.openapi import Handler
from ledgerservice.api.resources.accounts import get_account
from ledgerservice.api.resources.histories import get_history
from ledgerservice.api.resources.holds import get_hold
from ledgerservice.api.resources.transactions import get_key, get_transaction


class FrequentRead(NamedTuple):
    """The handler of a read, the template of its path, and the parameters in the path."""

    handler: Handler
    route: str
    parameters: dict[str, str]


# The last group that matches names the read.
_is_frequent = re.compile(
    r"/accounts/(?P<account_id>[^/]+)(?:(?P<history>/history)|/keys/(?P<key>.+))?/?"
    r"|/transactions/(?P<transaction_id>[^/]+)/?"
    r"|/holds/(?P<hold_id>[^/]+)/?"
).fullmatch
_READS: dict[str | None, tuple[Handler, str]] = {
    "account_id": (get_account, "/accounts/{account_id}"),
    "history": (get_history, "/accounts/{account_id}/history"),
    "key": (get_key, "/accounts/{account_id}/keys/{key}"),
    "transaction_id": (get_transaction, "/transactions/{transaction_id}"),
    "hold_id": (get_hold, "/holds/{hold_id}"),
}
BATCHES = "/accounts/batches"


def frequent_read(path: str) -> FrequentRead | None:
    """The read of a path, if it is one of these."""
    match = _is_frequent(path)
    if match is None or path.rstrip("/") == BATCHES:
        return None
    return FrequentRead(*_READS[match.lastgroup], match.groupdict())
