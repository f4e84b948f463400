"""Random instructions, for tests that compare with the sequential model."""

import itertools
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from tests.oracle.model import REVERSIBLE, Asked, SequentialLedger, sums

A_MINUTE = timedelta(minutes=1)
STEPS = ["REVERSAL", "CAPTURE", "RELEASE", "CANCELLATION", "EXECUTION"]
OTHERS = ["POLICY", "TRANSACTION", "HOLD", "TRANSFER", "EXCHANGE", "SCHEDULE"]
UNKNOWN = 10**12

_numbers = itertools.count(1)

amounts = st.sampled_from([1, 2, 30, 99, 100, 101, 300])
limits = st.sampled_from([-200, -50, 0, 50, 150])
sometimes = st.integers(0, 9).map(lambda number: number == 9)
seldom = st.integers(0, 29).map(lambda number: number == 29)
often = st.integers(0, 2).map(lambda number: number == 2)
details = st.fixed_dictionaries(
    {},
    optional={
        "description": st.sampled_from(["rent", "\N{PILE OF POO}"]),
        "reference": st.sampled_from("xy"),
        "effective_at": st.just(datetime.fromisoformat("2020-01-01T00:00:00+00:00")),
        "metadata": st.sampled_from([{"b": [1, None, True], "a": {"ü": "\\N"}}, {"a": {}}]),
    },
)


def a_key() -> str:
    return f"key {next(_numbers)}"


