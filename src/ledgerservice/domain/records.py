"""An entry as a record of a message or a store: a JSON object by itself.

As with events, the same entry gives the same bytes for ever, and a new form is a new version.
"""

import msgspec

from ledgerservice.domain.amounts import to_major
from ledgerservice.domain.events import VERSION, Line
from ledgerservice.domain.timestamps import timestamp


class Record(msgspec.Struct, gc=False):
    """The members of a record."""

    version: int
    epoch: int
    ledger: str
    account_id: int
    account_version: int
    transaction_id: int
    transaction_type: str
    amount: str
    held_change: str
    balance: str
    held: str
    currency: str
    idempotency_key: str
    origin: str
    recorded_at: str


_encode = msgspec.json.Encoder().encode


def entry_record(epoch: int, ledger: str, line: Line) -> bytes:
    """The record of an entry; `ledger` is the ledger's name. Amounts are texts in major units."""
    exponent = line.exponent
    record = Record(
        VERSION,
        epoch,
        ledger,
        line.account_id,
        line.version,
        line.transaction_id,
        line.kind.name,
        to_major(line.amount, exponent),
        to_major(line.held_change, exponent),
        to_major(line.balance, exponent),
        to_major(line.held, exponent),
        line.currency,
        line.key,
        line.origin.name.lower(),
        timestamp(line.recorded_at),
    )
    return _encode(record)
