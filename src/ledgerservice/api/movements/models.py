"""Requests and answers as Pydantic models: the requests are validated by them, /docs shows both."""

from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator
from pydantic import WithJsonSchema as Schema

from ledgerservice.api.http.fields import (
    AccountId,
    Amount,
    Code,
    Description,
    Exponent,
    Key,
    Limit,
    Metadata,
    Moment,
    Rate,
    SignedAmount,
    Text,
    Version,
)
from ledgerservice.domain.currencies import CODE_PATTERN
from ledgerservice.domain.instructions import MAX_LEGS
from ledgerservice.domain.ledgers import LEDGER_NAME_PATTERN


class _Request(BaseModel):
    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)


class OpenAccount(_Request):
    """Open an account."""

    owner: Text = Field(examples=["Alice"])
    currency: str = Field(min_length=1, max_length=16, pattern="^[A-Z0-9]+$", examples=["USD"])
    reference: Text | None = Field(
        default=None, description="Your own name for the account, unique in the ledger."
    )
    metadata: Metadata | None = None


class AddCurrency(_Request):
    """Add a currency, or a unit of your own: points, hours, BTC."""

    code: str = Field(pattern=f"^{CODE_PATTERN}$", examples=["BTC"])
    exponent: Exponent
    name: Text = Field(examples=["Bitcoin"])


class Detailed(_Request):
    """What every request may add to its transaction; none of it can be changed afterwards."""

    idempotency_key: Key | None = None
    description: Description | None = None
    reference: Text | None = Field(
        default=None, description="Your own name for it, such as an invoice's number."
    )
    effective_at: Moment | None = Field(
        default=None, description="When it takes effect, if not when it is recorded."
    )
    metadata: Metadata | None = None


class Deposit(Detailed):
    """Money into an account, from outside."""

    account_id: AccountId
    amount: Amount
    type: Literal["DEPOSIT"] | None = None


class Withdrawal(Detailed):
    """Money out of an account, to the outside."""

    account_id: AccountId
    amount: Amount
    type: Literal["WITHDRAWAL", "WITHDRAW"] | None = None


class Transfer(Detailed):
    """Money from one account to another of the same currency, now or at `execute_at`."""

    from_account_id: AccountId
    to_account_id: AccountId
    amount: Amount
    execute_at: Moment | None = None
    type: Literal["TRANSFER"] | None = None

    @model_validator(mode="after")
    def _takes_effect_once(self) -> Self:
        if self.execute_at and self.effective_at:
            raise ValueError("effective_at is not for a transfer to come, which takes effect then")
        return self


class Leg(_Request):
    """A signed amount on an account, and what must be true of the account before it."""

    account_id: AccountId
    amount: SignedAmount
    currency: Code | None = None
    available_at_least: Limit | None = None
    balance_at_least: Limit | None = None
    version: Version | None = None


class PlainLeg(_Request):
    """A signed amount on an account."""

    account_id: AccountId
    amount: SignedAmount


class Exchange(_Request):
    """One unit of `sell` is given for `rate` units of `buy`; rounding goes to an account."""

    sell: Code
    buy: Code
    rate: Rate
    rounding_account_id: AccountId | None = None
    sold: Amount | None = Field(
        default=None, description="How much is exchanged, if more of `sell` is moved, as a fee."
    )


class PostTransaction(Detailed):
    """A transaction of 2 to 500 legs, which sum to zero in each currency."""

    legs: list[Leg] = Field(min_length=2, max_length=MAX_LEGS)
    exchange: Exchange | None = None
    type: Literal["TRANSACTION"] | None = None


class PlaceHold(Detailed):
    """Reserve an amount, to be captured for `to_account_id`, or else to the outside."""

    account_id: AccountId
    amount: Amount
    to_account_id: AccountId | None = None
    expires_at: Moment | None = None
    capture_at: Moment | None = Field(
        default=None, description="When the service captures what then remains."
    )
    type: Literal["HOLD"] | None = None

    @model_validator(mode="after")
    def _in_order(self) -> Self:
        if self.expires_at and self.capture_at and self.capture_at >= self.expires_at:
            raise ValueError("capture_at must be before expires_at")
        return self


class CaptureHold(Detailed):
    """Move held money: an amount, or all that remains. `final` releases the rest."""

    hold_id: AccountId
    amount: Amount | None = None
    final: bool = False
    type: Literal["CAPTURE"] | None = None


class ReleaseHold(Detailed):
    """Give held money back to its account: an amount, or all that remains."""

    hold_id: AccountId
    amount: Amount | None = None
    type: Literal["RELEASE"] | None = None


