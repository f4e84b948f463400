"""Histories that nobody lived: of a ledger that keeps all promises, for the checker's own tests."""

import random
from collections import defaultdict
from typing import Any

import msgspec

from tests.proof.doctored.inventions import RARE, RUPEES, SMALL, Inventions
from tests.proof.history import PLAIN, Attempt, Request
from tests.proof.journal import (
    NO_DETAIL,
    Account,
    Detail,
    Entry,
    Hold,
    Journal,
    Policy,
    Schedule,
    Transaction,
)
from tests.proof.judging.evidence import CLOSED, CREDITS, DEBITS, OWN, major
from tests.proof.judging.exchanges import legs_of
from tests.proof.judging.matching import asked_policy, moved_back

STEP_NS = 1_000
OUTSIDE, OUTSIDE_INDIA = -1, -2


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
            + [Account(OUTSIDE_INDIA, 2, 0, 0, 0, None, currency="INR")]
            + [Account(n, 2, 0, 0, 0, 0, currency="INR") for n in RUPEES]
            + [Account(n, 1, 0, 0, 0, 0) for n in (*range(1, accounts + 1), *SMALL, *RARE)],
            [],
            [],
        )
        self._accounts = {account.id: account for account in self.journal.accounts}
        self._currencies = {account.id: account.currency for account in self.journal.accounts}
        self._rows: dict[int, list[Entry]] = {account: [] for account in self._accounts}
        self._inventions = Inventions(self._random, self.journal, self._accounts)
        self._customers = list(range(1, accounts + 1))
        self._legs: dict[int, list[Entry]] = defaultdict(list)  # by transaction
        self._back: dict[int, list[Entry]] = defaultdict(list)  # by what they reverse
        self._answers: dict[tuple[int, str], tuple[Request, int, dict[str, Any]]] = {}
        for request in self._inventions.funds():
            self._move(request)
        for number in range(operations):
            self._now += STEP_NS
            self._step(number)
        for request in self._inventions.rare(self._number_of) if operations else ():
            self._now += STEP_NS
            self._move(request)
        self._now += 1_000 * STEP_NS  # whatever was to be done at some moment is done
        self._execute_due()
        for hold in self.journal.holds:
            if hold.expires_at is not None and hold.remaining:
                self._post_release(hold)

    def _detail_of(self, request: Request) -> Detail:
        own = request.description, request.reference, request.metadata, request.effective_at
        completes = request.kind == "capture" and own == NO_DETAIL
        if completes or request.key.startswith(OWN):
            return (*self.journal.transactions[request.parent - 1].detail[:3], "")
        return own

    def _outside(self, account: int) -> int:
        return OUTSIDE if self._accounts[account].currency == "USD" else OUTSIDE_INDIA

    def _number_of(self, key: str) -> int:
        return next(t.id for t in self.journal.transactions if t.key == key)

    def _step(self, number: int) -> None:
        chance = self._random.random()
        if chance > 0.8:
            self._execute_due()
        account, other = self._random.sample(self._customers, 2)
        if chance < 0.1:
            self._attempt(Request("account", account), 200, self._state(account))
        elif chance < 0.15:
            self._attempt(
                Request("accounts"),
                200,
                [self._state(a) for a in (*self._customers, *SMALL, *RARE, *RUPEES)],
            )
        elif chance < 0.2:
            self._attempt(Request("history", account), 200, self._page(account))
        elif chance < 0.25:
            self._look_up()
        elif chance < 0.4 and self._answers:
            self._repeat()
        elif chance < 0.43:
            self._group(number)
        else:
            asked = self._inventions.movement(account, other, f"k{number}", self._moment)
            self._move(self._inventions.detailed(asked))

    def _objection(self, request: Request) -> tuple[Account, str] | None:
        """Why it cannot be, whatever it is to move."""
        own = self._accounts[request.account]
        if request.kind == "policy":
            if own.restricted & CLOSED:
                return own, "account_closed"
            if request.closed and (own.balance or own.held):
                return own, "balance_not_zero"
            if request.ceiling is not None and request.ceiling < request.floor:
                return own, "policy_conflict"
        if request.kind == "schedule":
            sides = [own, self._accounts[request.other or 0]]
            closed = next((side for side in sides if side.restricted & CLOSED), None)
            return None if closed is None else (closed, "account_closed")
        unmet = self._unmet(request)
        return None if unmet is None else (unmet, "condition_failed")

    def _unmet(self, request: Request) -> Account | None:
        """The account of which something is demanded that is not so."""
        for number, name, value in request.conditions:
            now = self._accounts[number]
            met = {
                "available_at_least": now.balance - now.held >= value,
                "balance_at_least": now.balance >= value,
                "version": now.version == value,
            }
            if not met[name]:
                return now
        return None

    def _moment(self, later: int = 0) -> str:
        return f"{self._now + later * STEP_NS:020}"

    def _attempt(self, request: Request, status: int | None, body: Any, **more: Any) -> None:
        before = self._random.randint(0, self._spread * STEP_NS)
        after = self._random.randint(1, self._spread * STEP_NS)
        completed = None if status is None else self._now + after
        client = f"client{more.get('group', len(self.attempts)) % 7}"
        invoked = self._now - before
        self.attempts.append(Attempt(client, invoked, request, completed, status, body, **more))

    def _group(self, number: int) -> None:
        """Posted together, or not at all; or with an answer that was lost, and asked for again."""
        account, other = self._random.sample(self._customers, 2)
        requests = [
            Request("deposit", account, None, 5 + n, f"k{number}.{n}") for n in range(2)
        ] + [Request("schedule", account, other, 3, f"k{number}.2", execute_at=self._moment(20))]
        fate, group = self._random.random(), len(self.attempts)
        if fate < 0.3 or self._restricted(account):
            for request in requests:
                self._attempt(request, 409, {"code": "batch_failed"}, group=group)
            return
        answers = [(request, *self._decide(request)) for request in requests]
        if fate < 0.5:
            for request in requests:
                self._attempt(request, None, None, group=group)
        for request, status, body in answers:
            self._attempt(
                request, status, body, replayed=fate < 0.5, group=group + 3 * (fate < 0.5)
            )

    def _restricted(self, number: int) -> bool:
        account = self._accounts[number]
        return account.restricted > 0 or account.ceiling is not None

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
            (first, amount), *legs = request.legs or ((0, 0),)
            changed = ((first, amount - 1), *legs) if request.legs else ()
            other = msgspec.structs.replace(request, amount=request.amount + 1, legs=changed)
            if request.kind == "policy":
                other = msgspec.structs.replace(request, floor=request.floor - 1)
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
        self._release_expired(request)
        moves, amount, reason = self._moves(request)
        row = self._row(request, moves, amount)
        return self._post(row, moves, reason, request)

    def _row(self, request: Request, moves: list[tuple[int, int, int]], amount: int) -> Transaction:
        other = moves[1][0] if request.kind in PLAIN else request.other or 0
        policy = asked_policy(request)
        return Transaction(
            len(self.journal.transactions) + 1, request.kind, request.account, other, amount,
            request.key, self._moment(), None, None, None, None, request.parent or None,
            policy if request.kind == "policy" else None, request.exchange,
            self._detail_of(request),
        )  # fmt: skip

    def _post(
        self,
        row: Transaction,
        moves: list[tuple[int, int, int]],
        reason: str | None,
        request: Request,
    ) -> tuple[int, dict[str, Any]]:
        body = {
            "transaction_id": row.id,
            "transaction_type": row.kind.upper().replace("WITHDRAW", "WITHDRAWAL"),
            "amount": major(row.amount),
            "recorded_at": row.recorded_at,
        }
        self.journal.transactions.append(row)
        decider = self._accounts[row.account] if reason else None
        if decider is None and (objection := self._objection(request)) is not None:
            decider, reason = objection
        if decider is None and (refused := self._refused(moves, request.force)) is not None:
            decider, reason = refused
        if decider is None:
            self._place(row, request)
            entries = [self._enter(*move, row.id, row.recorded_at) for move in moves]
            self._step_hold(row)
            if row.kind == "reversal":
                self._back[row.parent or 0] += self._legs[row.id]
            if request.force:
                self._tell(row, request)
            return 200, {**body, **_told(row.detail), "entries": entries}
        row.reason, row.deciding_account, row.policy = reason, decider.id, None
        row.exchange = None
        if row.kind in ("hold", "schedule"):
            row.other = 0  # it has no terms that would tell
        row.deciding_version = decider.version
        row.deciding_available = decider.balance - decider.held
        decided_on = {
            "account_id": decider.id,
            "version": decider.version,
            "available": major(row.deciding_available),
            "balance": major(decider.balance),
        }
        return 400, {**body, "code": row.reason, "decided_on": decided_on}

    def _place(self, row: Transaction, request: Request) -> None:
        """What a posted transaction leaves beside its entries."""
        if row.kind == "hold":
            other = row.other or self._outside(row.account)
            expires_at = request.expires_at or None
            hold = Hold(row.id, row.account, other, row.amount, 0, 0, expires_at, None)
            self.journal.holds.append(hold)
        elif row.kind == "schedule":
            when = (request.execute_at, None)
            schedule = Schedule(row.id, row.account, row.other, row.amount, *when)
            self.journal.schedules.append(schedule)
        elif row.kind == "cancellation":
            self._schedule(row.parent).settled_by = row.id
        elif row.policy is not None:
            account = self._accounts[row.account]
            account.floor, account.ceiling, account.restricted = row.policy
            asked_by = request.actor or None, request.reason or None
            change = Policy(row.id, row.account, account.version + 1, *row.policy, *asked_by)
            self.journal.policies.append(change)

    def _schedule(self, number: int | None) -> Schedule:
        return next(s for s in self.journal.schedules if s.id == number)

    def _execute_due(self) -> None:
        for schedule in self.journal.schedules:
            if schedule.settled_by is None and schedule.execute_at <= self._moment():
                key = f"execution {schedule.id}"
                request = Request(
                    "transfer", schedule.account, schedule.other, schedule.amount, key,
                    parent=schedule.id,
                )  # fmt: skip
                self._decide(request)
                schedule.settled_by = len(self.journal.transactions)

    def _release_expired(self, request: Request) -> None:
        """What has expired on the accounts that are to move is released first."""
        touched = {account for account, *_ in self._moves(request)[0]} | {
            request.account,
            request.other,
        }
        for hold in self.journal.holds:
            due = hold.expires_at is not None and hold.expires_at <= self._moment()
            if hold.remaining and due and hold.account in touched:
                self._post_release(hold)

    def _post_release(self, hold: Hold) -> None:
        number, moment = len(self.journal.transactions) + 1, self._moment()
        row = Transaction(
            number, "release", hold.account, 0, hold.remaining, f"expiry {hold.id}", moment,
            None, None, None, None, hold.id,
        )  # fmt: skip
        self.journal.transactions.append(row)
        self._enter(hold.account, 0, -hold.remaining, number, moment)
        self._step_hold(row)

    def _moves(self, request: Request) -> tuple[list[tuple[int, int, int]], int, str | None]:
        """Accounts, amounts and changes of held; the amount; and why it cannot be, or None."""
        account, amount = request.account, request.amount
        if request.kind in ("schedule", "policy"):
            return [(account, 0, 0)], amount, None
        if request.kind == "cancellation":
            schedule = self._schedule(request.parent)
            late = schedule.settled_by is not None or schedule.execute_at <= self._moment()
            return [(account, 0, 0)], 0, "schedule_settled" if late else None
        if request.kind in PLAIN:
            change = amount if request.kind == "deposit" else -amount
            other = request.other or self._outside(account)
            return [(account, change, 0), (other, -change, 0)], amount, None
        if request.kind == "general":
            legs = legs_of(request, self._currencies)
            return [(a, n, 0) for a, n in legs], amount, None
        if request.kind == "hold":
            return [(account, 0, amount)], amount, None
        if request.kind == "reversal":
            return self._reversal(request)
        [hold] = [hold for hold in self.journal.holds if hold.id == request.parent]
        meant = amount or hold.remaining
        reason = "hold_exceeded" if meant > hold.remaining else None
        if not hold.remaining:
            meant, reason = meant or hold.amount, "hold_closed"
        if request.kind == "release":
            return [(account, 0, -meant)], meant, reason
        return [(account, -meant, -meant), (hold.other, meant, 0)], meant, reason

    def _reversal(self, request: Request) -> tuple[list[tuple[int, int, int]], int, str | None]:
        left: dict[int, int] = {}
        for entry in (*self._legs[request.parent], *self._back[request.parent]):
            left[entry.account] = left.get(entry.account, 0) + entry.amount
        moves = dict(request.legs) or moved_back(left, request.amount)
        exceeded = not moves or any(
            n * left[a] >= 0 or abs(n) > abs(left[a]) for a, n in moves.items()
        )
        amount = abs(moves.get(request.account, 0))
        reason = "reversal_exceeded" if exceeded else None
        return [(account, n, 0) for account, n in moves.items()], amount, reason

    def _tell(self, row: Transaction, request: Request) -> None:
        """Of what was forced it is kept who took an account below its floor, and why."""
        for entry in self._legs[row.id]:
            account = self._accounts[entry.account]
            available = account.balance - account.held
            if entry.amount < 0 and account.floor is not None and available < account.floor:
                policy = account.floor, account.ceiling, account.restricted
                told = request.actor, request.description, available
                change = Policy(row.id, account.id, account.version, *policy, *told)
                self.journal.policies.append(change)

    def _step_hold(self, row: Transaction) -> None:
        for hold in self.journal.holds:
            if hold.id in (row.id, row.parent):
                sign = 1 if row.kind == "hold" else -1
                hold.remaining += sign * row.amount
                hold.captured += row.amount if row.kind == "capture" else 0

    def _refused(
        self, moves: list[tuple[int, int, int]], forced: bool
    ) -> tuple[Account, str] | None:
        for number, change, held_change in moves:
            account = self._accounts[number]
            balance = account.balance + change
            debit = change < 0 or held_change > 0
            if account.floor is None:
                continue
            if account.restricted & CLOSED and (debit or change > 0):
                return account, "account_closed"
            if (debit and account.restricted & DEBITS) or (
                change > 0 and account.restricted & CREDITS
            ):
                return account, "account_frozen"
            below = balance - account.held - held_change < account.floor
            if change < held_change and below and not forced:
                return account, "insufficient_funds"
            if change > 0 and account.ceiling is not None and balance > account.ceiling:
                return account, "balance_ceiling"
        return None

    def _enter(
        self, of: int, change: int, held_change: int, number: int, moment: str
    ) -> dict[str, Any]:
        account = self._accounts[of]
        account.balance += change
        account.held += held_change
        account.version += 1
        entry = Entry(
            account.id, account.version, number, account.currency_number, change,
            account.balance, account.held, moment, held_change,
        )  # fmt: skip
        self.journal.entries.append(entry)
        self._rows[of].append(entry)
        self._legs[number].append(entry)
        return {
            "account_id": account.id,
            "amount": major(change),
            "balance": major(account.balance),
            "version": account.version,
        }

    def _state(self, number: int) -> dict[str, Any]:
        account = self._accounts[number]
        expired = sum(
            hold.remaining for hold in self.journal.holds
            if hold.account == number and hold.expires_at and hold.expires_at <= self._moment()
        )  # fmt: skip
        available = account.balance - account.held + expired
        frozen = [None, "debits", "credits", "both"]
        return {
            "id": number, "version": account.version, "available": major(available),
            "balance": major(account.balance), "held": major(account.balance - available),
            "floor": major(account.floor or 0), "frozen": frozen[account.restricted & ~CLOSED],
            "closed": account.restricted & CLOSED > 0,
            "ceiling": None if account.ceiling is None else major(account.ceiling),
        }  # fmt: skip

    def _page(self, number: int) -> list[dict[str, Any]]:
        newest = self._rows[number][:-101:-1]
        return [
            {
                "version": e.seq,
                "balance": major(e.balance),
                "held": major(e.held),
                "transaction_id": e.transaction,
                "amount": major(e.amount),
                "held_change": major(e.held_change),
            }
            for e in newest
        ]


def _told(detail: Detail) -> dict[str, Any]:
    """What an answer tells of what was added."""
    description, reference, metadata, effective_at = detail
    told = {"description": description, "reference": reference, "effective_at": effective_at}
    if metadata:
        told["metadata"] = msgspec.json.decode(metadata)
    return {name: value for name, value in told.items() if value}
