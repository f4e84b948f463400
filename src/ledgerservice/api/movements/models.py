"""The bodies of requests for movements, as Pydantic models."""

from typing import Annotated, Any, ClassVar, Literal, Self

from pydantic import Field, model_validator
from pydantic import WithJsonSchema as Schema

from ledgerservice.api.http.bodies import Body
from ledgerservice.api.http.fields import (
    AccountId,
    Amount,
    Code,
    Description,
    Key,
    Limit,
    Metadata,
    Rate,
    SignedAmount,
    Text,
    Timestamp,
    Version,
)
from ledgerservice.domain.accounts import FrozenName
from ledgerservice.domain.instructions import MAX_LEGS


class Detailed(Body):
    """The fields of every movement. What is recorded with it cannot be changed afterwards."""

    idempotency_key: Key | None = None
    description: Description | None = None
    reference: Text | None = Field(
        default=None, description="The caller's name for it, such as the number of an invoice."
    )
    effective_at: Timestamp | None = Field(
        default=None, description="When it takes effect, if not when it is recorded."
    )
    metadata: Metadata | None = None


class Deposit(Detailed):
    """Deposit money from outside into an account."""

    account_id: AccountId
    amount: Amount
    type: Literal["DEPOSIT"] | None = None


class Withdrawal(Detailed):
    """Withdraw money from an account."""

    account_id: AccountId
    amount: Amount
    type: Literal["WITHDRAWAL", "WITHDRAW"] | None = None


class Transfer(Detailed):
    """Transfer money between two accounts of the same currency, now or at `execute_at`."""

    from_account_id: AccountId
    to_account_id: AccountId
    amount: Amount
    execute_at: Timestamp | None = None
    type: Literal["TRANSFER"] | None = None

    @model_validator(mode="after")
    def _has_one_time(self) -> Self:
        if self.execute_at and self.effective_at:
            raise ValueError("effective_at cannot be combined with execute_at")
        return self


class Leg(Body):
    """A signed amount on an account, and conditions that the account must meet before it."""

    account_id: AccountId
    amount: SignedAmount
    currency: Code | None = None
    available_at_least: Limit | None = None
    balance_at_least: Limit | None = None
    version: Version | None = None


class PlainLeg(Body):
    """A signed amount on an account."""

    account_id: AccountId
    amount: SignedAmount


class Exchange(Body):
    """The rate of an exchange: one unit of `sell` costs `rate` units of `buy`.

    A rounding difference is posted to `rounding_account_id`.
    """

    sell: Code
    buy: Code
    rate: Rate
    rounding_account_id: AccountId | None = None
    sold: Amount | None = Field(
        default=None,
        description="The exchanged amount, if more of `sell` is moved, for example with a fee.",
    )


class PostTransaction(Detailed):
    """Post a transaction of 2 to 500 legs, which sum to zero in each currency."""

    legs: list[Leg] = Field(min_length=2, max_length=MAX_LEGS)
    exchange: Exchange | None = None
    type: Literal["TRANSACTION"] | None = None


class PlaceHold(Detailed):
    """Reserve an amount, for a later transfer to `to_account_id` or for a later withdrawal."""

    account_id: AccountId
    amount: Amount
    to_account_id: AccountId | None = None
    expires_at: Timestamp | None = None
    capture_at: Timestamp | None = Field(
        default=None, description="When the service captures what remains."
    )
    type: Literal["HOLD"] | None = None

    @model_validator(mode="after")
    def _captures_before_it_expires(self) -> Self:
        if self.expires_at and self.capture_at and self.capture_at >= self.expires_at:
            raise ValueError("capture_at must be before expires_at")
        return self


class CaptureHold(Detailed):
    """Move the held money: an amount, or all that remains. `final` releases the rest."""

    hold_id: AccountId
    amount: Amount | None = None
    final: bool = False
    type: Literal["CAPTURE"] | None = None


class ReleaseHold(Detailed):
    """Release held money: an amount, or all that remains."""

    hold_id: AccountId
    amount: Amount | None = None
    type: Literal["RELEASE"] | None = None


class ReverseTransaction(Detailed):
    """Reverse a transaction: all that remains of it, an amount, or by legs."""

    transaction_id: AccountId
    amount: Amount | None = None
    legs: list[PlainLeg] | None = Field(default=None, min_length=2, max_length=MAX_LEGS)
    force: bool = Field(
        default=False,
        description="Overdraw the account if necessary. Requires the force token, `actor` (who) "
        "and `description` (why).",
    )
    actor: Text | None = None
    type: Literal["REVERSAL"] | None = None

    @model_validator(mode="after")
    def _is_consistent(self) -> Self:
        if self.amount is not None and self.legs is not None:
            raise ValueError("amount cannot be combined with legs")
        if self.force and not (self.actor and self.description):
            raise ValueError("force requires actor (who) and description (why)")
        if self.actor and not self.force:
            raise ValueError("actor requires force")
        return self


class ChangePolicy(Body):
    """Change the limits of an account. Limits that are not given stay; who and why are recorded."""

    nullable: ClassVar = ("ceiling", "frozen")

    account_id: AccountId
    floor: Limit | None = Field(
        default=None, description="The lowest available amount; -50 allows an overdraft of 50."
    )
    ceiling: Limit | None = Field(
        default=None, description="The highest balance; null removes the limit."
    )
    frozen: FrozenName | None = Field(
        default=None, description="The movements that it refuses; null allows all of them."
    )
    closed: Literal[True] | None = Field(
        default=None, description="Close the account for ever. Its balance must be zero."
    )
    actor: Text = Field(description="Who changes it.", examples=["credit desk"])
    reason: Description = Field(description="Why.", examples=["good customer"])
    idempotency_key: Key | None = None
    type: Literal["POLICY"] | None = None

    @model_validator(mode="after")
    def _changes_a_limit(self) -> Self:
        if not self.model_fields_set & {"floor", "ceiling", "frozen", "closed"}:
            raise ValueError("one of floor, ceiling, frozen and closed is required")
        for name in ("floor", "closed"):
            if name in self.model_fields_set and getattr(self, name) is None:
                raise ValueError(f"{name} cannot be null")
        return self


class CancelSchedule(Detailed):
    """Cancel a scheduled transfer."""

    schedule_id: AccountId
    type: Literal["CANCELLATION"] | None = None


class Batch(Body):
    """Many movements, each by itself (independent), or all or none (atomic)."""

    movements: Annotated[
        list[Any],
        Schema(
            {
                "type": "array",
                "minItems": 1,
                "maxItems": 10_000,
                "description": "An item that is not valid is refused by itself.",
                "items": {
                    "x-name": "BatchMember",
                    "anyOf": [{"x-ref": "BatchItem"}, {"x-ref": "LinkedItems"}],
                },
            }
        ),
    ]
    mode: Literal["independent", "atomic"] = "independent"