class ReverseTransaction(Detailed):
    """Move a transaction's money back: all that is left of it, an amount, or by legs."""

    transaction_id: AccountId
    amount: Amount | None = None
    legs: list[PlainLeg] | None = Field(default=None, min_length=2, max_length=MAX_LEGS)
    force: bool = Field(
        default=False,
        description="Overdraw if need be, for those who have the force token. Says who (`actor`) "
        "and why (`description`).",
    )
    actor: Text | None = None
    type: Literal["REVERSAL"] | None = None

    @model_validator(mode="after")
    def _one_way(self) -> Self:
        if self.amount is not None and self.legs is not None:
            raise ValueError("give an amount or legs, not both")
        if self.force and not (self.actor and self.description):
            raise ValueError("force says who asks for it (actor), and why (description)")
        if self.actor and not self.force:
            raise ValueError("actor is for a reversal that is forced")
        return self


class ChangePolicy(_Request):
    """Change an account's limits; what is not given stays. Who and why are kept."""

    account_id: AccountId
    floor: Limit | None = Field(
        default=None, description="The available amount stays at or above it; -50 is an overdraft."
    )
    ceiling: Limit | None = Field(
        default=None, description="The balance stays at or below it; null takes it away."
    )
    frozen: Literal["debits", "credits", "both"] | None = None
    closed: Literal[True] | None = Field(
        default=None, description="For ever; the balance must be zero."
    )
    actor: Text = Field(description="Who asks for it.", examples=["credit desk"])
    reason: Description = Field(description="Why.", examples=["good customer"])
    idempotency_key: Key | None = None
    type: Literal["POLICY"] | None = None

    @model_validator(mode="after")
    def _some_change(self) -> Self:
        if not self.model_fields_set & {"floor", "ceiling", "frozen", "closed"}:
            raise ValueError("give a floor, a ceiling, frozen or closed")
        for name in ("floor", "closed"):
            if name in self.model_fields_set and getattr(self, name) is None:
                raise ValueError(f"{name} cannot be null")
        return self


class CancelSchedule(Detailed):
    """Do not make a scheduled transfer."""

    schedule_id: AccountId
    type: Literal["CANCELLATION"] | None = None


class AddLedger(_Request):
    """Add a ledger: a closed book of accounts of its own."""

    name: str = Field(pattern=f"^{LEDGER_NAME_PATTERN}$", examples=["marketplace"])


_ITEMS = [
    {"type": "DEPOSIT", "account_id": 1, "amount": "50.00", "idempotency_key": "b-1"},
    {"type": "WITHDRAWAL", "account_id": 1, "amount": "20.00", "idempotency_key": "b-2"},
    {
        "type": "TRANSFER",
        "from_account_id": 1,
        "to_account_id": 2,
        "amount": "5.00",
        "idempotency_key": "b-3",
    },
]


class Batch(_Request):
    """Many movements: each for itself (independent), or all or none (atomic)."""

    movements: Annotated[
        list[Any],
        Schema(
            {
                "type": "array",
                "minItems": 1,
                "maxItems": 10_000,
                "items": {
                    "description": "The body of a money route, with its type and its key. An item "
                    "that is not right is refused by itself.",
                    "examples": _ITEMS,
                },
                "examples": [_ITEMS],
            }
        ),
    ]
    mode: Literal["independent", "atomic"] = "independent"


class Account(BaseModel):
    """An account as it stands; amounts are decimals in major units."""

    id: int
    owner: str
    currency: str
    reference: str | None
    metadata: dict[str, Any] | None
    balance: str
    held: str
    available: str
    version: int
    status: Literal["active", "frozen", "closed"]
    floor: str | None
    ceiling: str | None
    frozen: Literal["debits", "credits", "both"] | None
    closed: bool
    created_at: str


class AccountAsOf(Account):
    """An account, as it stands or as it stood; then `final` says whether that can still change."""

    as_of: str | None = None
    final: bool | None = None


class Ledger(BaseModel):
    """A ledger: a closed book, whose accounts move money among themselves."""

    name: str
    created_at: str


class Hold(BaseModel):
    """A hold as it stands. What expired counts as released."""

    id: int
    status: Literal["open", "captured", "released", "expired"]
    account_id: int
    counterparty_id: int
    currency: str
    amount: str
    captured: str
    released: str
    remaining: str
    expires_at: str | None
    capture_at: str | None
    created_at: str


class Schedule(BaseModel):
    """A scheduled transfer; `settled_by` is the transaction that executed or cancelled it."""

    id: int
    status: Literal["pending", "executed", "declined", "cancelled"]
    from_account_id: int
    to_account_id: int
    amount: str
    currency: str
    execute_at: str
    created_at: str
    settled_by: int | None


class PolicyChange(BaseModel):
    """What an account's policy became with its entry `version`, by whom and why."""

    version: int
    transaction_id: int
    floor: str
    ceiling: str | None
    frozen: Literal["debits", "credits", "both"] | None
    closed: bool
    actor: str | None
    reason: str | None
    changed_at: str
    forced_to: str | None = None


