"""The legs of a transaction as a drawing: who pays on the left, who receives on the right.

A band is as thick as its amount is large. The geometry is of floats; the amounts that are written
beside it are the API's texts.
"""

from collections.abc import Iterable, Iterator, Sequence
from decimal import Decimal
from itertools import groupby
from typing import Any, Literal, NamedTuple

Entry = dict[str, Any]
What = Literal["moved", "held", "released"]

WIDTH = 760.0
LEFT, RIGHT = 236.0, WIDTH - 236.0
"""Where the bands begin and end. The texts stand outside."""
BAR = 5.0
TALL, THIN, GAP, AROUND = 120.0, 1.5, 14.0, 10.0
"""The height of all bands of a currency, and of the thinnest one; the spaces."""
LINES = 30.0
"""The height of the texts of an account."""
MAX_SIDE = 12


class Side(NamedTuple):
    """An account on one side: its bar, in the middle of which its texts stand. `more`: it stands
    for so many accounts.
    """

    account_id: int | None
    amount: str
    currency: str
    x: float
    y: float
    height: float
    more: int = 0

    @property
    def middle(self) -> float:
        """Where its texts stand."""
        return self.y + self.height / 2


class Flow(NamedTuple):
    """A drawing. `bands` are the paths from one side to the other. What is held or released moves
    within its account.
    """

    height: float
    payers: list[Side]
    payees: list[Side]
    bands: list[str]
    what: What


def flow_of(entries: Sequence[Entry]) -> Flow | None:
    """The drawing of a transaction's entries; None if nothing is moved, held or released."""
    moved = [entry for entry in entries if Decimal(entry["amount"])]
    if moved:
        return _drawn(moved, "moved")
    held = [entry for entry in entries if Decimal(entry.get("held_change") or 0)]
    if not held:
        return None
    what: What = "released" if held[0]["held_change"].startswith("-") else "held"
    return _drawn([half for entry in held for half in _halves(entry)], what)


def _halves(entry: Entry) -> Iterator[Entry]:
    """What is held moves within its account, from what is available to what is held, or back."""
    change = entry["held_change"]
    opposite = change.removeprefix("-") if change.startswith("-") else f"-{change}"
    yield {**entry, "amount": opposite}
    yield {**entry, "amount": change}


def _drawn(entries: list[Entry], what: What) -> Flow:
    payers: list[Side] = []
    payees: list[Side] = []
    bands: list[str] = []
    top = AROUND
    ordered = sorted(entries, key=lambda entry: str(entry["currency"]))
    for _, group in groupby(ordered, key=lambda entry: entry["currency"]):
        legs = list(group)
        left = _side([leg for leg in legs if leg["amount"].startswith("-")], LEFT - BAR, top)
        right = _side([leg for leg in legs if not leg["amount"].startswith("-")], RIGHT, top)
        bands += _bands(left, right)
        payers += left
        payees += right
        top = max(_end(left), _end(right)) + GAP
    return Flow(top - GAP + AROUND, payers, payees, bands, what)


def _end(bars: list[Side]) -> float:
    return max((side.middle + max(side.height, LINES) / 2 for side in bars), default=0.0)


def _side(legs: list[Entry], x: float, top: float) -> list[Side]:
    """The bars of one side of a currency, from the top down."""
    total = sum((abs(Decimal(leg["amount"])) for leg in legs), Decimal(0))
    bars, y = [], top
    for leg in _gathered(legs):
        share = float(abs(Decimal(leg["amount"])) / total)
        height = max(THIN, TALL * share)
        place = max(height, LINES)
        text = leg["amount"].removeprefix("-")
        account = leg.get("account_id")
        middle = y + (place - height) / 2
        bars.append(Side(account, text, leg["currency"], x, middle, height, leg.get("more", 0)))
        y += place + GAP / 2
    return bars


def _gathered(legs: list[Entry]) -> list[Entry]:
    """The largest legs, and all others as one."""
    ordered = sorted(legs, key=lambda leg: abs(Decimal(leg["amount"])), reverse=True)
    if len(ordered) <= MAX_SIDE:
        return ordered
    shown, rest = ordered[: MAX_SIDE - 1], ordered[MAX_SIDE - 1 :]
    amount = sum((Decimal(leg["amount"]) for leg in rest), Decimal(0))
    return [*shown, {"amount": str(amount), "currency": legs[0]["currency"], "more": len(rest)}]


def _bands(payers: list[Side], payees: list[Side]) -> list[str]:
    """The paths: what is paid is received in the order of the accounts, from the top down."""
    pieces = list(_pieces(payers, payees))
    starts, ends = [0.0] * len(payers), [0.0] * len(payees)
    paths = []
    for left, right, amount in pieces:
        payer, payee = payers[left], payees[right]
        thick = payer.height * float(amount / Decimal(payer.amount))
        wide = payee.height * float(amount / Decimal(payee.amount))
        paths.append(_path(payer.y + starts[left], thick, payee.y + ends[right], wide))
        starts[left] += thick
        ends[right] += wide
    return paths


def _pieces(payers: list[Side], payees: list[Side]) -> Iterator[tuple[int, int, Decimal]]:
    """Which payer pays how much to which payee."""
    left = right = 0
    owed = _amounts(payers)
    due = _amounts(payees)
    while left < len(owed) and right < len(due):
        amount = min(owed[left], due[right])
        yield left, right, amount
        owed[left] -= amount
        due[right] -= amount
        left, right = left + (not owed[left]), right + (not due[right])


def _amounts(bars: Iterable[Side]) -> list[Decimal]:
    return [Decimal(side.amount) for side in bars]


def _path(y: float, thick: float, to: float, wide: float) -> str:
    """A band from the left to the right, which bends in the middle."""
    middle = (LEFT + RIGHT) / 2
    return (
        f"M{LEFT:.1f} {y:.1f}C{middle:.1f} {y:.1f} {middle:.1f} {to:.1f} {RIGHT:.1f} {to:.1f}"
        f"V{to + wide:.1f}C{middle:.1f} {to + wide:.1f} {middle:.1f} {y + thick:.1f} "
        f"{LEFT:.1f} {y + thick:.1f}Z"
    )
