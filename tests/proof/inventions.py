"""What clients ask for that never were."""

import random
from collections.abc import Callable, Mapping
from typing import Any

from tests.proof.history import CONDITIONS, PLAIN, STEPS, Request
from tests.proof.journal import Account, Journal

SMALL = range(101, 113)  # accounts with next to nothing, which are closed

Moment = Callable[[int], str]
"""The moment so many steps from now."""


class Inventions:
    """Movements at random, of which some build on what a ledger has."""

    def __init__(
        self, chance: random.Random, journal: Journal, accounts: Mapping[int, Account]
    ) -> None:
        self._random = chance
        self._journal = journal
        self._accounts = accounts

    def movement(self, account: int, other: int, key: str, moment: Moment) -> Request:
        kinds = [*PLAIN, "deposit", "general", "general", "hold", "hold", *STEPS, "reversal"]
        kinds += ["schedule", "policy"]
        kind = self._random.choice(kinds)
        amount = self._random.randint(1, 50)
        if self._random.random() < 0.15:
            account, amount = self._random.choice(SMALL), self._random.randint(1, 2)
            kind = self._random.choice([*PLAIN, "deposit", "hold", "policy", "policy", "schedule"])
            if kind in ("transfer", "schedule") and self._random.random() < 0.5:
                account, other = other, account
        if kind == "general":
            legs = ((account, -amount), (other, amount))
            conditions = self._conditions(self._random.choice([account, other]))
            return Request(kind, account, None, amount, key, legs=legs, conditions=conditions)
        if kind == "hold":
            terms = {"expires_at": moment(30)} if self._random.random() < 0.3 else {}
            return Request(kind, account, other, amount, key, **terms)
        if kind == "schedule":
            return Request(kind, account, other, amount, key, execute_at=moment(20))
        if kind == "policy":
            floor, ceiling = (
                self._random.choice([0, 0, -20, 30]),
                self._random.choice([None, None, 150]),
            )
            frozen = self._random.choice([""] * 12 + ["debits", "credits", "both"])
            closed = account in SMALL and self._random.random() < 0.6
            if self._random.random() < 0.1:
                floor, ceiling = 30, 20
            return Request(
                kind, account, None, 0, key, floor=floor, ceiling=ceiling, frozen=frozen,
                closed=closed, actor=self._random.choice(["ann", "bob"]), reason="as agreed",
            )  # fmt: skip
        moved = [t for t in self._journal.transactions if t.kind == "transfer" and not t.reason]
        there: dict[str, list[Any]] = {"reversal": moved, "cancellation": self._journal.schedules}
        if kind in STEPS and (built_on := there.get(kind, self._journal.holds)):
            parent = self._random.choice(built_on[-4 if kind == "cancellation" else -20 :])
            parts = [0] if kind == "cancellation" else [0, amount, amount // 4 + 1]
            part = self._random.choice(parts)
            return Request(kind, parent.account, None, part, key, parent=parent.id)
        kind = kind if kind in PLAIN else "transfer"
        return Request(kind, account, other if kind == "transfer" else None, amount, key)

    def _conditions(self, account: int) -> tuple[tuple[int, str, int], ...]:
        now = self._accounts[account]
        known = {"available_at_least": 20, "balance_at_least": 30, "version": now.version}
        names = [name for name in CONDITIONS if self._random.random() < 0.3]
        return tuple((account, n, known[n] + self._random.choice([0, 0, 20])) for n in names)
