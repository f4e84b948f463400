"""The rules of approvals that a process knows. They are read together with the keys."""

from collections.abc import Mapping

from ledgerservice.domain.rules.approvals import Rules


class Rulebook:
    """The rules by ledger, as they were last read."""

    def __init__(self) -> None:
        self.by_ledger: Mapping[int, Rules] = {}

    def of(self, ledger: int) -> Rules | None:
        """The rules of a ledger; None if it has none of its own."""
        return self.by_ledger.get(ledger)
