"""Made-up histories of a ledger that keeps all promises, for the checker's own tests."""

import random
from typing import Any

import msgspec

from tests.proof.doctored.inventions import PROPOSED, RARE, RUPEES, SMALL, Inventions
from tests.proof.doctored.ledger import Ledger
from tests.proof.doctored.proposing import Proposing
from tests.proof.history import Attempt, Request

STEP_NS = 1_000


class Fabricated:
    """A ledger decided one operation after another, seen by clients that overlap.

    Operation i takes effect at i steps; it was invoked up to `spread` steps before, and completed
    up to as many after. A fifth of the movements are sent twice, some lose their answer first.
    """

    def __init__(self, operations: int, seed: int, accounts: int = 6, spread: int = 12) -> None:
        self._random = random.Random(seed)
        self._spread = spread
        self.now_ns = 0
        self.attempts: list[Attempt] = []
        self.ledger = Ledger(accounts)
        self.journal = self.ledger.journal
        self._inventions = Inventions(self._random, self.journal, self.ledger.accounts)
        self._customers = list(range(1, accounts + 1))
        self._answers: dict[tuple[int, str], tuple[Request, int, dict[str, Any]]] = {}
        for request in self._inventions.funds():
            self._move(request)
        if operations:
            self._propose()
        for number in range(operations):
            self.now_ns += STEP_NS
            self._step(number)
        for request in self._inventions.rare(self._number_of) if operations else ():
            self.now_ns += STEP_NS
            self._move(request)
        self.now_ns += 1_000 * STEP_NS  # whatever was to be done at some time is done
        self.ledger.execute_due(self.time())
        for hold in self.journal.holds:
            if hold.expires_at is not None and hold.remaining:
                self.ledger.release(hold, self.time())

    def time(self, later: int = 0) -> str:
        """The timestamp so many steps from now."""
        return f"{self.now_ns + later * STEP_NS:020}"

    def decide(self, request: Request) -> tuple[int, dict[str, Any]]:
        return self.ledger.decide(request, self.time())

    def _propose(self) -> None:
        before = self._random.getstate()  # the other operations are those of the seed
        Proposing(self.journal, self._decide_later, self.attempt).propose_all()
        self._random.setstate(before)

    def _decide_later(self, request: Request) -> tuple[int, dict[str, Any]]:
        self.now_ns += 100 * STEP_NS  # what was approved is seen by nobody before
        answer = self.decide(request)
        self.now_ns += 100 * STEP_NS
        return answer

    def state(self, number: int) -> dict[str, Any]:
        return self.ledger.state(number, self.time())

    def attempt(self, request: Request, status: int | None, body: Any, **more: Any) -> None:
        before = self._random.randint(0, self._spread * STEP_NS)
        after = self._random.randint(1, self._spread * STEP_NS)
        completed = None if status is None else self.now_ns + after
        client = f"client{more.get('group', len(self.attempts)) % 7}"
        invoked = self.now_ns - before
        self.attempts.append(Attempt(client, invoked, request, completed, status, body, **more))

    def _number_of(self, key: str) -> int:
        return next(t.id for t in self.journal.transactions if t.key == key)

    def _step(self, number: int) -> None:
        chance = self._random.random()
        if chance > 0.8:
            self.ledger.execute_due(self.time())
        account, other = self._random.sample(self._customers, 2)
        if chance < 0.1:
            self.attempt(Request("account", account), 200, self.state(account))
        elif chance < 0.15:
            everyone = (*self._customers, *SMALL, *RARE, PROPOSED, *RUPEES)
            self.attempt(Request("accounts"), 200, [self.state(a) for a in everyone])
        elif chance < 0.2:
            self.attempt(Request("history", account), 200, self.ledger.page(account))
        elif chance < 0.25:
            self._look_up()
        elif chance < 0.4 and self._answers:
            self._repeat()
        elif chance < 0.43:
            self._group(number)
        else:
            request = self._inventions.movement(account, other, f"k{number}", self.time)
            self._move(self._inventions.detailed(request))

    def _group(self, number: int) -> None:
        """Posted together, or not at all; or with an answer that was lost, and asked for again."""
        account, other = self._random.sample(self._customers, 2)
        requests = [
            Request("deposit", account, None, 5 + n, f"k{number}.{n}") for n in range(2)
        ] + [Request("schedule", account, other, 3, f"k{number}.2", execute_at=self.time(20))]
        fate, group = self._random.random(), len(self.attempts)
        if fate < 0.3 or self._restricted(account):
            for request in requests:
                self.attempt(request, 409, {"code": "batch_failed"}, group=group)
            return
        answers = [(request, *self.decide(request)) for request in requests]
        if fate < 0.5:
            for request in requests:
                self.attempt(request, None, None, group=group)
        for request, status, body in answers:
            self.attempt(request, status, body, replayed=fate < 0.5, group=group + 3 * (fate < 0.5))

    def _restricted(self, number: int) -> bool:
        account = self.ledger.accounts[number]
        return account.restricted > 0 or account.ceiling is not None

    def _move(self, request: Request) -> None:
        status, body = self.decide(request)
        self._answers[request.account, request.key] = request, status, body
        if self._random.random() < 0.1:
            self.attempt(request, None, None)
            self.now_ns += STEP_NS
            self.attempt(request, status, body, replayed=True)
        else:
            self.attempt(request, status, body)

    def _repeat(self) -> None:
        request, status, body = self._random.choice(list(self._answers.values()))
        if self._random.random() < 0.3:
            (first, amount), *legs = request.legs or ((0, 0),)
            changed = ((first, amount - 1), *legs) if request.legs else ()
            other = msgspec.structs.replace(request, amount=request.amount + 1, legs=changed)
            if request.kind == "policy":
                other = msgspec.structs.replace(request, floor=request.floor - 1)
            self.attempt(other, 422, {"code": "idempotency_key_reused"})
        else:
            self.attempt(request, status, body, replayed=True)

    def _look_up(self) -> None:
        if self._answers and self._random.random() < 0.5:
            request, _, body = self._random.choice(list(self._answers.values()))
            self.attempt(Request("key", request.account, key=request.key), 200, body)
        else:
            self.attempt(Request("key", 1, key=f"k{self.now_ns}"), 404, {"code": "key_not_found"})
