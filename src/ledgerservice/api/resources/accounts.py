"""Accounts and their policies."""

import uuid
from collections.abc import Sequence
from datetime import datetime
from functools import cache
from typing import Annotated, Any, Literal, Self

from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec import UNSET, Meta, UnsetType
from pydantic import BeforeValidator, Field

from ledgerservice.access.grants import Need
from ledgerservice.access.scopes import Scope
from ledgerservice.api.http.bodies import Body, body_of
from ledgerservice.api.http.calendar import AsOf, Zone
from ledgerservice.api.http.call import (
    Call,
    accounts_seen,
    call_of,
    checked_key,
    created,
    home_of,
    id_of,
    json_response,
    key_of,
    reader_of,
    readers_of,
    runtime_of,
)
from ledgerservice.api.http.fields import (
    AmountText,
    Answer,
    JsonObject,
    Metadata,
    PartNumber,
    PrincipalId,
    Text,
    TimestampText,
)
from ledgerservice.api.http.openapi import DRY_RUN, IDEMPOTENCY_KEY, body_schema, get, post
from ledgerservice.api.http.pages import (
    Page,
    Paging,
    PeriodFilters,
    filter_values,
    first_rows,
    listing,
)
from ledgerservice.api.http.parameters import (
    FilterCode,
    FilterText,
    MetadataFilter,
    Parameters,
    SignedBound,
    integer,
    parameters_of,
)
from ledgerservice.api.http.problems import ProblemError, invalid, rejection
from ledgerservice.domain.accounts import FrozenName, Opened, Opening, restrictions_of
from ledgerservice.domain.amounts import optional_amount, to_major
from ledgerservice.domain.instructions import BIGGEST_ID, Frozen, Origin
from ledgerservice.domain.timestamps import timestamp
from ledgerservice.domain.transactions import Rejected
from ledgerservice.feed.balances import CachedAccount, find_account
from ledgerservice.postgres.queries import accounts as queries
from ledgerservice.postgres.queries import as_of
from ledgerservice.postgres.queries.accounts import AccountView, PolicyView
from ledgerservice.postgres.queries.gathered.accounts import AccountRead
from ledgerservice.postgres.search import Place
from ledgerservice.posting.standby import StandbyAccount

router = APIRouter(tags=["accounts"])


# Opening and finding accounts.

Status = Literal["active", "frozen", "closed"]
Consistency = Literal["strong", "cached", "standby"]


class Account(Answer, kw_only=True):
    """An account, as it is or as of a timestamp."""

    id: int
    owner: str
    currency: str
    reference: str | None
    metadata: JsonObject | None
    balance: AmountText
    held: AmountText
    available: AmountText
    version: int
    status: Status
    floor: AmountText | None
    ceiling: AmountText | None
    frozen: FrozenName | None
    closed: bool
    created_at: TimestampText
    principal_id: PrincipalId | None
    as_of: TimestampText | UnsetType = UNSET
    final: (
        Annotated[bool, Meta(description="Nothing more can be recorded by `as_of`.")] | UnsetType
    ) = UNSET
    consistency: (
        Annotated[Consistency, Meta(description="Where it was read, if the request names one.")]
        | UnsetType
    ) = UNSET
    position: (
        Annotated[
            str,
            Meta(description="The event that made a cached `version`.", examples=["1-1301"]),
        ]
        | UnsetType
    ) = UNSET
    age_ms: (
        Annotated[
            int,
            Meta(
                description="Time since the cache was written to, or how far the "
                "standby is behind.",
                ge=0,
            ),
        ]
        | UnsetType
    ) = UNSET

    @classmethod
    def of(cls, account: AccountView, **then: Any) -> Self:
        """The account as it is answered; `then` are the members that some answers have."""
        return cls.of_row(
            account,
            available=to_major(account.balance - account.held, account.exponent),
            status=_status(account.restricted),
            **restrictions_of(account.restricted),
            **then,
        )


@cache
def _status(restricted: int) -> Status:
    if restricted & Frozen.CLOSED:
        return "closed"
    return "frozen" if restricted else "active"


