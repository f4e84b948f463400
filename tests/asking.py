"""Random instructions, for whoever compares with the sequential model."""

import itertools
from collections.abc import Mapping
from datetime import datetime, timedelta
from typing import Any

from hypothesis import strategies as st

from tests.model import BY_THE_SERVICE, REVERSIBLE, Asked

A_MINUTE = timedelta(minutes=1)
STEPS = ["REVERSAL", "CAPTURE", "RELEASE", "CANCELLATION", "EXECUTION"]
OTHERS = ["POLICY", "TRANSACTION", "HOLD", "TRANSFER", "EXCHANGE", "SCHEDULE"]
UNKNOWN = 10**12

_numbers = itertools.count(1)

amounts = st.sampled_from([1, 2, 30, 99, 100, 101, 300])
limits = st.sampled_from([-200, -50, 0, 50, 150])
sometimes = st.integers(0, 9).map(lambda number: number == 9)
details = st.fixed_dictionaries(
    {},
    optional={
        "description": st.sampled_from(["rent", "\N{PILE OF POO}"]),
        "reference": st.sampled_from("xy"),
        "effective_at": st.just(datetime.fromisoformat("2020-01-01T00:00:00+00:00")),
        "metadata": st.just({"b": [1, None, True], "a": {"ü": "\\N"}}),
    },
)


def a_key() -> str:
    return f"key {next(_numbers)}"


class Asking:
    """Draws instructions on customers, by currency, that build on what there is.

    `parents` are the kinds of the transactions, by id; nothing expires before `now`.
    """

    def __init__(
        self,
        draw: Any,
        customers: Mapping[int, str],
        parents: Mapping[int, str],
        now: datetime,
        steps: list[str] = STEPS,
    ) -> None:
        self.draw = draw
        self.customers = customers
        self.parents = parents
        self.now = now
        self.steps = steps

    def account(self, currency: str | None = None) -> int:
        if self.draw(sometimes):
            return UNKNOWN
        of = [n for n, code in self.customers.items() if currency in (None, code)]
        return self.draw(st.sampled_from(of or [UNKNOWN]))

    def pair(self) -> tuple[int, int]:
        """Two accounts, of one currency mostly."""
        one = self.account()
        return one, self.account(None if self.draw(sometimes) else self.customers.get(one))

    def any(self) -> Asked:
        kinds = [*self.steps, *self.steps, *OTHERS, "WITHDRAWAL", "DEPOSIT"]
        kind = self.draw(st.sampled_from(kinds if self.parents else OTHERS))
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
        fitting = [n for n, of in self.parents.items() if of in wanted.get(kind, {"SCHEDULE"})]
        strange = not fitting or self.draw(sometimes)
        parent = self.draw(st.sampled_from([*self.parents, UNKNOWN] if strange else fitting))
        made: Asked = {names.get(kind, "schedule_id"): parent}
        if kind == "EXECUTION":
            made["idempotency_key"] = f"{BY_THE_SERVICE}execution {parent}"
        amount = self.draw(st.none() | amounts)
        if kind in names and amount is not None:
            made["amount"] = amount
        if kind == "CAPTURE" and self.draw(st.booleans()):
            made["final"] = True
        if kind == "REVERSAL" and self.draw(st.booleans()):
            made |= {"force": True, "actor": "me", "description": "so"}
        if kind == "REVERSAL" and amount is None and self.draw(st.integers(0, 2)) == 0:
            legs = self.transaction(2)["legs"]
            made["legs"] = [{n: leg[n] for n in ("account_id", "amount")} for leg in legs]
        return made

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
        made: Asked = {"account_id": self.account()}
        frozen = st.sampled_from([None, None, "debits", "credits", "both"])
        for name, values in (
            ("floor", limits),
            ("ceiling", st.none() | limits),
            ("frozen", frozen),
        ):
            if self.draw(st.booleans()):
                made[name] = self.draw(values)
        if len(made) == 1 or self.draw(sometimes):
            made["closed"] = True
        return made | {"actor": "me", "reason": "so"}

    def transaction(self, most: int = 4) -> Asked:
        """Balanced legs, mostly."""
        made = []
        for _ in range(self.draw(st.integers(1, most))):
            sign = self.draw(st.sampled_from([-1, -1, 1]))
            leg: Asked = {"account_id": self.account(), "amount": sign * self.draw(amounts)}
            if self.draw(sometimes):
                name = st.sampled_from(["available_at_least", "balance_at_least", "version"])
                leg[self.draw(name)] = self.draw(st.integers(0, 3))
            if self.draw(sometimes):
                leg["currency"] = self.draw(st.sampled_from(["USD", "INR"]))
            made.append(leg)
        for code in () if self.draw(sometimes) else set(self.customers.values()):
            own = [leg["amount"] for leg in made if self.customers.get(leg["account_id"]) == code]
            if sum(own):
                made.append({"account_id": self.account(code), "amount": -sum(own)})
        if len(made) == 1:
            made.append({"account_id": self.account(), "amount": -made[0]["amount"]})
        return {"legs": made}

    def exchange(self) -> Asked:
        """Dollars for rupees, at a rate that leaves something over at times."""
        sold, off = self.draw(amounts), self.draw(st.sampled_from([0, 0, 0, 1, -1, 2]))
        rate = {
            "sell": "USD",
            "buy": "INR",
            "rate": self.draw(st.sampled_from(["1", "0.5", "1.505"])),
        }
        if self.draw(st.booleans()):
            other = "USD" if self.draw(sometimes) else "INR"
            rate["rounding_account_id"] = self.account(other)
        bought = int(sold * float(rate["rate"]))
        given = [("USD", -sold), ("USD", sold), ("INR", -bought - off), ("INR", bought)]
        legs = [
            {"account_id": self.account(code), "amount": amount} for code, amount in given if amount
        ]
        return {"type": "TRANSACTION", "legs": legs, "exchange": rate}


@st.composite
def asked(draw: Any, *given: Any) -> Asked:
    """An instruction of `Asking`; half of what is scheduled is due at once, to be executed."""
    made = Asking(draw, *given).any()
    if "execute_at" in made and draw(st.booleans()):
        made["execute_at"] = given[2]
    return made
