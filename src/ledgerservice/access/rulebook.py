"""The rules of approvals that a process knows. They are read together with the keys."""

from collections.abc import Mapping
from time import monotonic

from ledgerservice.domain.rules.approvals import Rules
from ledgerservice.errors import Unavailable


class Rulebook:
    """The rules by ledger, as they were last read. Nothing is decided by rules that are stale."""

    def __init__(self) -> None:
        self._by_ledger: Mapping[int, Rules] = {}
        self._fresh_until_s = 0.0

    def renew(self, by_ledger: Mapping[int, Rules], fresh_until_s: float) -> None:
        """Replace all rules. They hold until a time of the monotonic clock."""
        self._by_ledger, self._fresh_until_s = by_ledger, fresh_until_s

    def of(self, ledger: int) -> Rules | None:
        """The rules of a ledger; None if it has none of its own. Raises Unavailable if they were
        not read for too long.
        """
        if monotonic() > self._fresh_until_s:
            raise Unavailable
        return self._by_ledger.get(ledger)
