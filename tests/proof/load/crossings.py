"""Random requests of the clients of a ledger with parts: half of the transfers cross."""

import random
from collections.abc import Sequence

from msgspec.structs import replace

from tests.proof.history import CROSSING, Request
from tests.proof.load.books import Accounts, Book
from tests.proof.load.choices import A_SMALL, IN_RUPEES, LARGEST, Choices

ACROSS = 0.5
KINDS = {
    "transfer": 12, "deposit": 1, "withdraw": 1, "hold": 1, "capture": 1, "release": 0.3,
    "reversal": 0.6, "policy": 0.6,
}  # fmt: skip
"""Of each there is one of a single part. All other kinds name accounts of one part only."""


class PartChoices(Choices):
    """Of a ledger with so many parts."""

    def __init__(self, accounts: Accounts, parts: int) -> None:
        super().__init__(accounts)
        self._parts = parts

    def _another(self, asked: Request, chance: random.Random) -> Request:
        changed = super()._another(asked, chance)
        if changed.kind in ("transfer", CROSSING) and changed.other is not None:
            return replace(changed, kind=self._kind_of(changed.account, changed.other))
        if changed.other is not None and self._crosses(changed.account, changed.other):
            return replace(asked, amount=asked.amount + 1)
        return changed

    def _new(self, key: str, chance: random.Random, *, may_force: bool) -> Request:
        usual, small, rupees = self._accounts
        in_rupees = chance.random() < IN_RUPEES
        pool = rupees if in_rupees else usual
        account, amount = chance.choice(pool), chance.randint(1, LARGEST * (50 if in_rupees else 1))
        kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
        if not in_rupees and chance.random() < A_SMALL:
            account, amount = chance.choice(small), chance.randint(1, 3)
            kind = "policy" if chance.random() < 0.3 else "transfer"
        if kind == "transfer":
            return self._transfer(account, pool, amount, key, chance)
        if kind == "policy":
            return self._policy(Request(kind, account, None, 0, key), chance)
        if kind == "hold":
            near = [one for one in self._others(account, pool, False) if one not in small]
            other = chance.choice(near) if near else None
            return self._hold(Request(kind, account, None, amount, key), other, chance)
        if kind in ("deposit", "withdraw"):
            return Request(kind, account, None, amount, key)
        if self._builds_on(kind):
            return self._step(kind, key, chance, may_force=may_force)
        return self._transfer(account, pool, amount, key, chance)

    def _transfer(
        self, account: int, pool: Sequence[int], amount: int, key: str, chance: random.Random
    ) -> Request:
        across = chance.random() < ACROSS
        others = self._others(account, pool, across) or self._others(account, pool, not across)
        other = chance.choice(others)
        if account not in pool and chance.random() < 0.5:
            account, other = other, account
        return Request(self._kind_of(account, other), account, other, amount, key)

    def _others(self, account: int, pool: Sequence[int], across: bool) -> list[int]:
        return [one for one in pool if one != account and self._crosses(account, one) == across]

    def _crosses(self, account: int, other: int) -> bool:
        return account % self._parts != other % self._parts

    def _kind_of(self, account: int, other: int) -> str:
        return CROSSING if self._crosses(account, other) else "transfer"


def choices_of(book: Book, *, only_plain: bool) -> Choices:
    """What the clients of a ledger ask for."""
    if book.parts:
        return PartChoices(book.accounts, len(book.parts))
    return Choices(book.accounts, only_plain=only_plain)
