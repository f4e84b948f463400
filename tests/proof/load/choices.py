"""Random requests of the clients; some build on existing transactions."""

import random
from collections import deque
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from fractions import Fraction
from typing import Any, NamedTuple

import msgspec

from tests.proof import history
from tests.proof.history import CONDITIONS, PLAIN, Exchange, Request
from tests.proof.judging.evidence import major, minor
from tests.proof.load.books import Accounts

LARGEST = 300
REPEATS, OTHER_BODY = 0.2, 0.3
PLAIN_REPEATS = 0.002  # a batch with a repeat does not overlap
FORCED = 0.2  # of the movements of clients that sign are forced reversals
RECENT = 400

KINDS = {
    "transfer": 6, "deposit": 1, "withdraw": 1, "general": 1.5, "exchange": 0.6, "hold": 1.5,
    "capture": 1.5, "release": 0.4, "reversal": 0.8, "schedule": 0.8,
    "cancellation": 0.3, "policy": 0.4,
}  # fmt: skip
IN_RUPEES = 0.12
A_SMALL = 0.06  # of the movements are on one of these
SOON_S = (0.3, 4.0)
PLACED = 60  # the newest holds and transactions are what is built on


def another(asked: Request, accounts: Accounts, chance: random.Random) -> Request:
    """A request with the same key and one thing changed; of a cancellation there is none."""
    ways: list[dict[str, Any]] = [{"amount": asked.amount + 1}]
    if asked.kind == "cancellation":
        return asked
    if asked.kind == "policy":
        ways = [{"floor": asked.floor - 1}, {"frozen": "" if asked.frozen else "both"}]
        ways += [{"actor": "another"}, {"reason": "another"}]
    if asked.kind == "reversal" and asked.legs:
        (first, one), (second, two) = asked.legs
        ways = [{"legs": ((first, one - 1), (second, two + 1))}]
    elif asked.legs:
        (first, one), (second, two), *others = asked.legs
        ways = [
            {"amount": asked.amount + 1, "legs": ((first, one - 1), (second, two + 1), *others)},
            {
                "legs": ((first, one), (accounts.beside(second, first), two), *others),
                "conditions": (),
            },
            {"conditions": ((first, "balance_at_least", asked.amount + 7),)},
        ]
    if asked.kind != "policy":
        ways.append({"reference": "another"})
    if asked.exchange is not None:
        ways.append({"exchange": msgspec.structs.replace(asked.exchange, rate="85.5")})
    if asked.other is not None:
        ways.append({"other": accounts.beside(asked.other, asked.account)})
    if asked.kind == "capture":
        ways.append({"final": not asked.final})
    if asked.execute_at:
        ways.append({"execute_at": _soon(chance)})
    if asked.expires_at and not asked.capture_at:
        ways.append({"expires_at": _soon(chance)})
    return msgspec.structs.replace(asked, **chance.choice(ways))


class Placed(NamedTuple):
    """What can be built on: a transaction, its account and amount, and what it moved by account."""

    number: int
    account: int
    amount: int
    sides: tuple[tuple[int, int], ...]