class Entry(BaseModel):
    """One account's part in a transaction: its signed amount, and its balance and version after."""

    account_id: int
    amount: str
    balance: str
    version: int


class Posted(BaseModel):
    """A movement that was made."""

    status: Literal["posted"]
    transaction_id: int
    transaction_type: Literal["DEPOSIT", "WITHDRAWAL", "TRANSFER", "SCHEDULE"]
    amount: str
    currency: str
    recorded_at: str
    entries: list[Entry]


class PostedOwn(Posted):
    """A deposit or withdrawal that was made."""

    new_balance: str


class PostedTransfer(Posted):
    """A transfer that was made."""

    sender_new_balance: str


TransactionType = Literal[
    "DEPOSIT", "WITHDRAWAL", "TRANSFER", "GENERAL", "HOLD", "CAPTURE", "RELEASE", "REVERSAL",
    "POLICY", "SCHEDULE", "CANCELLATION",
]  # fmt: skip


class DetailedEntry(Entry):
    """An entry with its currency, and what it changed of the held amount."""

    currency: str
    held_change: str
    held: str


class PostedDetailed(BaseModel):
    """A transaction that was made, with what its kind and its caller add."""

    status: Literal["posted"]
    transaction_id: int
    transaction_type: TransactionType
    amount: str
    currency: str
    recorded_at: str
    entries: list[DetailedEntry]
    hold_id: int | None = None
    reverses: int | None = None
    schedule_id: int | None = None
    counterparty_id: int | None = None
    remaining: str | None = None
    expires_at: str | None = None
    capture_at: str | None = None
    execute_at: str | None = None
    exchange: dict[str, Any] | None = None
    floor: str | None = None
    ceiling: str | None = None
    frozen: Literal["debits", "credits", "both"] | None = None
    closed: bool | None = None
    actor: str | None = None
    reason: str | None = None
    description: str | None = None
    reference: str | None = None
    effective_at: str | None = None
    metadata: dict[str, Any] | None = None


class DecidedOn(BaseModel):
    """The state of the account that a decline was decided on."""

    account_id: int
    available: str
    version: int
    balance: str | None = None
    currency: str | None = None


class Result(BaseModel):
    """What an item of a batch got: the status and body that its own request would have got."""

    index: int
    status: int
    replayed: bool
    body: dict[str, Any]


class Results(BaseModel):
    """A result for every item, in the order of the items."""

    results: list[Result]


class Transaction(PostedDetailed):
    """A recorded transaction: posted, with its entries, or declined, with what decided it.

    It is linked with what builds on it: its reversals, or a hold's or schedule's steps.
    """

    account_id: int
    idempotency_key: str
    status: Literal["posted", "declined"]  # type: ignore[assignment]
    entries: list[Entry | DetailedEntry]  # type: ignore[assignment]
    code: str | None = None
    decided_on: DecidedOn | None = None
    reversed_by: list[int] | None = None
    steps: list[int] | None = None


class Currency(BaseModel):
    """A currency: its code, the digits after the point of its amounts, and its name."""

    code: str
    exponent: int
    name: str


class HistoryEntry(BaseModel):
    """One entry of an account's history."""

    transaction_id: int
    transaction_type: str = Field(examples=["DEPOSIT", "TRANSFER_OUT", "TRANSFER_IN", "HOLD"])
    amount: str
    balance: str
    held_change: str
    held: str
    version: int
    idempotency_key: str
    created_at: str


class Fault(BaseModel):
    """What is wrong with a field of a request."""

    field: str
    message: str


class ProblemDetails(BaseModel):
    """Why a request was refused, and whether sending it again is safe (RFC 9457)."""

    type: str
    title: str
    status: int
    code: str
    detail: str
    retry: Literal["same_key", "new_key", "corrected"] = Field(
        description="Whether it is safe, and useful, to send it again, and with which key."
    )
    account_id: int | None = Field(default=None, description="The account at fault, if one is.")
    errors: list[Fault] | None = Field(default=None, description="What is wrong in the request.")
    idempotency_key: str | None = Field(default=None, description="Of a decline, which is kept.")
    transaction_id: int | None = Field(default=None, description="The record of a decline.")
    transaction_type: TransactionType | None = None
    amount: str | None = None
    currency: str | None = None
    recorded_at: str | None = None
    hold_id: int | None = None
    reverses: int | None = None
    schedule_id: int | None = None
    decided_on: DecidedOn | None = None
    index: int | None = Field(default=None, description="The item of a batch at fault.")
    cause: dict[str, Any] | None = Field(default=None, description="Why that item failed.")
    max_bytes: int | None = Field(default=None, description="The most that is accepted.")