class Asking:
    """Draws instructions on customers, by currency, that build on what there is in a model.

    `parents` are the kinds of the transactions, by id; nothing expires before `now`.
    """

    def __init__(
        self,
        draw: Any,
        model: SequentialLedger,
        customers: Mapping[int, str],
        parents: Mapping[int, str],
        now: datetime,
        steps: list[str] = STEPS,
        *,
        forces: bool = True,
    ) -> None:
        """`forces`: reversals are forced too; over HTTP others would have to approve them."""
        self.draw = draw
        self.model = model
        self.customers = customers
        self.parents = parents
        self.now = now
        self.steps = steps
        self.forces = forces

    def account(self, currency: str | None = None, but: int | None = None) -> int:
        if self.draw(seldom):
            return UNKNOWN
        of = [n for n, code in self.customers.items() if currency in (None, code) and n != but]
        return self.draw(st.sampled_from(of or [UNKNOWN]))

    def pair(self) -> tuple[int, int]:
        """Two accounts, of one currency mostly."""
        one = self.account()
        return one, self.account(None if self.draw(sometimes) else self.customers.get(one))

    def any(self) -> Asked:
        kinds = [*self.steps, *self.steps, *OTHERS, "WITHDRAWAL", "DEPOSIT"]
        return self.of(self.draw(st.sampled_from(kinds if self.parents else OTHERS)))

    def of(self, kind: str) -> Asked:
        """An instruction of a kind."""
        key = self.draw(st.sampled_from(["a", "b"]) | st.builds(a_key))
        made = {"type": kind, "idempotency_key": key}
        if kind in STEPS:
            made |= self.step(kind)
        else:
            made |= getattr(self, kind.lower())()
        plain = kind in {"DEPOSIT", "WITHDRAWAL", "TRANSFER"}
        if kind not in ("POLICY", "EXECUTION") and self.draw(st.booleans()) is not plain:
            made |= self.draw(details)
        if "execute_at" in made:
            made.pop("effective_at", None)
        return made

    def step(self, kind: str) -> Asked:
        wanted = {"CAPTURE": {"HOLD"}, "RELEASE": {"HOLD"}, "REVERSAL": REVERSIBLE}
        names = {"REVERSAL": "transaction_id", "CAPTURE": "hold_id", "RELEASE": "hold_id"}
        by_legs = kind == "REVERSAL" and self.draw(often)
        parent = self.parent(wanted.get(kind, {"SCHEDULE"}), by_legs)
        made: Asked = {names.get(kind, "schedule_id"): parent}
        if kind == "EXECUTION":
            made["idempotency_key"] = f"execution {parent}"
        amount = None if by_legs else self.draw(st.none() | amounts)
        if kind in names and amount is not None:
            made["amount"] = amount
        if kind == "CAPTURE" and self.draw(st.booleans()):
            made["final"] = True
        if kind == "REVERSAL" and self.forces and self.draw(st.booleans()):
            made |= {"force": True, "actor": "me", "description": "by order"}
        if by_legs:
            made["legs"] = self.back(parent)
        return made

    def parent(self, kinds: set[str], by_legs: bool) -> int:
        """A transaction to build on; by legs what two customers have may be reversed."""
        fitting = [n for n, kind in self.parents.items() if kind in kinds]
        if by_legs:
            fitting = [n for n in fitting if len(self.moved(n)) > 1]
        strange = not fitting or self.draw(sometimes)
        return self.draw(st.sampled_from([*self.parents, UNKNOWN] if strange else fitting))

    def moved(self, number: int) -> dict[int, int]:
        """What a transaction has moved of customers."""
        record = self.model.numbered.get(number, {"moves": []})
        return {n: c for n, c in sums(record["moves"]).items() if c and isinstance(n, int)}

    def back(self, original: int) -> list[Asked]:
        """Legs that take back what two customers have of the original, or all of them, or a bit
        too much; or others.
        """
        nets = self.moved(original)
        if len(nets) < 2 or self.draw(sometimes):
            legs = self.transaction(2)["legs"]
            return [{n: leg[n] for n in ("account_id", "amount")} for leg in legs]
        one = self.draw(st.sampled_from(list(nets)))
        of = self.customers.get(one)
        others = [n for n, c in nets.items() if c * nets[one] < 0 and self.customers.get(n) == of]
        if not others or self.draw(often):
            return [{"account_id": n, "amount": -change} for n, change in nets.items()]
        other = self.draw(st.sampled_from(others))
        most = min(abs(nets[one]), abs(nets[other]))
        amount = self.draw(st.sampled_from([most, 1, most, most + 1]))
        amount = -amount if nets[one] > 0 else amount
        return [{"account_id": one, "amount": amount}, {"account_id": other, "amount": -amount}]

    def deposit(self) -> Asked:
        return {"account_id": self.account(), "amount": self.draw(amounts)}

    withdrawal = deposit

    def hold(self) -> Asked:
        own, other = self.pair()
        made: Asked = {"account_id": own, "amount": self.draw(amounts)}
        if self.draw(st.booleans()):
            made["to_account_id"] = other
        minutes = self.draw(st.sampled_from([None, None, 1, 2, 3]))
        if minutes is not None:
            made["expires_at"] = self.now + (minutes - 0.5) * A_MINUTE
        return made

    def transfer(self) -> Asked:
        own, other = self.pair()
        return {"from_account_id": own, "to_account_id": other, "amount": self.draw(amounts)}

    def schedule(self) -> Asked:
        return {"type": "TRANSFER", "execute_at": self.now + 10 * A_MINUTE, **self.transfer()}

    def policy(self) -> Asked:
        """Limits that fit each other, mostly."""
        made: Asked = {"account_id": self.account(), "actor": "me", "reason": "so"}
        if self.draw(st.booleans()):
            made["floor"] = self.draw(limits)
        if self.draw(st.booleans()):
            room = st.sampled_from([None, 0, 1_000, 1_000, 20_000, -1])
            above = self.draw(room)
            made["ceiling"] = None if above is None else made.get("floor", 0) + above
        if self.draw(st.booleans()) or len(made) == 3:
            made["frozen"] = self.draw(st.sampled_from([None, None, "debits", "credits", "both"]))
        if self.draw(sometimes):
            made["closed"] = True
        return made

    def demand(self, account: int) -> Asked:
        """A condition that the account's figures meet, just meet, or just fail."""
        if account not in self.model.accounts:
            return {"version": 1}
        figures = {
            "available_at_least": self.model.available(account),
            "balance_at_least": self.model.accounts[account]["balance"],
            "version": len(self.model.lines[account]),
        }
        name = self.draw(st.sampled_from(list(figures)))
        return {name: max(0, figures[name] + self.draw(st.sampled_from([0, 0, 0, -1, 1])))}

    def transaction(self, most: int = 4) -> Asked:
        """Balanced legs, mostly."""
        made = []
        for _ in range(self.draw(st.integers(1, most))):
            sign = self.draw(st.sampled_from([-1, -1, 1]))
            leg: Asked = {"account_id": self.account(), "amount": sign * self.draw(amounts)}
            if self.draw(sometimes):
                leg["currency"] = self.draw(st.sampled_from(["USD", "INR"]))
            made.append(leg)
        for code in () if self.draw(sometimes) else set(self.customers.values()):
            own = [leg["amount"] for leg in made if self.customers.get(leg["account_id"]) == code]
            if sum(own):
                made.append({"account_id": self.account(code), "amount": -sum(own)})
        if len(made) == 1:
            made.append({"account_id": self.account(), "amount": -made[0]["amount"]})
        if self.draw(st.booleans()):
            leg = self.draw(st.sampled_from(made))
            leg |= self.demand(leg["account_id"])
        return {"legs": made}

    def exchange(self) -> Asked:
        """Dollars for rupees, at a rate that leaves something over at times."""
        sold, off = self.draw(amounts), self.draw(st.sampled_from([0, 0, 0, 0, 1, -1, 2]))
        rate = {
            "sell": "USD",
            "buy": "INR",
            "rate": self.draw(st.sampled_from(["1", "0.5", "1.505"])),
        }
        if self.draw(st.booleans()):
            other = "USD" if self.draw(sometimes) else "INR"
            rate["rounding_account_id"] = self.account(other)
        bought = int(sold * float(rate["rate"]))
        legs: list[Asked] = []
        for code, given, got in (("USD", -sold, sold), ("INR", -bought - off, bought)):
            one = self.account(code)
            two = self.account(code, but=one)
            legs += [{"account_id": one, "amount": given}, {"account_id": two, "amount": got}]
        legs = [leg for leg in legs if leg["amount"]]
        return {"type": "TRANSACTION", "legs": legs, "exchange": rate}


@st.composite
def asked(draw: Any, *given: Any) -> Asked:
    """An instruction of `Asking`; half of what is scheduled is due at once, to be executed."""
    made = Asking(draw, *given).any()
    if "execute_at" in made and draw(st.booleans()):
        made["execute_at"] = given[3]
    return made