class Choices:
    """What was asked for and what is there, and what to ask for next."""

    def __init__(self, accounts: Accounts, *, only_plain: bool = False) -> None:
        """`only_plain`: small deposits and transfers, so that large batches can overlap."""
        self._accounts, self._only_plain = accounts, only_plain
        self.proposed: dict[int, Request] = {}  # by the ids of proposals
        self.recent: deque[Request] = deque(maxlen=RECENT)
        self._versions: dict[int, int] = {}
        self._holds: deque[Placed] = deque(maxlen=PLACED)
        self._scheduled: deque[Placed] = deque(maxlen=PLACED)
        self._moved: deque[Placed] = deque(maxlen=PLACED)

    def movement(
        self, key: str, chance: random.Random, *, new: bool = False, may_force: bool = False
    ) -> Request:
        """A new movement, or one seen before, or one with a key seen before."""
        repeats = PLAIN_REPEATS if self._only_plain else REPEATS
        if self.recent and not new and chance.random() < repeats:
            asked = chance.choice(self.recent)
            if asked.force and not may_force:
                asked = msgspec.structs.replace(asked, force=False, actor="")
            return self._another(asked, chance) if chance.random() < OTHER_BODY else asked
        request = self._new(key, chance, may_force=may_force)
        is_bare = self._only_plain or request.kind == "policy" or request.force
        if not is_bare and chance.random() < 0.25:
            request = _detailed(request, chance)
        if not new:
            self.recent.append(request)
        return request

    def _another(self, asked: Request, chance: random.Random) -> Request:
        return another(asked, self._accounts, chance)

    def _new(self, key: str, chance: random.Random, *, may_force: bool) -> Request:
        usual, small, rupees = self._accounts
        in_rupees = chance.random() < IN_RUPEES
        pool = rupees if in_rupees else usual
        account, other, third = chance.sample(pool, 3)
        if self._only_plain:
            return self._plain(account, chance.choice([None, other, other]), key, chance)
        kind = chance.choices(list(KINDS), list(KINDS.values()))[0]
        if may_force and chance.random() < FORCED:
            kind = "reversal"
        amount = chance.randint(1, LARGEST * (50 if in_rupees else 1))
        if not in_rupees and chance.random() < A_SMALL:
            account, amount = chance.choice(small), chance.randint(1, 3)
            account, other = chance.choice([(account, other), (other, account)])
            kind = "policy" if account in small and chance.random() < 0.3 else kind
        request = Request("transfer", account, other, amount, key)
        if kind in PLAIN:
            request = Request(kind, account, other if kind == "transfer" else None, amount, key)
        elif kind == "general":
            part = chance.randint(0, amount - 1)
            legs = [(account, -amount), (other, amount - part), *[(third, part)] * (part > 0)]
            if chance.random() < 0.2:
                legs += [(other, -1), (account, 1)]
            conditions = self._conditions(chance.choice([account, other]), chance)
            request = Request(
                kind, account, None, amount, key, legs=tuple(legs), conditions=conditions
            )
        elif kind == "exchange":
            request = _exchange(key, self._accounts, chance)
        elif kind == "hold":
            request = self._hold(Request(kind, account, None, amount, key), other, chance)
        elif kind == "schedule":
            request = Request(kind, account, other, amount, key, execute_at=_soon(chance))
        elif kind == "policy":
            request = self._policy(Request(kind, account, None, 0, key), chance)
        elif self._builds_on(kind):
            request = self._step(kind, key, chance, may_force=may_force)
        return request

    def _step(self, kind: str, key: str, chance: random.Random, *, may_force: bool) -> Request:
        """A step of something that is there."""
        parent, account, whole, sides = chance.choice(self._builds_on(kind))
        part = chance.choice([0, 0, chance.randint(1, whole), whole + 1])
        part = 0 if kind == "cancellation" else part
        final = kind == "capture" and chance.random() < 0.3
        request = Request(kind, account, None, part, key, parent=parent, final=final)
        if kind == "reversal":
            by = self._accounts.rupees, chance
            request = _reversal(request, sides, *by, may_force=may_force)
        return request

    def _plain(self, account: int, other: int | None, key: str, chance: random.Random) -> Request:
        kind = "deposit" if other is None else "transfer"
        return Request(kind, account, other, chance.randint(1, 3), key)

    def _policy(self, request: Request, chance: random.Random) -> Request:
        """Of the accounts that the money moves between none is closed, for that is for ever."""
        worth = 80 if request.account in self._accounts.rupees else 1
        ceiling = chance.choice([0, 0, 1_500, 1_500, 4_000, 20])
        return msgspec.structs.replace(
            request,
            floor=chance.choice([0, 0, -100, 50]) * worth,
            ceiling=ceiling * worth or None,
            frozen=chance.choice([""] * 12 + ["debits", "credits", "both"]),
            closed=request.account in self._accounts.small and chance.random() < 0.6,
            actor=chance.choice(["credit desk", "risk"]),
            reason=chance.choice(["as agreed", "too many complaints"]),
        )

    def _conditions(self, account: int, chance: random.Random) -> tuple[tuple[int, str, int], ...]:
        """None, one, or all of what a leg can demand, of which about half is so."""
        known = self._versions.get(account, 0) + chance.choice([0, 0, 0, 1])
        values = dict(
            zip(CONDITIONS, (chance.randint(0, 600), chance.randint(0, 900), known), strict=True)
        )
        names = chance.choice([(), (), (), *((name,) for name in CONDITIONS), CONDITIONS])
        return tuple((account, name, values[name]) for name in names)

    def _builds_on(self, kind: str) -> deque[Placed]:
        return {"reversal": self._moved, "cancellation": self._scheduled}.get(kind, self._holds)

    def _hold(self, request: Request, other: int | None, chance: random.Random) -> Request:
        first, second = sorted([_soon(chance), _soon(chance)])
        terms: dict[str, Any] = {"other": other} if chance.random() < 0.7 else {}
        if (fate := chance.random()) < 0.4:
            terms["expires_at"] = second
        if 0.3 < fate < 0.6:
            terms["capture_at"] = first
        return msgspec.structs.replace(request, **terms)

    def placed(self, request: Request, body: Any) -> None:
        """What others may build on."""
        for entry in body["entries"]:
            account = entry["account_id"]
            self._versions[account] = max(entry["version"], self._versions.get(account, 0))
        nets: dict[int, int] = {}  # an account may have come twice
        for entry in body["entries"]:
            account = entry["account_id"]
            nets[account] = nets.get(account, 0) + minor(entry["amount"])
        amount = minor(body["amount"])
        there = Placed(body["transaction_id"], request.account, amount, tuple(nets.items()))
        if request.kind == "hold":
            self._holds.append(there)
        elif request.kind == "schedule":
            self._scheduled.append(there)
        elif request.kind in (*PLAIN, "general", "capture"):
            self._moved.append(there)


