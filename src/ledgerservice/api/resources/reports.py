"""Answers of the routes that look back and across, for /docs."""

from pydantic import BaseModel, Field


class Recorded(BaseModel):
    """What had been recorded of an account by a moment."""

    balance: str
    held: str
    available: str
    version: int


class Effective(BaseModel):
    """What takes effect on an account by a moment, whenever it is recorded."""

    balance: str


class Balances(BaseModel):
    """An account's balances as of a moment; `final`: what was recorded by it cannot change."""

    account_id: int
    currency: str
    at: str
    final: bool
    recorded: Recorded
    effective: Effective


class StatementLine(BaseModel):
    """One entry of a statement, with the balance after it."""

    version: int
    recorded_at: str
    transaction_id: int
    transaction_type: str
    amount: str
    balance: str
    counterparty_id: int | None
    idempotency_key: str
    description: str | None
    reference: str | None
    effective_at: str | None


class Statement(BaseModel):
    """An account's statement; opening balance plus entries is the closing balance."""

    account_id: int
    owner: str
    currency: str
    final: bool
    opening_balance: str
    closing_balance: str
    entries_total: int
    from_: str | None = Field(alias="from")
    to: str | None
    entries: list[StatementLine]


class TrialRow(BaseModel):
    """A currency's sums: of what is owed, of what is had, and of customers and the outside."""

    currency: str
    accounts: int
    debits: str
    credits: str
    customers: str
    external: str
    total: str


class TrialBalance(BaseModel):
    """The sums by currency; each `total` is zero. `final`: as of `at` they stay as they are."""

    at: str | None
    final: bool
    currencies: list[TrialRow]


class OwnerBalance(BaseModel):
    """What an owner has in a currency, over all accounts."""

    owner: str
    currency: str
    accounts: int
    balance: str
    held: str


class MetadataTotal(BaseModel):
    """Posted transactions that have a value of a metadata key."""

    value: str | None
    currency: str
    transactions: int
    amount: str
