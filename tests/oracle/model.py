"""The sequential model: the ledger as plain dicts, one instruction after another.

An instruction is an item of a batch, as a dict, with its amounts in whole minor units. An account
is named by its id, the external account of a currency by the currency's code. What the model
cannot know it is told: a transaction's id, and when it was recorded.
"""

import copy
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from fractions import Fraction
from typing import Any, NamedTuple

from msgspec import Raw

from ledgerservice.domain.amounts import MAX_AMOUNT_MINOR, MAX_BALANCE_MINOR, to_major

# HOURS is a unit of our own, which the tests add.
EXPONENTS = {"USD": 2, "INR": 2, "JPY": 0, "HOURS": 3}

Name = int | str
Asked = dict[str, Any]
Move = tuple[Name, int, int]
"""An account, and by how much its balance and what is held of it change."""


class Line(NamedTuple):
    """One line of an account's history; the version is its place, from 1."""

    kind: str
    key: str
    change: int
    balance: int
    held_change: int
    held: int


class Answer(NamedTuple):
    """`posted`, or the code of the refusal, and whether it is the repeat of an earlier answer."""

    code: str
    replayed: bool = False


class Refused(Exception):
    """The code of a refusal, and the account whose state is the reason."""


DECLINES = {
    "insufficient_funds", "balance_limit", "balance_ceiling", "balance_not_zero", "account_frozen",
    "account_closed", "condition_failed", "hold_exceeded", "hold_closed", "reversal_exceeded",
    "policy_conflict", "schedule_settled",
}  # fmt: skip

STEPS = {
    "CAPTURE": ("hold_id", "hold_not_found"),
    "RELEASE": ("hold_id", "hold_not_found"),
    "REVERSAL": ("transaction_id", "transaction_not_found"),
    "EXECUTION": ("schedule_id", "schedule_not_found"),
    "CANCELLATION": ("schedule_id", "schedule_not_found"),
}
"""What builds on a transaction: the field that names it, and what it is without one."""

REVERSIBLE = {"DEPOSIT", "WITHDRAWAL", "TRANSFER", "GENERAL", "CAPTURE"}
UNLIMITED: dict[str, Any] = {"floor": 0, "ceiling": None, "frozen": None, "closed": False}
LIMITS = tuple(UNLIMITED)
AMOUNTS = {"amount", "floor", "ceiling", "available_at_least", "balance_at_least"}
BY_THE_SERVICE = ("expiry ", "capture ", "execution ")
"""How the keys of the service's own instructions begin; here no caller uses such a key."""
EXPIRY = "expiry "


def plainly(minor: int, exponent: int) -> Raw:
    """The JSON of an amount as it is answered."""
    return Raw(f'"{to_major(minor, exponent)}"'.encode())


