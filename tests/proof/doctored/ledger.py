"""A ledger decided by the sequential model, and the journal that the service would keep of it."""

from collections import defaultdict
from typing import Any

import msgspec

from tests.oracle.model import Asked, Name, SequentialLedger
from tests.proof.doctored.inventions import PROPOSED, RARE, RUPEES, SMALL
from tests.proof.history import PLAIN, Request
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
from tests.proof.judging.evidence import CLOSED, OWN, major
from tests.proof.judging.matching import asked_policy

EXTERNAL = {"USD": -1, "INR": -2}
FROZEN = (None, "debits", "credits", "both")
TYPES = {"withdraw": "WITHDRAWAL", "general": "TRANSACTION", "schedule": "TRANSFER"}


class Model(SequentialLedger):
    """What has expired is released when the service comes by, and not by itself."""

    def expire(self, at: Any) -> None:
        pass


class Ledger:
    """Customers' accounts of dollars, and RUPEES; `now` is a timestamp as the journal has it."""

    def __init__(self, customers: int) -> None:
        self.model = Model()
        dollars = (*range(1, customers + 1), *SMALL, *RARE, PROPOSED)
        self.journal = Journal(
            [Account(number, -number, 0, 0, 0, None, currency=c) for c, number in EXTERNAL.items()]
            + [Account(number, 2, 0, 0, 0, 0, currency="INR") for number in RUPEES]
            + [Account(number, 1, 0, 0, 0, 0) for number in dollars],
            [],
            [],
        )
        self.accounts = {account.id: account for account in self.journal.accounts}
        self.rows: dict[int, list[Entry]] = {account: [] for account in self.accounts}
        self.legs: dict[int, list[Entry]] = defaultdict(list)  # by transaction
        for account in self.accounts.values():
            if account.floor is not None:
                self.model.open(account.id, account.currency)

    def decide(self, request: Request, now: str) -> tuple[int, dict[str, Any]]:
        """The status and the body of the answer."""
        self.release_expired(request, now)
        return self._post(request, instruction(request), now)

    def release_expired(self, request: Request, now: str) -> None:
        """Whatever locks an account releases what has expired on it first."""
        parent = request.parent and self.journal.transactions[request.parent - 1]
        locked = {request.account, request.other, *dict(request.legs)}
        if parent:
            locked |= {parent.other, *(entry.account for entry in self.legs[parent.id])}
        for hold in self.journal.holds:
            due = hold.expires_at is not None and hold.expires_at <= now
            if hold.remaining and due and hold.account in locked:
                self.release(hold, now)

    def release(self, hold: Hold, now: str) -> None:
        """A hold has expired."""
        key = f"expiry {hold.id}"
        request = Request("release", hold.account, None, 0, key, parent=hold.id)
        self._post(request, instruction(request), now)

    def execute_due(self, now: str) -> None:
        for schedule in self.journal.schedules:
            if schedule.settled_by is None and schedule.execute_at <= now:
                key = f"execution {schedule.id}"
                request = Request(
                    "transfer", schedule.account, schedule.other, schedule.amount, key,
                    parent=schedule.id,
                )  # fmt: skip
                self.release_expired(request, now)
                execution = {"type": "EXECUTION", "schedule_id": schedule.id}
                self._post(request, {**execution, "idempotency_key": key}, now)

    def _post(self, request: Request, asked: Asked, now: str) -> tuple[int, dict[str, Any]]:
        number = len(self.journal.transactions) + 1
        answer = self.model.do(asked, number, now)
        assert number in self.model.numbered, (request, answer)
        record = self.model.numbered[number]
        row = Transaction(
            number, request.kind, request.account, self._other(request), record["amount"],
            request.key, now, None, None, None, None, request.parent or None,
            detail=self._detail(request),
        )  # fmt: skip
        self.journal.transactions.append(row)
        body = {
            "transaction_id": number,
            "transaction_type": row.kind.upper().replace("WITHDRAW", "WITHDRAWAL"),
            "amount": major(row.amount),
            "recorded_at": now,
        }
        if asked["type"] == "EXECUTION":
            self._schedule(request.parent).settled_by = number
        if record["code"] != "posted":
            return 400, body | self._decline(row, record)
        return 200, {**body, **_shown(row.detail), "entries": self._place(row, request, record)}

    def _decline(self, row: Transaction, record: dict[str, Any]) -> dict[str, Any]:
        """What a decline was decided on; the terms of what was declined are nowhere."""
        (name, version), state = record["decided_on"], record["decided_state"]
        available = state["balance"] - state["held"]
        row.reason, row.deciding_account = record["code"], _id_of(name)
        row.deciding_version, row.deciding_available = version, available
        if row.kind in ("hold", "schedule"):
            row.other = 0
        decided_on = {
            "account_id": row.deciding_account,
            "currency": self.accounts[_id_of(name)].currency,
            "version": version,
            "available": major(available),
            "balance": major(state["balance"]),
        }
        return {"code": row.reason, "decided_on": decided_on}

    def _place(
        self, row: Transaction, request: Request, record: dict[str, Any]
    ) -> list[dict[str, Any]]:
        """The rows of a posted transaction, and its entries as they are answered."""
        row.exchange = request.exchange
        if row.kind == "hold":
            other = row.other or EXTERNAL[self.accounts[row.account].currency]
            times = request.expires_at or None, request.capture_at or None
            self.journal.holds.append(Hold(row.id, row.account, other, row.amount, 0, 0, *times))
        elif row.kind == "schedule":
            terms = row.account, row.other, row.amount, request.execute_at
            self.journal.schedules.append(Schedule(row.id, *terms, None))
        elif row.kind == "cancellation":
            self._schedule(row.parent).settled_by = row.id
        elif row.kind == "policy":
            row.policy = asked_policy(request)
        entries = [self._enter(row, *entry) for entry in _in_order(record)]
        self._keep_policies(row)
        self._keep_holds(row)
        return entries

    def _enter(self, row: Transaction, name: Name, version: int) -> dict[str, Any]:
        line, account = self.model.lines[name][version - 1], self.accounts[_id_of(name)]
        account.balance, account.held, account.version = line.balance, line.held, version
        entry = Entry(
            account.id, version, row.id, account.currency_number, line.change, line.balance,
            line.held, row.recorded_at, line.held_change,
        )  # fmt: skip
        for entries in (self.journal.entries, self.rows[account.id], self.legs[row.id]):
            entries.append(entry)
        return {
            "account_id": account.id,
            "currency": account.currency,
            "amount": major(line.change),
            "balance": major(line.balance),
            "held_change": major(line.held_change),
            "held": major(line.held),
            "version": version,
        }

    def _keep_policies(self, row: Transaction) -> None:
        """A new policy, or who took an account below its floor, and why."""
        for entry in self.legs[row.id]:
            account = self.accounts[entry.account]
            notes = [] if account.floor is None else self.model.policies[account.id][-1:]
            for note in notes:
                if note["version"] != entry.seq:
                    continue
                if row.policy is not None:
                    account.floor, account.ceiling, account.restricted = row.policy
                policy = account.floor or 0, account.ceiling, account.restricted
                told = note["actor"] or None, note["reason"] or None, note.get("forced_to")
                self.journal.policies.append(Policy(row.id, account.id, entry.seq, *policy, *told))

    def _keep_holds(self, row: Transaction) -> None:
        for hold in self.journal.holds:
            if hold.id in (row.id, row.parent):
                kept = self.model.holds[hold.id]
                hold.remaining, hold.captured = kept["remaining"], kept["captured"]

    def _other(self, request: Request) -> int:
        if request.kind in PLAIN and request.other is None:
            return EXTERNAL[self.accounts[request.account].currency]
        return request.other or 0

    def _detail(self, request: Request) -> Detail:
        """Its own; what completes a hold or a schedule has that one's, but for an expiry."""
        own = request.description, request.reference, request.metadata, request.effective_at
        completes = request.kind == "capture" and own == NO_DETAIL
        if completes or (request.key.startswith(OWN) and request.kind != "release"):
            return (*self.journal.transactions[request.parent - 1].detail[:3], "")
        return own

    def _schedule(self, number: int | None) -> Schedule:
        return next(s for s in self.journal.schedules if s.id == number)

    # As it is read

    def state(self, number: int, now: str) -> dict[str, Any]:
        account = self.accounts[number]
        expired = sum(
            hold.remaining for hold in self.journal.holds
            if hold.account == number and hold.expires_at and hold.expires_at <= now
        )  # fmt: skip
        available = account.balance - account.held + expired
        return {
            "id": number, "version": account.version, "available": major(available),
            "balance": major(account.balance), "held": major(account.balance - available),
            "floor": major(account.floor or 0), "frozen": FROZEN[account.restricted & ~CLOSED],
            "closed": account.restricted & CLOSED > 0,
            "ceiling": None if account.ceiling is None else major(account.ceiling),
        }  # fmt: skip

    def page(self, number: int) -> list[dict[str, Any]]:
        return [
            {
                "version": e.seq,
                "balance": major(e.balance),
                "held": major(e.held),
                "transaction_id": e.transaction,
                "amount": major(e.amount),
                "held_change": major(e.held_change),
            }
            for e in self.rows[number][:-101:-1]
        ]


