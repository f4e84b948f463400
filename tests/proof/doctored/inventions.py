"""Random requests of made-up clients."""

import math
import random
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from typing import Any

import msgspec

from tests.proof.history import CONDITIONS, PLAIN, STEPS, Exchange, Request
from tests.proof.journal import Account, Journal
from tests.proof.judging.evidence import major

SMALL = range(101, 113)  # accounts with next to nothing, which are closed
RUPEES = range(301, 305)
RARE = 201, 202  # for what is rare
PROPOSED = 203  # whose deposits and withdrawals others approve

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
        kinds = [*PLAIN, "general", "general", "hold", "hold", *STEPS, "reversal"]
        kinds += ["exchange", "reversal", "schedule", "policy"]
        kind = self._random.choice(kinds)
        amount = self._random.randint(1, 50)
        if self._random.random() < 0.2:
            account, amount = self._random.choice(SMALL), self._random.randint(1, 2)
            kind = self._random.choice([*PLAIN, "deposit", "hold", "policy", "policy", "schedule"])
            if kind in ("transfer", "schedule") and self._random.random() < 0.5:
                account, other = other, account
        if kind == "general":
            legs: tuple[tuple[int, int], ...] = ((account, -amount), (other, amount))
            thirds = [n for n in self._accounts if n not in (account, other) and 0 < n < SMALL[0]]
            if thirds and amount > 1 and self._random.random() < 0.5:
                part = self._random.randint(1, amount - 1)
                third = self._random.choice(thirds)
                legs = ((account, -amount), (other, amount - part), (third, part))
            conditions = self._conditions(self._random.choice([account, other]))
            return Request(kind, account, None, amount, key, legs=legs, conditions=conditions)
        if kind == "exchange":
            return self._exchange(account, other, amount, key)
        if kind == "hold":
            terms: dict[str, Any] = (
                {"expires_at": moment(30)} if self._random.random() < 0.3 else {}
            )
            return Request(kind, account, other, amount, key, **terms)
        if kind == "schedule":
            return Request(kind, account, other, amount, key, execute_at=moment(20))
        if kind == "policy":
            floor, ceiling = (
                self._random.choice([0, 0, -20, 30]),
                self._random.choice([None, None, 60]),
            )
            frozen = self._random.choice([""] * 12 + ["debits", "credits", "both"])
            closed = account in SMALL and self._random.random() < 0.6
            if self._random.random() < 0.1:
                floor, ceiling = 30, 20
            return Request(
                kind, account, None, 0, key, floor=floor, ceiling=ceiling, frozen=frozen,
                closed=closed, actor=self._random.choice(["ann", "bob"]), reason="as agreed",
            )  # fmt: skip
        kinds = ["transfer", "general"]
        moved = [t for t in self._journal.transactions if t.kind in kinds and not t.reason]
        there: dict[str, list[Any]] = {"reversal": moved, "cancellation": self._journal.schedules}
        if kind in STEPS and (built_on := there.get(kind, self._journal.holds)):
            parent = self._random.choice(built_on[-4 if kind == "cancellation" else -20 :])
            parts = [0] if kind == "cancellation" else [0, amount, amount // 4 + 1]
            part = self._random.choice(parts)
            request = Request(kind, parent.account, None, part, key, parent=parent.id)
            return self._reversal(request) if kind == "reversal" else request
        kind = kind if kind in PLAIN else "transfer"
        return Request(kind, account, other if kind == "transfer" else None, amount, key)

    def detailed(self, request: Request) -> Request:
        """A third of them have something added."""
        if request.kind == "policy" or request.force or self._random.random() < 0.7:
            return request
        detail = {"description": "cheese", "reference": "order 7", "metadata": '{"b":1,"a":1.50}'}
        when = {} if request.kind == "schedule" else {"effective_at": f"{7:020}"}
        return msgspec.structs.replace(request, **detail, **when)

    def _exchange(self, account: int, other: int, sold: int, key: str) -> Request:
        """Dollars for rupees, of which rounding may leave one over, or take it."""
        dealer, buyer, rounding = self._random.sample(RUPEES, 3)
        rate = f"{self._random.uniform(80, 90):.3f}"
        exact = Fraction(rate) * sold
        given = self._random.choice([math.floor(exact), math.ceil(exact)])
        got = given + self._random.choice([0, -1, 1])
        fee = self._random.choice([0, 0, 2])
        legs = ((account, -sold - fee), (other, sold + fee), (dealer, -given), (buyer, got))
        exchange = Exchange("USD", "INR", rate, rounding, major(sold) if fee else "")
        amount = sold + fee
        return Request("general", account, None, amount, key, legs=legs, exchange=exchange)

    def funds(self) -> Iterator[Request]:
        """What there is to be exchanged."""
        for number in RUPEES:
            yield Request("deposit", number, None, 50_000, "rupees")

    def rare(self, of: Callable[[str], int]) -> Iterator[Request]:
        """What no history shall be without; `of` a key, the transaction that it made."""
        one, two = RARE
        yield Request("deposit", one, None, 20, "rare")
        yield Request("transfer", one, two, 15, "rare 2")
        yield Request("reversal", one, None, 0, "rare 3", parent=of("rare"))
        forced: dict[str, Any] = {"force": True, "actor": "ann", "description": "stolen"}
        yield Request("reversal", one, None, 0, "rare 4", parent=of("rare"), **forced)
        by: dict[str, Any] = {"actor": "bob", "reason": "as agreed"}
        yield Request("policy", two, None, 0, "rare 5", closed=True, **by)
        yield Request("policy", two, None, 0, "rare 6", ceiling=16, **by)
        yield Request("deposit", two, None, 2, "rare 7")
        yield Request("withdraw", two, None, 15, "rare 8")
        yield Request("policy", two, None, 0, "rare 9", closed=True, **by)
        yield Request("policy", two, None, 0, "rare 10", **by)
        yield Request("schedule", one, two, 2, "rare 11", execute_at=f"{0:020}")

    def _reversal(self, request: Request) -> Request:
        """By legs, or else in part only between two; a third are forced."""
        entries = [e for e in self._journal.entries if e.transaction == request.parent]
        terms: dict[str, Any] = {} if len(entries) == 2 else {"amount": 0}
        if self._random.random() < 0.5:
            gained = self._random.choice([e for e in entries if e.amount > 0])
            given = self._random.choice(
                [e for e in entries if e.amount < 0 and e.currency_number == gained.currency_number]
            )
            part = self._random.randint(1, gained.amount // 2 + 1)
            terms = {"amount": 0, "legs": ((gained.account, -part), (given.account, part))}
        if self._random.random() < 0.4:
            terms |= {"force": True, "actor": "ann", "description": "stolen"}
        return msgspec.structs.replace(request, **terms)

    def _conditions(self, account: int) -> tuple[tuple[int, str, int], ...]:
        now = self._accounts[account]
        known = {"available_at_least": 20, "balance_at_least": 30, "version": now.version}
        names = [name for name in CONDITIONS if self._random.random() < 0.3]
        return tuple((account, n, known[n] + self._random.choice([0, 0, 20])) for n in names)