def _reversal(
    request: Request,
    sides: tuple[tuple[int, int], ...],
    in_rupees: Sequence[int],
    chance: random.Random,
    *,
    may_force: bool,
) -> Request:
    """By legs or not, and forced where the client signs. An external account is not to be named."""
    terms: dict[str, Any] = {}
    rupees = chance.random() < 0.5
    own = [(one, n) for one, n in sides if one > 0 and (one in in_rupees) == rupees]
    gained = [(account, n) for account, n in own if n > 0]
    given = [(account, n) for account, n in own if n < 0]
    if gained and given and chance.random() < 0.4:
        (one, most), (other, least) = chance.choice(gained), chance.choice(given)
        part = min(chance.choice([1, most, most // 2 + 1, most + 1]), 1 - least)
        terms = {"amount": 0, "legs": ((one, -part), (other, part))}
    if may_force:
        terms |= {"force": True, "actor": "risk", "description": "stolen"}
    return msgspec.structs.replace(request, **terms)


def _exchange(key: str, accounts: Accounts, chance: random.Random) -> Request:
    """Dollars for rupees or back, now and then with a fee, or at a rate that is none.

    What rounding leaves over, at most one minor unit, is given to an account, or taken from it.
    """
    sellers, buyers = chance.sample(accounts.usual, 3), chance.sample(accounts.rupees, 3)
    sell, buy, rate, most = "USD", "INR", f"{chance.uniform(80, 90):.4f}", 60
    if chance.random() < 0.4:
        sellers, buyers = buyers, sellers
        sell, buy, rate, most = "INR", "USD", f"{chance.uniform(0.011, 0.013):.6f}", 6_000
    sold, fee = chance.randint(most // 10, most), chance.choice([0, 0, 3])
    given = int(Fraction(rate) * sold) + chance.choice([0, 1])
    given = max(given, 1) + chance.choice([0] * 9 + [2])
    got = max(given + chance.choice([0, 0, -1, 1]), 1)
    legs = [(sellers[0], -sold - fee), (sellers[1], sold), (buyers[0], -given), (buyers[1], got)]
    legs += [(sellers[2], fee)] * (fee > 0)
    exchange = Exchange(sell, buy, rate, buyers[2], major(sold) if fee else "")
    amount = sold + fee
    return Request("general", sellers[0], None, amount, key, legs=tuple(legs), exchange=exchange)


def _detailed(request: Request, chance: random.Random) -> Request:
    """With some of what a caller may add; money that is still to move is not effective before."""
    past = datetime.now(UTC) - timedelta(seconds=chance.uniform(0, 86_400))
    detail = {
        "description": "Ein Stück Käse \N{EURO SIGN} 4",
        "reference": f"order {chance.randint(1, 99)}",
        "metadata": '{"z":1.50,"a":[1,{"b":null}],"c":"\N{SNOWMAN}"}',
        "effective_at": "" if request.kind == "schedule" else history.moment(past),
    }
    names = chance.sample(list(detail), chance.randint(1, len(detail)))
    return msgspec.structs.replace(request, **{name: detail[name] for name in names})


def _soon(chance: random.Random) -> str:
    return history.moment(datetime.now(UTC) + timedelta(seconds=chance.uniform(*SOON_S)))
