"""Who the caller is, and what it may do."""

from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec import Meta

from ledgerservice.access.covering import AccountGrant
from ledgerservice.access.grants import ANY_KEY, Caller
from ledgerservice.access.scopes import names_of
from ledgerservice.api.http.authentication import caller_of
from ledgerservice.api.http.call import directory_reader_of, json_response
from ledgerservice.api.http.fields import Answer, TimestampText
from ledgerservice.api.http.openapi import get
from ledgerservice.api.http.parameters import NoParameters, parameters_of
from ledgerservice.domain.timestamps import optional_timestamp
from ledgerservice.postgres.access.identity import find_key_holder, find_person
from ledgerservice.postgres.access.limits import KeyLimits

router = APIRouter(tags=["operations"])

MOST_ACCOUNTS = 1_000
"""The accounts that are listed of a grant."""

Scopes = Annotated[list[str], Meta(examples=[["accounts:read", "transactions:read"]])]
Accounts = Annotated[list[int], Meta(description=f"At most {MOST_ACCOUNTS:,} of them.")]


class Limits(Answer):
    """What the caller may use of a process; null is no limit."""

    rate: Annotated[float | None, Meta(description="Requests a second.")]
    burst: Annotated[int | None, Meta(description="Requests at once.")]
    queue_share: Annotated[float | None, Meta(description="The part of the queue of movements.")]
    streams: int | None
    body_bytes_s: int | None


class LimitedGrant(Answer):
    """Scopes on some accounts of a ledger. `owner`: these are among `accounts`."""

    ledger: str
    scopes: Scopes
    owner: str | None
    accounts: Accounts
    debit_from: Accounts
    credit_to: Accounts
    max_amounts: Annotated[dict[str, str], Meta(description="By currency; empty: no limit.")]


class Me(Answer):
    """The caller. Without keys it is whoever uses the service, with all scopes."""

    kind: Annotated[
        Literal["key", "certificate", "token", "open"],
        Meta(description="How the caller is known; open: no key is required, or there is none."),
    ]
    principal_id: int
    principal: Annotated[str | None, Meta(description="Its name; of a token, the subject.")]
    issuer: Annotated[str | None, Meta(description="The OpenID provider of the token.")]
    key_id: str | None
    is_signed: Annotated[bool, Meta(description="Whether each request has to be signed.")]
    expires_at: TimestampText | None
    scopes: Annotated[Scopes, Meta(description="Those on all ledgers.")]
    ledgers: Annotated[
        dict[str, list[str]], Meta(description="The further scopes on single ledgers.")
    ]
    accounts: list[LimitedGrant]
    limits: Limits


class _Facts(msgspec.Struct, frozen=True):
    """What the database, or the token, has of the caller."""

    kind: Literal["key", "certificate", "token", "open"] = "open"
    principal: str | None = None
    issuer: str | None = None
    expires_at: datetime | None = None


@get(router, "/me", Me, NoParameters, need=ANY_KEY)
async def me(request: Request) -> Response:
    """The caller: its principal, its key, its scopes by ledger, its limits, and its expiry.

    Any valid key will do. A service that is open says so.
    """
    parameters_of(request, NoParameters)
    caller = caller_of(request.scope)
    facts = await _facts_of(request, caller)
    return json_response(
        Me(
            kind=facts.kind,
            principal_id=caller.principal_id,
            principal=facts.principal,
            issuer=facts.issuer,
            key_id=caller.key_id or None,
            is_signed=caller.public_key is not None,
            expires_at=optional_timestamp(facts.expires_at),
            scopes=names_of(caller.everywhere),
            ledgers=_scopes_by_ledger(caller),
            accounts=list(_limited_grants(caller)),
            limits=_shown(caller.meter.limits),
        )
    )


async def _facts_of(request: Request, caller: Caller) -> _Facts:
    reader = directory_reader_of(request)
    if not caller.key_id:
        return _Facts()
    if caller.expires_at_s is not None:
        person = await find_person(reader, caller.principal_id)
        expiry = datetime.fromtimestamp(caller.expires_at_s, UTC)
        subject, issuer = (None, None) if person is None else (person.subject, person.issuer)
        return _Facts("token", subject, issuer, expiry)
    holder = await find_key_holder(reader, caller.key_id)
    if holder is None:
        return _Facts("key")
    kind: Literal["key", "certificate"] = "key" if holder.subject is None else "certificate"
    return _Facts(kind, holder.principal, None, holder.expires_at)


def _scopes_by_ledger(caller: Caller) -> dict[str, list[str]]:
    return {
        name: names_of(caller.by_ledger[number])
        for name, number in sorted(caller.ledgers.items())
        if number in caller.by_ledger
    }


def _limited_grants(caller: Caller) -> Iterator[LimitedGrant]:
    for name, number in sorted(caller.ledgers.items()):
        for grant in caller.by_accounts.get(number, ()):
            yield _limited_grant(name, grant)


def _limited_grant(ledger: str, grant: AccountGrant) -> LimitedGrant:
    return LimitedGrant(
        ledger=ledger,
        scopes=names_of(grant.scopes),
        owner=grant.owner,
        accounts=_first(grant.accounts),
        debit_from=_first(grant.debit_from),
        credit_to=_first(grant.credit_to),
        max_amounts={code: f"{amount:f}" for code, amount in sorted(grant.most.items())},
    )


def _first(accounts: Iterable[int]) -> list[int]:
    return sorted(accounts)[:MOST_ACCOUNTS]


def _shown(limits: KeyLimits) -> Limits:
    """The limits; 0 is none."""
    values: Mapping[str, Any] = limits.given()
    return Limits(**{name: value or None for name, value in values.items()})