@dataclass
class SequentialLedger:
    """Accounts, their lines and policies, each key's record, and what there is to build on."""

    accounts: dict[Name, dict[str, Any]] = field(default_factory=dict)
    lines: dict[Name, list[Line]] = field(default_factory=dict)
    policies: dict[Name, list[dict[str, Any]]] = field(default_factory=dict)
    records: dict[tuple[Name, str], dict[str, Any]] = field(default_factory=dict)
    numbered: dict[int | None, dict[str, Any]] = field(default_factory=dict)
    holds: dict[int | None, dict[str, Any]] = field(default_factory=dict)
    schedules: dict[int | None, dict[str, Any]] = field(default_factory=dict)
    times: dict[Name, list[tuple[Any, Any]]] = field(default_factory=dict)
    """When each line was recorded, and when it takes effect; an expiry does when the hold ends."""
    at: Any = None

    def open(self, account: int, currency: str) -> None:
        for name, floor in ((account, 0), (currency, None)):
            if name not in self.accounts:
                figures = {"currency": currency, "balance": 0, "held": 0}
                self.accounts[name] = figures | UNLIMITED | {"floor": floor}
                self.lines[name], self.policies[name], self.times[name] = [], [], []

    def do(self, asked: Asked, number: int | None = None, at: Any = None) -> Answer:
        """Judge in the written order: syntax, key seen, existence, currency, amount, state."""
        self.expire(at)
        self.at = self.at if at is None else at
        kind, key = self.kind(asked), asked["idempotency_key"]
        account, parent = self.scope(asked), None
        if kind in STEPS:
            parent = asked[STEPS[kind][0]]
            if parent not in self.numbered:
                return Answer(STEPS[kind][1])
        if kind == "TRANSFER" and account == asked["to_account_id"]:
            return Answer("same_account")
        if (account, key) in self.records:
            first = self.records[account, key]
            same = first["asked"] == asked
            return Answer(first["code"], True) if same else Answer("idempotency_key_reused")
        record: dict[str, Any] = {
            "asked": asked,
            "number": number,
            "kind": {"EXECUTION": "TRANSFER"}.get(kind, kind),
            "account": account,
            "parent": parent,
            "at": self.at,
            "code": "posted",
            "amount": 0,
            "moves": [],
            "entries": [],
        }
        try:
            getattr(self, kind.lower())(asked, record, at)
        except Refused as refused:
            code, name = (*refused.args, None)[:2]
            if code not in DECLINES:
                return Answer(code)
            record |= {"code": code, "decided_on": (name, len(self.lines[name]))}
            record |= {"decided_state": dict(self.accounts[name])}
        self.records[account, key] = record
        self.numbered[number] = record
        return Answer(record["code"])

    def do_linked(
        self, items: Sequence[Asked], numbers: Iterable[int | None], at: Any
    ) -> list[Answer] | tuple[int, Answer]:
        """All or none: the answers, or the place of the first that was not posted, and its."""
        self.expire(at)
        trial, answers = copy.deepcopy(self), []
        for index, (asked, number) in enumerate(zip(items, numbers, strict=True)):
            answers.append(trial.do(asked, number, at))
            if answers[-1].code != "posted":
                return index, answers[-1]
        self.__dict__.update(trial.__dict__)
        return answers

    def expire(self, at: Any) -> None:
        """Release what has expired by then."""
        for number, hold in self.holds.items():
            over = hold["expires_at"] is not None and at is not None and hold["expires_at"] <= at
            if over and hold["remaining"]:
                key = f"{EXPIRY}{number}"
                self.at = hold["expires_at"]
                self.do({"type": "RELEASE", "hold_id": number, "idempotency_key": key})
                hold["expired"] = True

    @staticmethod
    def kind(asked: Asked) -> str:
        if asked["type"] == "TRANSFER" and "execute_at" in asked:
            return "SCHEDULE"
        named: str = asked["type"]
        return "GENERAL" if named == "TRANSACTION" else named

    def scope(self, asked: Asked) -> Name:
        """The account that the key is of."""
        if asked["type"] in STEPS:
            parent = self.numbered.get(asked[STEPS[asked["type"]][0]], {"account": 0})
            name: Name = parent["account"]
            return name
        own = asked["legs"][0] if "legs" in asked else asked
        return own.get("account_id") or own.get("from_account_id") or 0

    def available(self, name: Name) -> int:
        figures: int = self.accounts[name]["balance"] - self.accounts[name]["held"]
        return figures

    def then(self, name: Name, at: datetime) -> dict[str, Any]:
        """The account as of a moment, and the balance of all that takes effect by then."""
        timed = list(zip(self.lines[name], self.times[name], strict=True))
        past = [line for line, (recorded_at, _) in timed if recorded_at <= at]
        changes = [c for c in self.policies[name] if self.times[name][c["version"] - 1][0] <= at]
        limits = changes[-1] if changes else UNLIMITED
        return {limit: limits[limit] for limit in LIMITS} | {
            "balance": sum(line.change for line in past),
            "held": sum(line.held_change for line in past),
            "effective": sum(
                line.change for line, (_, effective_at) in timed if effective_at <= at
            ),
            "version": len(past),
        }

    # The kinds

    def deposit(self, asked: Asked, record: dict[str, Any], _: Any) -> None:
        own, amount = self.known(asked["account_id"]), asked["amount"]
        outside = self.accounts[own]["currency"]
        self.limit(record, amount)
        self.post(record, [(own, amount, 0), (outside, -amount, 0)])

    def withdrawal(self, asked: Asked, record: dict[str, Any], _: Any) -> None:
        self.deposit(asked | {"amount": -asked["amount"]}, record, _)

    def transfer(self, asked: Asked, record: dict[str, Any], _: Any) -> None:
        own, other = self.pair(asked["from_account_id"], asked["to_account_id"])
        self.limit(record, asked["amount"])
        self.post(record, [(own, -asked["amount"], 0), (other, asked["amount"], 0)])

    def general(self, asked: Asked, record: dict[str, Any], _: Any) -> None:
        moves: list[Move] = []
        unmet = None
        for leg in asked["legs"]:
            name = self.known(leg["account_id"])
            account = self.accounts[name]
            if leg.get("currency", account["currency"]) != account["currency"]:
                raise Refused("currency_mismatch")
            self.limit(record, leg["amount"])
            met = (
                self.available(name) >= leg.get("available_at_least", -(10**19))
                and account["balance"] >= leg.get("balance_at_least", -(10**19))
                and leg.get("version", len(self.lines[name])) == len(self.lines[name])
            )
            unmet = name if unmet is None and not met else unmet
            moves.append((name, leg["amount"], 0))
        record["amount"] = abs(moves[0][1])
        if "exchange" in asked:
            moves += self.rounding(moves, **asked["exchange"])
        self.balanced(moves)
        if unmet is not None:
            raise Refused("condition_failed", unmet)
        self.post(record, moves)

    def rounding(
        self,
        moves: list[Move],
        sell: str,
        buy: str,
        rate: str,
        rounding_account_id: int | None = None,
        sold: str | None = None,
    ) -> list[Move]:
        nets = sums(moves).items()
        sales = [change for name, change in nets if self.accounts[name]["currency"] == sell]
        bought = [change for name, change in nets if self.accounts[name]["currency"] == buy]
        if sell == buy or not sales or not bought:
            raise Refused("rate_mismatch")
        most = Fraction(sum(c for c in sales if c > 0), 10 ** EXPONENTS.get(sell, 0))
        exchanged = most if sold is None else Fraction(sold)
        exact = Fraction(rate) * exchanged * 10 ** EXPONENTS.get(buy, 0)
        if exchanged > most or abs(sum(-c for c in bought if c < 0) - exact) >= 1:
            raise Refused("rate_mismatch")
        if rounding_account_id is None:
            return []
        name = self.known(rounding_account_id)
        if self.accounts[name]["currency"] != buy:
            raise Refused("currency_mismatch")
        rest = -sum(bought)
        return [(name, rest, 0)] if 0 < abs(rest) <= len([c for c in bought if c > 0]) else []

    def hold(self, asked: Asked, record: dict[str, Any], at: Any) -> None:
        own, other = self.pair(asked["account_id"], asked.get("to_account_id"))
        if own == other:
            raise Refused("same_account")
        self.limit(record, asked["amount"])
        expires_at = asked.get("expires_at")
        if expires_at is not None and at is not None and expires_at <= at:
            raise Refused("expiry_passed")
        self.post(record, [(own, 0, asked["amount"])])
        sides = {"account": own, "other": other, "amount": asked["amount"], "captured": 0}
        times = {"expires_at": expires_at, "capture_at": asked.get("capture_at"), "expired": False}
        self.holds[record["number"]] = sides | times | {"remaining": asked["amount"]}
        record["remaining"] = asked["amount"]

    def of_hold(self, asked: Asked, record: dict[str, Any]) -> dict[str, Any]:
        """The hold, of which the record gets the amount that is asked for."""
        if asked["hold_id"] not in self.holds:
            raise Refused("hold_not_found")
        hold = self.holds[asked["hold_id"]]
        self.limit(record, asked.get("amount", hold["remaining"] or hold["amount"]))
        if not hold["remaining"]:
            raise Refused("hold_closed", hold["account"])
        if record["amount"] > hold["remaining"]:
            raise Refused("hold_exceeded", hold["account"])
        return hold

    def capture(self, asked: Asked, record: dict[str, Any], _: Any) -> None:
        hold = self.of_hold(asked, record)
        amount = record["amount"]
        freed = hold["remaining"] if asked.get("final") else amount
        self.post(record, [(hold["account"], -amount, -freed), (hold["other"], amount, 0)])
        hold["remaining"] -= freed
        hold["captured"] += amount
        record["remaining"] = hold["remaining"]

    def release(self, asked: Asked, record: dict[str, Any], _: Any) -> None:
        hold = self.of_hold(asked, record)
        self.post(record, [(hold["account"], 0, -record["amount"])])
        hold["remaining"] -= record["amount"]
        record["remaining"] = hold["remaining"]

    def reversal(self, asked: Asked, record: dict[str, Any], _: Any) -> None:
        original, own = self.numbered[asked["transaction_id"]], record["account"]
        if original["kind"] not in REVERSIBLE or original["code"] != "posted":
            raise Refused("not_reversible")
        back = [r for r in self.records.values() if r["kind"] == "REVERSAL" and r["moves"]]
        back = [r for r in back if r["parent"] == asked["transaction_id"]]
        whole = sums(original["moves"])
        left = sums([move for r in (original, *back) for move in r["moves"]])
        moves = [(name, -change, 0) for name, change in left.items() if change]
        if "legs" in asked:
            moves = []
            if not {leg["account_id"] for leg in asked["legs"]} <= whole.keys():
                raise Refused("account_not_found")
            for leg in asked["legs"]:
                moves.append((self.known(leg["account_id"]), leg["amount"], 0))
                self.limit(record, leg["amount"])
            if len(dict.fromkeys(name for name, *_ in moves)) < len(moves):
                raise Refused("legs_unbalanced")
            self.balanced(moves)
        elif "amount" in asked:
            if len(whole) != 2:
                raise Refused("legs_unbalanced")
            self.limit(record, asked["amount"])
            amount = asked["amount"]
            moves = [(name, -amount if was > 0 else amount, 0) for name, was in whole.items()]
        record["amount"] = sum(abs(change) for name, change, _ in moves if name == own)
        if not moves or not all(left[n] and 0 < Fraction(-c, left[n]) <= 1 for n, c, _ in moves):
            raise Refused("reversal_exceeded", own)
        self.post(record, moves, forced=asked.get("force", False))
        for name, change, _ in moves if asked.get("force") else ():
            floor = self.accounts[name]["floor"]
            if change < 0 and floor is not None and self.available(name) < floor:
                by = {"actor": asked.get("actor"), "reason": asked.get("description")}
                self.note(name, **by, forced_to=self.available(name))

    def policy(self, asked: Asked, record: dict[str, Any], _: Any) -> None:
        name = self.known(asked["account_id"])
        account = self.accounts[name]
        changed = account | {limit: asked[limit] for limit in LIMITS if limit in asked}
        if any(abs(changed[limit] or 0) > MAX_BALANCE_MINOR for limit in ("floor", "ceiling")):
            raise Refused("amount_limit")
        if account["closed"]:
            raise Refused("account_closed", name)
        if changed["closed"] and (account["balance"] or account["held"]):
            raise Refused("balance_not_zero", name)
        if changed["ceiling"] is not None and changed["ceiling"] < changed["floor"]:
            raise Refused("policy_conflict", name)
        self.post(record, [(name, 0, 0)])
        self.accounts[name] |= {limit: changed[limit] for limit in LIMITS}
        self.note(name, actor=asked.get("actor"), reason=asked.get("reason"))

    def note(self, name: Name, **facts: Any) -> None:
        limits = {limit: self.accounts[name][limit] for limit in LIMITS}
        self.policies[name].append(limits | {"version": len(self.lines[name])} | facts)

    def schedule(self, asked: Asked, record: dict[str, Any], _: Any) -> None:
        own, other = self.pair(asked["from_account_id"], asked["to_account_id"])
        if own == other:
            raise Refused("same_account")
        self.limit(record, asked["amount"])
        for name in (own, other):
            if self.accounts[name]["closed"]:
                raise Refused("account_closed", name)
        self.post(record, [(own, 0, 0)])
        sides = {"account": own, "other": other, "amount": asked["amount"]}
        when = {"execute_at": asked["execute_at"], "status": "pending"}
        self.schedules[record["number"]] = sides | when

    def execution(self, asked: Asked, record: dict[str, Any], at: Any) -> None:
        schedule = self.schedules.get(asked["schedule_id"], {"status": None})
        early = at is not None and schedule["status"] and at < schedule["execute_at"]
        if schedule["status"] != "pending" or early:
            raise Refused("schedule_not_found")
        own, other, amount = schedule["account"], schedule["other"], schedule["amount"]
        record["amount"], schedule["status"] = amount, "declined"
        self.post(record, [(own, -amount, 0), (other, amount, 0)])
        schedule["status"] = "executed"

    def cancellation(self, asked: Asked, record: dict[str, Any], at: Any) -> None:
        if asked["schedule_id"] not in self.schedules:
            raise Refused("schedule_not_found")
        schedule = self.schedules[asked["schedule_id"]]
        due = at is not None and schedule["execute_at"] <= at
        if schedule["status"] != "pending" or due:
            raise Refused("schedule_settled", record["account"])
        self.post(record, [(record["account"], 0, 0)])
        schedule["status"] = "cancelled"

    # What the kinds share

    def known(self, name: Any) -> Name:
        if name not in self.accounts or isinstance(name, str):
            raise Refused("account_not_found")
        found: Name = name
        return found

    def pair(self, own: Any, other: Any) -> tuple[Name, Name]:
        """Two accounts of one currency; without another the external one."""
        currency = self.accounts[self.known(own)]["currency"]
        if other is None:
            return own, currency
        if self.accounts[self.known(other)]["currency"] != currency:
            raise Refused("currency_mismatch")
        return own, other

    def limit(self, record: dict[str, Any], amount: int) -> None:
        record["amount"] = abs(amount)
        if abs(amount) > MAX_AMOUNT_MINOR:
            raise Refused("amount_limit")

    def balanced(self, moves: Iterable[Move]) -> None:
        if any(sums((self.accounts[name]["currency"], c, h) for name, c, h in moves).values()):
            raise Refused("legs_unbalanced")

    def post(self, record: dict[str, Any], moves: list[Move], *, forced: bool = False) -> None:
        held = sums((name, held_change, 0) for name, _, held_change in moves)
        for name, change in sums(moves).items():
            own = [move for move in moves if move[0] == name]
            code = self.frozen(self.accounts[name], own)
            code = code or self.refusal(self.accounts[name], change, held[name], forced)
            if code is not None:
                raise Refused(code, name)
        for name, change, held_change in sorted(moves, key=lambda move: move[1] < 0):
            account = self.accounts[name]
            account["balance"] += change
            account["held"] += held_change
            after = change, account["balance"], held_change, account["held"]
            self.lines[name].append(
                Line(record["kind"], record["asked"]["idempotency_key"], *after)
            )
            self.times[name].append((self.at, record["asked"].get("effective_at", self.at)))
            record["entries"].append((name, len(self.lines[name])))
        record["moves"] = moves

    def frozen(self, account: dict[str, Any], moves: list[Move]) -> str | None:
        ways = {"debits" for _, change, held_change in moves if change < 0 or held_change > 0}
        ways |= {"credits" for _, change, _ in moves if change > 0}
        if account["closed"] and ways:
            return "account_closed"
        if account["frozen"] in ways or (account["frozen"] == "both" and ways):
            return "account_frozen"
        return None

    def refusal(
        self, account: dict[str, Any], change: int, held_change: int, forced: bool
    ) -> str | None:
        after, held = account["balance"] + change, account["held"] + held_change
        worse = change < held_change and not forced
        if worse and account["floor"] is not None and after - held < account["floor"]:
            return "insufficient_funds"
        if change > 0 and account["ceiling"] is not None and after > account["ceiling"]:
            return "balance_ceiling"
        return "balance_limit" if abs(after) > MAX_BALANCE_MINOR else None

    # As it is sent

    def exponent(self, name: Name) -> int:
        return EXPONENTS[self.accounts.get(name, {"currency": "USD"})["currency"]]

    def sent(self, asked: Asked, spell: Callable[[int, int], Any] = plainly) -> Asked:
        """The instruction with its amounts in major units, spelt in one way or another."""
        exponent = self.exponent(self.scope(asked))
        body: Asked = {}
        for name, value in asked.items():
            if name == "legs":
                body[name] = [{"type": "", **leg} for leg in value]
                body[name] = [self.sent(leg, spell) for leg in body[name]]
                for leg in body[name]:
                    del leg["type"]
            elif name in AMOUNTS and value is not None:
                body[name] = spell(value, exponent)
            elif isinstance(value, datetime):
                body[name] = value.isoformat()
            else:
                body[name] = value
        return body


def sums(moves: Iterable[Move]) -> dict[Name, int]:
    """What each account is moved by altogether."""
    totals: dict[Name, int] = {}
    for name, change, _ in moves:
        totals[name] = totals.get(name, 0) + change
    return totals
