"""Histories that nobody lived: of a ledger that keeps all promises, for the checker's own tests."""

import random
from typing import Any

import msgspec

from tests.proof.history import Attempt, Request
from tests.proof.journal import Account, Entry, Journal, Transaction

STEP_NS = 1_000
OUTSIDE = -1


class Fabricated:
    """A ledger decided one operation after another, seen by clients that overlap.

    Operation i takes effect at i steps; it was invoked up to `spread` steps before, and completed
    up to as many after. A fifth of the movements are sent twice, some lose their answer first.
    """

    def __init__(self, operations: int, seed: int, accounts: int = 6, spread: int = 12) -> None:
        self._random = random.Random(seed)
        self._spread = spread
        self._now = 0
        self.attempts: list[Attempt] = []
        self.journal = Journal(
            [Account(OUTSIDE, 1, 0, 0, 0, None)]
            + [Account(n, 1, 0, 0, 0, 0) for n in range(1, accounts + 1)],
            [],
            [],
        )
        self._accounts = {account.id: account for account in self.journal.accounts}
        self._rows: dict[int, list[Entry]] = {account: [] for account in self._accounts}
        self._customers = [account for account in self._accounts if account > 0]
        self._answers: dict[tuple[int, str], tuple[Request, int, dict[str, Any]]] = {}
        for number in range(operations):
            self._now += STEP_NS
            self._step(number)

    def _step(self, number: int) -> None:
        chance = self._random.random()
        account, other = self._random.sample(self._customers, 2)
        if chance < 0.1:
            self._attempt(Request("account", account), 200, self._state(account))
        elif chance < 0.15:
            self._attempt(Request("accounts"), 200, [self._state(a) for a in self._customers])
        elif chance < 0.2:
            self._attempt(Request("history", account), 200, self._page(account))
        elif chance < 0.25:
            self._look_up()
        elif chance < 0.4 and self._answers:
            self._repeat()
        else:
            kind = self._random.choice(["deposit", "withdraw", "transfer", "transfer"])
            amount = self._random.randint(1, 50)
            counterparty = other if kind == "transfer" else None
            self._move(Request(kind, account, counterparty, amount, f"k{number}"))

    def _attempt(self, request: Request, status: int | None, body: Any, **more: Any) -> None:
        before = self._random.randint(0, self._spread * STEP_NS)
        after = self._random.randint(1, self._spread * STEP_NS)
        completed = None if status is None else self._now + after
        client = f"client{len(self.attempts) % 7}"
        invoked = self._now - before
        self.attempts.append(Attempt(client, invoked, request, completed, status, body, **more))

    def _move(self, request: Request) -> None:
        status, body = self._decide(request)
        self._answers[request.account, request.key] = request, status, body
        if self._random.random() < 0.1:
            self._attempt(request, None, None)
            self._now += STEP_NS
            self._attempt(request, status, body, replayed=True)
        else:
            self._attempt(request, status, body)

    def _repeat(self) -> None:
        request, status, body = self._random.choice(list(self._answers.values()))
        if self._random.random() < 0.3:
            other = msgspec.structs.replace(request, amount=request.amount + 1)
            self._attempt(other, 422, {"code": "idempotency_key_reused"})
        else:
            self._attempt(request, status, body, replayed=True)

    def _look_up(self) -> None:
        if self._answers and self._random.random() < 0.5:
            request, _, body = self._random.choice(list(self._answers.values()))
            self._attempt(Request("key", request.account, key=request.key), 200, body)
        else:
            self._attempt(Request("key", 1, key=f"k{self._now}"), 404, {"code": "key_not_found"})

    def _decide(self, request: Request) -> tuple[int, dict[str, Any]]:
        amount = request.amount if request.kind == "deposit" else -request.amount
        moves = [(request.account, amount), (request.other or OUTSIDE, -amount)]
        number, moment = len(self.journal.transactions) + 1, f"{self._now:020}"
        body = {
            "transaction_id": number,
            "transaction_type": request.kind.upper().replace("WITHDRAW", "WITHDRAWAL"),
            "amount": major(request.amount),
            "recorded_at": moment,
        }
        row = Transaction(
            number, request.kind, moves[0][0], moves[1][0], request.amount, request.key, moment,
            None, None, None, None,
        )  # fmt: skip
        self.journal.transactions.append(row)
        short = self._short(moves)
        if short is None:
            return 200, {**body, "entries": [self._enter(*move, number, moment) for move in moves]}
        row.reason, row.deciding_account = "insufficient_funds", short.id
        row.deciding_version, row.deciding_available = short.version, short.balance
        decided_on = {
            "account_id": short.id,
            "version": short.version,
            "available": major(short.balance),
        }
        return 400, {**body, "code": row.reason, "decided_on": decided_on}

    def _short(self, moves: list[tuple[int, int]]) -> Account | None:
        for number, change in moves:
            account = self._accounts[number]
            if account.floor is not None and account.balance + change < account.floor:
                return account
        return None

    def _enter(self, of: int, change: int, number: int, moment: str) -> dict[str, Any]:
        account = self._accounts[of]
        account.balance += change
        account.version += 1
        entry = Entry(account.id, account.version, number, 1, change, account.balance, 0, moment)
        self.journal.entries.append(entry)
        self._rows[of].append(entry)
        return {
            "account_id": account.id,
            "amount": major(change),
            "balance": major(account.balance),
            "version": account.version,
        }

    def _state(self, number: int) -> dict[str, Any]:
        account = self._accounts[number]
        return {"id": number, "version": account.version, "available": major(account.balance)}

    def _page(self, number: int) -> list[dict[str, Any]]:
        newest = self._rows[number][:-101:-1]
        return [{"version": e.seq, "balance": major(e.balance)} for e in newest]


def major(amount: int) -> str:
    """Minor units as an answer has them."""
    sign = "-" if amount < 0 else ""
    return f"{sign}{abs(amount) // 100}.{abs(amount) % 100:02}"