class OpenAccount(Body):
    """Open an account."""

    owner: Text = Field(examples=["Alice"])
    currency: str = Field(min_length=1, max_length=16, pattern="^[A-Z0-9]+$", examples=["USD"])
    reference: Text | None = Field(
        default=None, description="The caller's name for the account, unique in the ledger."
    )
    metadata: Metadata | None = None
    part: PartNumber | None = Field(
        default=None, description="The part of the ledger that has the account, from 0 on."
    )


EXAMPLES = {
    "alice": {"owner": "Alice", "currency": "USD"},
    "bob": {"owner": "Bob", "currency": "USD"},
    "with_a_reference": {"owner": "Carol", "currency": "INR", "reference": "customer-3"},
}


@post(
    router,
    "/accounts/",
    Account,
    body_schema(OpenAccount, EXAMPLES),
    status=201,
    refusals=(408, 409, 413, 415, 422, 503),
    parameters=(IDEMPOTENCY_KEY, DRY_RUN),
    links={"get_account": {"account_id": "id"}, "get_history": {"account_id": "id"}},
    need=Need(Scope.ACCOUNTS_OPEN),
)
async def open_account(request: Request) -> Response:
    """Open an account with a zero balance.

    With a reference or a key, a repeat has no effect.
    """
    call = call_of(request)
    body = await body_of(call, OpenAccount)
    key, origin = _opening_key(call)
    opening = Opening(
        body.owner,
        body.currency,
        body.reference,
        key,
        call.ledger,
        call.dry_run,
        body.metadata,
        origin,
        call.caller.principal_id,
        body.part,
    )
    outcome = await call.runtime.open_account(opening)
    if isinstance(outcome, Rejected):
        raise rejection(outcome)
    return created(opened(outcome), replayed=outcome.replayed)


def _opening_key(call: Call) -> tuple[str, Origin]:
    """The key of the caller, or a new one, by which a batch that runs again finds its accounts."""
    key = key_of(call.headers)
    if key is None:
        return uuid.uuid4().hex, Origin.UNKEYED
    return checked_key(None, key), Origin.CALLER


def opened(account: Opened) -> Account:
    """The account as it was opened: empty, whatever has happened to it since."""
    zero = to_major(0, account.exponent)
    return Account.of_row(
        account,
        id=account.account_id,
        balance=zero,
        held=zero,
        available=zero,
        version=0,
        floor=zero,
        status="active",
        ceiling=None,
        **restrictions_of(0),
    )


class AccountFilters(PeriodFilters):
    """Which accounts are listed: those opened in [from, to). Filters add up."""

    owner: FilterText | None = None
    currency: FilterCode | None = None
    reference: FilterText | None = None
    status: Status | None = None
    min_balance: SignedBound | None = None
    max_balance: SignedBound | None = None
    metadata: MetadataFilter | None = None


@get(
    router,
    "/accounts/",
    list[Account],
    AccountFilters,
    need=Need(Scope.ACCOUNTS_READ, by_accounts=True),
)
async def list_accounts(request: Request) -> Response:
    """Accounts by id, or, with `from` or `to`, by the time at which they were opened.

    The Link header leads to the next page, also from a page with fewer rows than `limit`.
    """
    seen = accounts_seen(request, Scope.ACCOUNTS_READ)

    async def read(filters: AccountFilters, after: Place | None) -> Page:
        readers = await readers_of(request)
        values = await filter_values(readers[0], filters)
        values["ids"] = None if seen is None else sorted(seen)
        rows, end = await queries.list_filtered_of_all(
            readers, queries.AccountFilter(**values), filters.limit, after
        )
        return Page([Account.of(row) for row in rows], end)

    return await listing(request, AccountFilters, tuple[datetime | int, ...], read)


class Reading(Parameters):
    """At which time the account is shown, or how it is read."""

    timezone: Zone = "UTC"
    as_of: AsOf | None = None
    consistency: Consistency | None = Field(
        default=None,
        description="`cached`, `standby`: it may come from the cache, or a standby, and be older.",
    )
    min_version: (
        Annotated[
            int,
            Field(ge=0, le=BIGGEST_ID, description="An older version is not answered."),
            BeforeValidator(integer),
        ]
        | None
    ) = None


