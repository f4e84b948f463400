"""The states of accounts that this process has committed last, so that it need not read them.

They are a guess: another process may have moved an account meanwhile. So they are used only where
the database judges what is decided on them, and forgotten whenever a batch fails.
"""

from collections.abc import Iterable, Mapping, Sequence

from ledgerservice.domain.accounts import Account
from ledgerservice.domain.instructions import Instruction, Movement
from ledgerservice.domain.planner import Plan
from ledgerservice.postgres.locking import ID_BLOCK

MOST_MOVEMENTS = ID_BLOCK
"""In a batch that is posted on them: it takes one block of ids."""

MOST_KNOWN = 50_000  # accounts, of all ledgers: some 15 MB
BATCHES_UNDER_LOCKS = 20  # after a refusal, which is a round trip in vain


class KnownAccounts:
    """The accounts of each ledger as this process has left them."""

    def __init__(self) -> None:
        self._ledgers: dict[int, dict[int, Account]] = {}
        self._count = 0
        self._under_locks = 0

    def of(self, ledger: int, instructions: Sequence[Instruction]) -> dict[int, Account] | None:
        """The accounts of a batch, if it is small and not empty, and of plain movements of known
        accounts without holds; else None.
        """
        known = self._ledgers.get(ledger)
        if self._under_locks:
            self._under_locks -= 1
            return None
        if known is None or not 0 < len(instructions) <= MOST_MOVEMENTS:
            return None
        return _accounts_of(instructions, known)

    def learn(self, ledger: int, plan: Plan) -> None:
        """A plan of movements is committed."""
        if self._count > MOST_KNOWN:
            self.clear()
        known = self._ledgers.setdefault(ledger, {})
        before = len(known)
        for number, state in plan.states.items():
            known[number] = state.as_recorded(plan.recorded_at)
        self._count += len(known) - before

    def forget(self, ledger: int, accounts: Iterable[int]) -> None:
        """Something else is committed on these accounts."""
        if known := self._ledgers.get(ledger):
            for number in accounts:
                if known.pop(number, None) is not None:
                    self._count -= 1

    def refuse(self) -> None:
        """The database has objected: another process writes too, or a key was known."""
        self.clear()
        self._under_locks = BATCHES_UNDER_LOCKS

    def clear(self) -> None:
        """Forget all."""
        self._ledgers.clear()
        self._count = 0


def _accounts_of(
    instructions: Sequence[Instruction], known: Mapping[int, Account]
) -> dict[int, Account] | None:
    accounts: dict[int, Account] = {}
    for one in instructions:
        if type(one) is not Movement or one.detail is not None:
            return None
        own = known.get(one.account_id)
        if own is None or own.held:
            return None
        other_id = own.external_id if one.counterparty_id is None else one.counterparty_id
        other = known.get(other_id)
        if other is None or other.held:
            return None
        accounts[own.id], accounts[other.id] = own, other
    return accounts
