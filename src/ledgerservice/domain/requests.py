"""The request of a recorded transaction, as far as its record and its digest show it. Pure.

A record does not have everything that its request said: whether an amount was named or was the
rest, which limits a policy left as they were. The likely requests are compared with the digest. If
they would not include the request, for example for the conditions of legs, its text is kept.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from itertools import chain, combinations, islice, permutations, product
from typing import TYPE_CHECKING, Any

import msgspec
from msgspec import UNSET

from ledgerservice.domain.amounts import is_amount, to_major, to_minor
from ledgerservice.domain.digests import is_digest_of
from ledgerservice.domain.instructions import (
    Cancellation,
    Capture,
    Detail,
    Exchange,
    Execution,
    Frozen,
    General,
    Hold,
    Instruction,
    Kind,
    Leg,
    Movement,
    PolicyChange,
    Release,
    Reversal,
    Schedule,
    Step,
)

if TYPE_CHECKING:
    from ledgerservice.domain.history import PastTransaction

MAX_CANDIDATES = 200
MAX_GUESSED_LEGS = 5  # 24 orders of the others, with two forms of the texts
NO_DETAIL = Detail()

Exponents = Mapping[int, int]
"""The number of decimals of each account's currency."""


def request_of(record: "PastTransaction", exponents: Exponents) -> Instruction | None:
    """The request, or None if none of the likely ones has the record's digest."""
    likely = chain(_kept(record, exponents), _likely(record, exponents))
    if record.digest is None:  # a plain movement, which has none
        return next(likely, None)
    digest, salt = record.digest, record.salt
    tried = islice(likely, MAX_CANDIDATES)
    return next((one for one in tried if is_digest_of(digest, salt, one)), None)


def text_of_request(instruction: Instruction, *, declined: bool, moves: int) -> str | None:
    """The text of a request that its record does not show; None if the record shows it.

    A decline has no legs and no terms. `moves` is the number of amounts that were moved. The texts
    of the caller and the key are not part of it: the record has them.
    """
    if isinstance(instruction, Movement) or not (declined or _says_more(instruction, moves)):
        return None
    nameless: Any = msgspec.structs.replace(instruction, key="", detail=None)
    return msgspec.json.encode(nameless).decode()


def _says_more(instruction: Instruction, moves: int) -> bool:
    if isinstance(instruction, Reversal):
        return instruction.force or instruction.legs is not None
    if not isinstance(instruction, General):
        return False
    legs = instruction.legs
    return len(legs) != moves or len(legs) > MAX_GUESSED_LEGS or any(map(_has_conditions, legs))


def _has_conditions(leg: Leg) -> bool:
    conditions = leg.currency, leg.available_at_least, leg.balance_at_least, leg.version
    return conditions != (None, None, None, None)


def _kept(record: "PastTransaction", exponents: Exponents) -> Iterator[Instruction]:
    """The request whose text the record has.

    The text can be out of a hostile file: it counts only where the record cannot show the request,
    and only if it agrees with what the record shows.
    """
    if record.request is None:
        return
    is_execution = record.kind == Kind.TRANSFER.name and record.parent_id is not None
    form: Any = Execution if is_execution else _FORMS.get(record.kind, Movement)
    request = msgspec.json.decode(record.request, type=form)
    declined, moves = record.refusal is not None, len(record.entries)
    needed = text_of_request(request, declined=declined, moves=moves)
    if needed is not None and _agrees(record, request, exponents):
        for detail in _details(record):
            yield msgspec.structs.replace(request, key=record.key, detail=detail)


def _agrees(record: "PastTransaction", request: Any, exponents: Exponents) -> bool:
    """Whether a record can be that of the request, as far as it shows it."""
    if isinstance(request, Step):
        same = (request.parent_id, request.origin.name) == (record.parent_id, record.origin)
    else:
        same = request.account_id == record.account_id
    amount = getattr(request, "amount", None)
    if amount is not None:
        same = same and _minor(amount, record.account_id, exponents) == record.amount
    legs = getattr(request, "legs", None)
    posted = record.refusal is None
    return same and (legs is None or not posted or _moves(record, request, exponents))


def _moves(record: "PastTransaction", request: General | Reversal, exponents: Exponents) -> bool:
    """Whether the legs move what the entries moved; the rate's rounding difference is not a leg."""
    nets: Counter[int] = Counter()
    for entry in record.entries:
        nets[entry.account_id] -= entry.amount
    for leg in request.legs or ():
        nets[leg.account_id] += _minor(leg.amount, leg.account_id, exponents) or 0
    exchange = request.exchange if isinstance(request, General) else None
    rounded = None if exchange is None else exchange.rounding_account_id
    return all(not net or account == rounded for account, net in nets.items())


def _minor(amount: str, account_id: int, exponents: Exponents) -> int | None:
    """A signed amount in minor units; None if it is not an amount of the account's currency."""
    digits = amount.removeprefix("-")
    minor = to_minor(digits, exponents.get(account_id, 0)) if is_amount(digits) else None
    return -minor if minor is not None and digits != amount else minor


def _likely(record: "PastTransaction", exponents: Exponents) -> Iterator[Instruction]:
    if record.kind == Kind.TRANSFER.name and record.parent_id is not None:
        return _executions(record, exponents)
    return _BY_KIND[record.kind](record, exponents)


