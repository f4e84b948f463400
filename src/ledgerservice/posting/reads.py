"""The reads that are gathered: one statement answers all that arrived while the one before ran."""

from dataclasses import dataclass
from typing import Self

from ledgerservice.postgres.queries.accounts import AccountView, HistoryEntry
from ledgerservice.postgres.queries.gathered.accounts import (
    AccountRead,
    HistoryRead,
    find_accounts,
    list_histories,
)
from ledgerservice.postgres.queries.gathered.holds import HoldRead, find_holds
from ledgerservice.postgres.queries.gathered.transactions import (
    Built,
    KeyRead,
    TransactionRead,
    find_transactions,
)
from ledgerservice.postgres.queries.holds import HoldView
from ledgerservice.posting.poster import Poster
from ledgerservice.posting.queues import Queues


@dataclass(frozen=True, slots=True)
class Reads:
    """A queue for each kind. Every `post` raises Unavailable if there is no answer in time."""

    accounts: Poster[AccountRead, AccountView | None]
    histories: Poster[HistoryRead, list[HistoryEntry]]
    transactions: Poster[TransactionRead | KeyRead, Built | None]
    holds: Poster[HoldRead, HoldView | None]

    @classmethod
    def of(cls, queues: Queues) -> Self:
        """The reads of a database."""
        return cls(
            queues.reading("account_reads", find_accounts),
            queues.reading("history_reads", list_histories),
            queues.reading("transaction_reads", find_transactions),
            queues.reading("hold_reads", find_holds),
        )