def instruction(request: Request) -> Asked:
    """A client's request as the model reads it."""
    asked: Asked = {"type": TYPES.get(request.kind, request.kind.upper())}
    asked["idempotency_key"] = request.key
    for name in ("effective_at", "expires_at", "capture_at", "execute_at", "force", "final"):
        if value := getattr(request, name):
            asked[name] = value
    for name in ("actor", "description"):
        asked[name] = getattr(request, name)
    return asked | _terms(request)


def _terms(request: Request) -> Asked:
    amount = {"amount": request.amount} if request.amount else {}
    legs = [{"account_id": account, "amount": n} for account, n in request.legs]
    match request.kind:
        case "transfer" | "schedule":
            sides = {"from_account_id": request.account, "to_account_id": request.other}
            return sides | amount
        case "general":
            for account, name, value in request.conditions:
                next(leg for leg in legs if leg["account_id"] == account)[name] = value
            return {"legs": legs} | _exchange(request)
        case "hold":
            return {"account_id": request.account, "to_account_id": request.other} | amount
        case "capture" | "release":
            return {"hold_id": request.parent} | amount
        case "reversal":
            return {"transaction_id": request.parent} | ({"legs": legs} if legs else amount)
        case "cancellation":
            return {"schedule_id": request.parent}
        case "policy":
            return {
                "account_id": request.account, "floor": request.floor, "ceiling": request.ceiling,
                "frozen": request.frozen or None, "closed": request.closed,
                "reason": request.reason,
            }  # fmt: skip
    return {"account_id": request.account} | amount


def _exchange(request: Request) -> Asked:
    if request.exchange is None:
        return {}
    terms = msgspec.structs.asdict(request.exchange)
    terms["rounding_account_id"] = terms.pop("rounding")
    return {"exchange": {name: value for name, value in terms.items() if value}}


def _in_order(record: dict[str, Any]) -> list[tuple[Name, int]]:
    """The entries of a record, an account and a version, in the order of its moves."""
    versions: dict[Name, list[int]] = defaultdict(list)
    for name, version in record["entries"]:
        versions[name].append(version)
    return [(name, versions[name].pop(0)) for name, *_ in record["moves"]]


def _id_of(name: Name) -> int:
    return EXTERNAL[name] if isinstance(name, str) else name


def _shown(detail: Detail) -> dict[str, Any]:
    """What an answer shows of the detail of a request."""
    description, reference, metadata, effective_at = detail
    return {
        "description": description or None,
        "reference": reference or None,
        "effective_at": effective_at or None,
        "metadata": msgspec.json.decode(metadata) if metadata else None,
    }
