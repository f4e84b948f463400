"""The request of a recorded transaction, as far as its record and its digest show it. Pure.

A record does not have everything that its request said: whether an amount was named or was the
rest, which limits a policy left as they were, which conditions a leg had. The likely requests are
compared with the digest.
"""

from collections.abc import Callable, Iterator, Mapping
from itertools import combinations, islice, permutations, product
from typing import TYPE_CHECKING

import msgspec
from msgspec import UNSET

from ledgerservice.domain.amounts import to_major
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
)

if TYPE_CHECKING:
    from ledgerservice.domain.history import PastTransaction

MAX_CANDIDATES = 200
NO_DETAIL = Detail()

Exponents = Mapping[int, int]
"""The number of decimals of each account's currency."""


def request_of(record: "PastTransaction", exponents: Exponents) -> Instruction | None:
    """The request, or None if none of the likely ones has the record's digest."""
    likely = _likely(record, exponents)
    if record.digest is None:  # a plain movement, which has none
        return next(likely, None)
    digest, salt = record.digest, record.salt
    tried = islice(likely, MAX_CANDIDATES)
    return next((one for one in tried if is_digest_of(digest, salt, one)), None)


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
