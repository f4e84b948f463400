"""A made-up history of a ledger with three parts that keeps all promises."""

import random
from typing import Any

from tests.proof.history import CROSSING, Attempt, Request
from tests.proof.journal import (
    NO_DETAIL,
    Account,
    Entry,
    Hold,
    Journal,
    Policy,
    Transaction,
)
from tests.proof.judging.crossings import CLEARING
from tests.proof.judging.evidence import major
from tests.proof.parts import id_of

IDS = (11, 12, 13)
CUSTOMERS = range(1, 10)
STEP_NS = 1_000
CEILING = 60
DETAIL = ("rent", "", "", "")


class Market:
    """Each crossing takes a step of time for each of its own, and overlaps with a deposit."""

    def __init__(self, seed: int, crossings: int = 60) -> None:
        self.chance = random.Random(seed)
        self.now_ns = 0
        self.journal = Journal([], [], [], parts=IDS)
        self.attempts: list[Attempt] = []
        self.accounts: dict[int, Account] = {}
        for number in CUSTOMERS:
            self._open(number, 0)
            self.deposit(number, 40)
        self._limit(CUSTOMERS[-1])
        for _ in range(crossings):
            self._go()
        self.deposit(CUSTOMERS[0], CEILING + 1)
        self.cross(CUSTOMERS[0], CUSTOMERS[-1], CEILING + 1)
        for attempt in [a for a in self.attempts if a.request.kind == CROSSING]:
            number = attempt.body["transaction_id"]
            request = Request("transaction", attempt.request.account, parent=number)
            self._seen(request, 200, attempt.body)

    def _go(self) -> None:
        account, other = self.chance.sample(CUSTOMERS, 2)
        amount = self.chance.randint(1, 30)
        if account % len(IDS) == other % len(IDS):
            self.deposit(account, amount)
        else:
            self.cross(account, other, amount)

    def deposit(self, account: int, amount: int) -> None:
        external = self._beside(account, -1)
        if account == CUSTOMERS[-1]:
            return
        request = Request("deposit", account, None, amount, f"d{self.now_ns}")
        row = self._row("deposit", account, amount, request.key, other=external)
        entries = [self._enter(row, account, amount), self._enter(row, external, -amount)]
        self._seen(request, 200, _body(row, entries))

    def cross(self, account: int, other: int, amount: int) -> None:
        request = Request(CROSSING, account, other, amount, f"c{self.now_ns}", description="rent")
        invoked_ns = self.now_ns
        hold = self._row(CROSSING, account, amount, request.key, other=other, detail=DETAIL)
        own = self.accounts[account]
        if own.balance - own.held < amount:
            hold.other = 0
            body = self._decline(hold, hold, own, "insufficient_funds")
        else:
            body = self._finish(hold, other)
        self._seen(request, 400 if "code" in body else 200, body, invoked_ns)

    def _finish(self, hold: Transaction, other: int) -> dict[str, Any]:
        terms = IDS[other % len(IDS)], other
        clearing = 2 * CLEARING - hold.account % 2
        own, far = self._beside(hold.account, clearing), self._beside(other, clearing)
        row = Hold(hold.id, hold.account, own, hold.amount, 0, 0, None, None, *terms)
        self.journal.holds.append(row)
        self._enter(hold, hold.account, 0, hold.amount)
        key = f"x:{IDS[hold.account % len(IDS)]}:{hold.id}"
        facts = hold.amount, key
        credit = self._row("cross_credit", other, *facts, detail=DETAIL)
        target = self.accounts[other]
        body = None
        if target.ceiling is not None and target.balance + hold.amount > target.ceiling:
            body = self._decline(hold, credit, target, "balance_ceiling")
        else:
            self._enter(credit, far, -hold.amount)
            arrived = self._enter(credit, other, hold.amount)
        self.deposit(hold.account, 1)
        ending = "cross_debit" if body is None else "cross_release"
        end = self._row(
            ending, hold.account, hold.amount, f"x:{hold.id}:end", parent=hold.id, detail=DETAIL
        )
        if body is not None:
            self._enter(end, hold.account, 0, -hold.amount)
            return body
        left = self._enter(end, hold.account, -hold.amount, -hold.amount)
        self._enter(end, own, hold.amount)
        row.captured = hold.amount
        halves = {"debited_by": end.id, "credited_by": credit.id, "description": "rent"}
        return _body(hold, [left, arrived]) | halves

    def _limit(self, account: int) -> None:
        """It takes no more than its ceiling."""
        request = Request("policy", account, key="p", ceiling=CEILING, actor="me", reason="so")
        row = self._row("policy", account, 0, "p")
        row.policy = 0, CEILING, 0
        entry = self._enter(row, account, 0)
        own = self.accounts[account]
        own.ceiling = CEILING
        change = Policy(row.id, account, own.version, 0, CEILING, 0, "me", "so")
        self.journal.policies.append(change)
        self._seen(request, 200, _body(row, [entry]))

    def _open(self, number: int, floor: int | None) -> None:
        self.accounts[number] = Account(number, 1, 0, 0, 0, floor)
        self.journal.accounts.append(self.accounts[number])

    def _beside(self, account: int, number: int) -> int:
        """An external or a clearing account of the same part."""
        there = id_of(account % len(IDS), number)
        if there not in self.accounts:
            self._open(there, None)
        return there

    def _row(self, kind: str, account: int, amount: int, key: str, **more: Any) -> Transaction:
        self.now_ns += STEP_NS
        number = len(self.journal.transactions) + 1
        other, parent = more.get("other", 0), more.get("parent")
        facts = kind, account, other, amount, key, f"{self.now_ns:020}"
        row = Transaction(number, *facts, None, None, None, None, parent)
        row.detail = more.get("detail", NO_DETAIL)
        self.journal.transactions.append(row)
        return row

    def _enter(
        self, row: Transaction, number: int, amount: int, held_change: int = 0
    ) -> dict[str, Any]:
        account = self.accounts[number]
        account.balance += amount
        account.held += held_change
        account.version += 1
        figures = amount, account.balance, account.held, row.recorded_at, held_change
        self.journal.entries.append(Entry(number, account.version, row.id, 1, *figures))
        return {
            "account_id": number, "currency": "USD", "version": account.version,
            "amount": major(amount), "balance": major(account.balance),
            "held_change": major(held_change), "held": major(account.held),
        }  # fmt: skip

    def _decline(
        self, hold: Transaction, row: Transaction, account: Account, reason: str
    ) -> dict[str, Any]:
        available = account.balance - account.held
        row.reason, row.deciding_account = reason, account.id
        row.deciding_version, row.deciding_available = account.version, available
        decided_on = {
            "account_id": account.id, "currency": "USD", "version": account.version,
            "available": major(available), "balance": major(account.balance),
        }  # fmt: skip
        return {**_body(hold, []), "code": reason, "decided_on": decided_on}

    def _seen(
        self, request: Request, status: int, body: dict[str, Any], invoked_ns: int | None = None
    ) -> None:
        invoked_ns = self.now_ns - STEP_NS if invoked_ns is None else invoked_ns
        self.now_ns += STEP_NS
        completed_ns = self.now_ns - STEP_NS // 2
        self.attempts.append(Attempt("client", invoked_ns, request, completed_ns, status, body))


def _body(row: Transaction, entries: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "transaction_id": row.id,
        "transaction_type": row.kind.upper(),
        "amount": major(row.amount),
        "recorded_at": row.recorded_at,
        "entries": entries,
    }