@get(
    router,
    "/accounts/{account_id:row}",
    Account,
    Reading,
    links={"get_history": {"account_id": "id"}},
    need=Need(Scope.ACCOUNTS_READ, by_accounts=True),
)
async def get_account(request: Request) -> Response:
    """The account as it is, or as it was at `as_of`.

    `final` says whether nothing more can be recorded by `as_of`. With `consistency=cached` the
    answer may be older: it is the account as of `version`, which was recorded at `as_of`. If the
    cache does not have it, or not in `min_version`, the answer is the account as it is, and
    `consistency` is `strong`. With `consistency=standby` it has everything that was answered before
    `as_of`, `age_ms` ago; if no standby has it so, the answer is the account as it is.
    """
    reading = parameters_of(request, Reading)
    if reading.as_of is None:
        return json_response(await _present_account(request, reading))
    if reading.consistency in ("cached", "standby"):
        raise invalid("consistency", f"must not be {reading.consistency} together with as_of")
    then = await account_at(request, reading.as_of)
    return json_response(
        Account.of(then.view, as_of=timestamp(then.at), final=then.final, **_named(reading))
    )


async def _present_account(request: Request, reading: Reading) -> Account:
    account_id = id_of(request, "account_id", "account_not_found")
    runtime = runtime_of(request)
    caches = {"cached": runtime.cache, "standby": runtime.standby}
    cache = caches.get(reading.consistency or "strong")
    read = AccountRead(home_of(request), account_id)
    account = await find_account(cache, runtime.reads.accounts.post, read, reading.min_version or 0)
    if account is None:
        raise ProblemError("account_not_found")
    if isinstance(account, CachedAccount | StandbyAccount):
        return Account.of(
            account,
            as_of=timestamp(account.as_of),
            consistency=reading.consistency,
            position=account.position if isinstance(account, CachedAccount) else UNSET,
            age_ms=account.age_ms,
        )
    return Account.of(account, **_named(reading))


def _named(reading: Reading) -> dict[str, Any]:
    """The member `consistency` of an answer from PostgreSQL, if the request has the parameter."""
    return {} if reading.consistency is None else {"consistency": "strong"}


async def account_at(request: Request, at: datetime) -> as_of.AccountAt:
    """The account of the path as of a timestamp."""
    account_id = id_of(request, "account_id", "account_not_found")
    account = await as_of.account_at(reader_of(request), account_id, at)
    if account is None:
        raise ProblemError("account_not_found")
    return account


async def check_account(request: Request, account_id: int, rows: Sequence[Any]) -> None:
    """Raises `account_not_found` if an account has no rows because it does not exist."""
    if not rows:
        read = AccountRead(home_of(request), account_id)
        if await runtime_of(request).reads.accounts.post(read) is None:
            raise ProblemError("account_not_found")


# What changed its limits.


class PolicyChange(Answer, kw_only=True):
    """The policy of an account from its entry `version` on, and who changed it and why."""

    version: int
    transaction_id: int
    floor: AmountText
    ceiling: AmountText | None
    frozen: FrozenName | None
    closed: bool
    actor: str | None
    reason: str | None
    changed_at: TimestampText
    forced_to: (
        Annotated[AmountText, Meta(description="The available amount after a forced reversal.")]
        | UnsetType
    ) = UNSET

    @classmethod
    def of(cls, policy: PolicyView) -> Self:
        """The change as it is answered."""
        return cls.of_row(
            policy,
            **restrictions_of(policy.restricted),
            changed_at=timestamp(policy.recorded_at),
            forced_to=optional_amount(policy.lowest, policy.exponent) or UNSET,
        )


@get(
    router,
    "/accounts/{account_id}/policies",
    list[PolicyChange],
    Paging,
    need=Need(Scope.ACCOUNTS_READ, by_accounts=True),
)
async def list_policies(request: Request) -> Response:
    """The changes of an account's limits, newest first: what, when, by whom and why."""
    reader = reader_of(request)
    account_id = id_of(request, "account_id", "account_not_found")

    async def read(filters: Paging, before: int | None) -> Page:
        rows = await queries.list_policies(
            reader, account_id, filters.limit + 1, before or BIGGEST_ID
        )
        await check_account(request, account_id, rows)
        return first_rows(rows, filters.limit, PolicyChange.of, lambda last: last.version)

    return await listing(request, Paging, int, read)