def _details(record: "PastTransaction") -> tuple[Detail | None, ...]:
    """The texts: as they are, or none, since captures and executions have those of their parent."""
    detail = record.detail
    return (None, NO_DETAIL) if detail == NO_DETAIL else (detail, None)


def _amounts(record: "PastTransaction", exponents: Exponents) -> tuple[None, str]:
    return None, to_major(record.amount, exponents.get(record.account_id, 0))


def _customer(number: int | None) -> int | None:
    return None if number is None or number < 0 else number


def _movements(record: "PastTransaction", exponents: Exponents) -> Iterator[Instruction]:
    _, amount = _amounts(record, exponents)
    accounts = record.account_id, _customer(record.counterparty_id)
    for detail in _details(record):
        yield Movement(Kind[record.kind], *accounts, amount, record.key, detail)


def _generals(record: "PastTransaction", exponents: Exponents) -> Iterator[Instruction]:
    """The order of the legs is not recorded, except that the first is on the record's account."""
    exchange = record.exchange and msgspec.json.decode(record.exchange, type=Exchange)
    legs = [
        Leg(one.account_id, to_major(one.amount, exponents.get(one.account_id, 0)))
        for one in record.entries
    ]
    legs.sort(key=lambda leg: leg.account_id != record.account_id)
    for detail, (first, *others) in product(_details(record), [legs] if legs else []):
        for order in permutations(others):
            yield General((first, *order), record.key, exchange or None, detail)


def _holds(record: "PastTransaction", exponents: Exponents) -> Iterator[Instruction]:
    _, amount = _amounts(record, exponents)
    terms = record.hold
    other = None if terms is None else _customer(terms.counterparty_id)
    times = (None, None) if terms is None else (terms.expires_at, terms.capture_at)
    for detail in _details(record):
        yield Hold(record.account_id, other, amount, record.key, *times, detail)


def _captures(record: "PastTransaction", exponents: Exponents) -> Iterator[Instruction]:
    choices = product(_details(record), _amounts(record, exponents), (False, True))
    for detail, amount, final in choices:
        yield Capture(record.parent_id or 0, record.key, detail, amount=amount, final=final)


def _releases(record: "PastTransaction", exponents: Exponents) -> Iterator[Instruction]:
    for detail, amount in product(_details(record), _amounts(record, exponents)):
        yield Release(record.parent_id or 0, record.key, detail, amount=amount)


def _reversals(record: "PastTransaction", exponents: Exponents) -> Iterator[Instruction]:
    actor = next((one.actor for one in record.policies if one.lowest is not None), None)
    legs = tuple(
        Leg(one.account_id, to_major(one.amount, exponents.get(one.account_id, 0)))
        for one in record.entries
    )
    forced = actor is not None, actor
    for detail, amount in product(_details(record), _amounts(record, exponents)):
        yield Reversal(record.parent_id or 0, record.key, detail, amount, None, *forced)
    for detail, order in product(_details(record), permutations(legs)):
        yield Reversal(record.parent_id or 0, record.key, detail, None, order, *forced)


_LIMITS = ("floor", "ceiling", "frozen")
_left_out = [left for number in range(4) for left in combinations(_LIMITS, number)]


def _policies(record: "PastTransaction", exponents: Exponents) -> Iterator[Instruction]:
    """Each limit was changed or left as it was; a closed account may have been frozen before."""
    exponent = exponents.get(record.account_id, 0)
    for policy in record.policies:
        ceiling = None if policy.ceiling is None else to_major(policy.ceiling, exponent)
        change = PolicyChange(
            record.account_id,
            record.key,
            to_major(policy.floor, exponent),
            ceiling,
            policy.restricted & ~Frozen.CLOSED,
            actor=policy.actor,
            reason=policy.reason,
        )
        for left, closed in product(_left_out, (False, True)):
            yield msgspec.structs.replace(change, closed=closed, **dict.fromkeys(left, UNSET))


def _schedules(record: "PastTransaction", exponents: Exponents) -> Iterator[Instruction]:
    _, amount = _amounts(record, exponents)
    terms = record.schedule
    if terms is not None:
        for detail in _details(record):
            accounts = record.account_id, terms.counterparty_id
            yield Schedule(*accounts, amount, terms.execute_at, record.key, detail)


def _executions(record: "PastTransaction", _: Exponents) -> Iterator[Instruction]:
    for detail in _details(record):
        yield Execution(record.parent_id or 0, record.key, detail)


def _cancellations(record: "PastTransaction", _: Exponents) -> Iterator[Instruction]:
    for detail in _details(record):
        yield Cancellation(record.parent_id or 0, record.key, detail)


_BY_KIND: dict[str, Callable[["PastTransaction", Exponents], Iterator[Instruction]]] = {
    "DEPOSIT": _movements,
    "WITHDRAWAL": _movements,
    "TRANSFER": _movements,
    "GENERAL": _generals,
    "HOLD": _holds,
    "CAPTURE": _captures,
    "RELEASE": _releases,
    "REVERSAL": _reversals,
    "POLICY": _policies,
    "SCHEDULE": _schedules,
    "CANCELLATION": _cancellations,
}

_FORMS: dict[str, type[msgspec.Struct]] = {
    "GENERAL": General,
    "HOLD": Hold,
    "CAPTURE": Capture,
    "RELEASE": Release,
    "REVERSAL": Reversal,
    "POLICY": PolicyChange,
    "SCHEDULE": Schedule,
    "CANCELLATION": Cancellation,
}
