"""The kinds of body: the model of each, and the instruction that it becomes.

A route and an item of a batch take the same body; a route adds the ids of its path.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from msgspec import UNSET

from ledgerservice.access.grants import Need
from ledgerservice.access.scopes import POLICIES, Scope
from ledgerservice.api.movements import models
from ledgerservice.domain.accounts import FROZEN_NAMES
from ledgerservice.domain.instructions import (
    Cancellation,
    Capture,
    Detail,
    Exchange,
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


class Form(NamedTuple):
    """A kind of body: its name, its model, its instruction with a key, what it needs of its caller,
    and the kind of a money route.
    """

    name: str
    model: type[Any]
    instruct: Callable[[Any, str], Instruction]
    need: Need
    kind: Kind | None = None


def _detail(body: models.Detailed) -> Detail | None:
    fields = (body.description, body.reference, body.effective_at, body.metadata)
    return None if fields == (None, None, None, None) else Detail(*fields)


def _movement(kind: Kind) -> Callable[[Any, str], Movement]:
    def instruct(body: models.Deposit | models.Withdrawal, key: str) -> Movement:
        return Movement(kind, body.account_id, None, body.amount, key, _detail(body))

    return instruct


def _transfer(body: models.Transfer, key: str) -> Movement | Schedule:
    accounts = body.from_account_id, body.to_account_id
    if body.execute_at is not None:
        return Schedule(*accounts, body.amount, body.execute_at, key, _detail(body))
    return Movement(Kind.TRANSFER, *accounts, body.amount, key, _detail(body))


def _legs(legs: list[models.Leg]) -> tuple[Leg, ...]:
    return tuple(
        Leg(
            leg.account_id,
            leg.amount,
            leg.currency,
            leg.available_at_least,
            leg.balance_at_least,
            leg.version,
        )
        for leg in legs
    )


def _general(body: models.PostTransaction, key: str) -> General:
    exchange = None
    if body.exchange is not None:
        rate = body.exchange
        exchange = Exchange(rate.sell, rate.buy, rate.rate, rate.rounding_account_id, rate.sold)
    return General(_legs(body.legs), key, exchange, _detail(body))


def _hold(body: models.PlaceHold, key: str) -> Hold:
    return Hold(
        body.account_id,
        body.to_account_id,
        body.amount,
        key,
        body.expires_at,
        body.capture_at,
        _detail(body),
    )


def _capture(body: models.CaptureHold, key: str) -> Capture:
    return Capture(body.hold_id, key, _detail(body), body.amount, body.final)


def _release(body: models.ReleaseHold, key: str) -> Release:
    return Release(body.hold_id, key, _detail(body), body.amount)


def _reverse(body: models.ReverseTransaction, key: str) -> Reversal:
    legs = (
        None if body.legs is None else tuple(Leg(leg.account_id, leg.amount) for leg in body.legs)
    )
    return Reversal(
        body.transaction_id, key, _detail(body), body.amount, legs, body.force, body.actor
    )


_FROZEN = {name: flags for flags, name in FROZEN_NAMES.items()}


def _policy(body: models.ChangePolicy, key: str) -> PolicyChange:
    names = body.model_fields_set
    return PolicyChange(
        body.account_id,
        key,
        body.floor if body.floor is not None else UNSET,
        body.ceiling if "ceiling" in names else UNSET,
        int(_FROZEN[body.frozen]) if "frozen" in names else UNSET,
        body.closed is True,
        body.actor,
        body.reason,
    )


def _cancel(body: models.CancelSchedule, key: str) -> Cancellation:
    return Cancellation(body.schedule_id, key, _detail(body))


FORMS = {
    "deposit": Form(
        "deposit",
        models.Deposit,
        _movement(Kind.DEPOSIT),
        Need(Scope.DEPOSIT, by_accounts=True),
        Kind.DEPOSIT,
    ),
    "transfer": Form(
        "transfer",
        models.Transfer,
        _transfer,
        Need(Scope.TRANSFER, by_accounts=True),
        Kind.TRANSFER,
    ),
    "withdraw": Form(
        "withdraw",
        models.Withdrawal,
        _movement(Kind.WITHDRAWAL),
        Need(Scope.WITHDRAW, by_accounts=True),
        Kind.WITHDRAWAL,
    ),
    "transaction": Form(
        "transaction",
        models.PostTransaction,
        _general,
        Need(Scope.TRANSACTIONS, by_accounts=True),
    ),
    "hold": Form("hold", models.PlaceHold, _hold, Need(Scope.HOLDS, by_accounts=True)),
    "capture": Form("capture", models.CaptureHold, _capture, Need(Scope.HOLDS, by_accounts=True)),
    "release": Form("release", models.ReleaseHold, _release, Need(Scope.HOLDS, by_accounts=True)),
    "reverse": Form(
        "reverse", models.ReverseTransaction, _reverse, Need(Scope.REVERSALS, by_accounts=True)
    ),
    "policy": Form("policy", models.ChangePolicy, _policy, Need(POLICIES, by_accounts=True)),
    "cancel": Form(
        "cancel", models.CancelSchedule, _cancel, Need(Scope.SCHEDULES, by_accounts=True)
    ),
}

MONEY_PATHS = {
    path: form
    for name, form in FORMS.items()
    if form.kind is not None
    for path in (f"/{name}", f"/{name}/")
}
"""The money routes. FastAPI declares the same routes for /docs, with the same handler."""

BY_TYPE = {
    "DEPOSIT": FORMS["deposit"],
    "WITHDRAWAL": FORMS["withdraw"],
    "WITHDRAW": FORMS["withdraw"],
    "TRANSFER": FORMS["transfer"],
    "TRANSACTION": FORMS["transaction"],
    "HOLD": FORMS["hold"],
    "CAPTURE": FORMS["capture"],
    "RELEASE": FORMS["release"],
    "REVERSAL": FORMS["reverse"],
    "POLICY": FORMS["policy"],
    "CANCELLATION": FORMS["cancel"],
}
"""The forms, by the `type` of an item of a batch."""
