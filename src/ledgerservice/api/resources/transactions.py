"""Recorded transactions, and the outcomes of keys."""

from collections.abc import Sequence
from datetime import datetime
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote_to_bytes

from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec import UNSET, Meta, Raw, Struct, UnsetType
from pydantic import AfterValidator, BeforeValidator, Field
from pydantic import WithJsonSchema as Schema

from ledgerservice.access.grants import Need
from ledgerservice.access.scopes import Scope
from ledgerservice.api.http.authentication import denied
from ledgerservice.api.http.calendar import By
from ledgerservice.api.http.call import (
    accounts_seen,
    home_of,
    id_of,
    json_response,
    reader_of,
    readers_of,
    runtime_of,
)
from ledgerservice.api.http.fields import JsonObject, OriginName, PrincipalId
from ledgerservice.api.http.openapi import get
from ledgerservice.api.http.pages import Page, PeriodFilters, filter_values, listing
from ledgerservice.api.http.parameters import (
    Bound,
    FilterCode,
    FilterText,
    MetadataFilter,
    integer,
)
from ledgerservice.api.http.problems import DecidedOn, ProblemError
from ledgerservice.api.movements.answers import (
    Posted,
    answer,
    common_members,
    decided_on,
    detail_members,
    parent_member,
)
from ledgerservice.api.movements.showing import shown_to, without_others
from ledgerservice.domain import transactions as domain
from ledgerservice.domain.instructions import BIGGEST_ID, Kind
from ledgerservice.domain.rules import PARENT_MEMBERS
from ledgerservice.postgres.queries import transactions as queries
from ledgerservice.postgres.queries.gathered.transactions import KeyRead, TransactionRead
from ledgerservice.postgres.queries.transaction_filters import LATER_STEPS, TransactionFilter
from ledgerservice.postgres.queries.transactions import Child
from ledgerservice.postgres.search import Place

router = APIRouter(tags=["transactions"])


class Transaction(Posted, kw_only=True):
    """A recorded transaction: posted, with its entries, or declined, with what decided it.

    `origin` is the caller or the part of the service that made the request. `reversed_by` are the
    reversals of the transaction, `steps` what builds on a hold or a scheduled transfer.
    """

    status: Literal["posted", "declined"]  # type: ignore[assignment]
    account_id: int
    idempotency_key: str
    origin: OriginName
    principal_id: PrincipalId
    code: Annotated[str, Meta(description="Why it was declined.")] | UnsetType = UNSET
    decided_on: DecidedOn | UnsetType = UNSET
    reversed_by: list[int] | UnsetType = UNSET
    steps: list[int] | UnsetType = UNSET

    @classmethod
    def recorded(cls, transaction: domain.Transaction, children: Sequence[Child] = ()) -> Self:
        """The transaction as it is answered; `children` build on it."""
        others: dict[str, Any] = {
            "account_id": transaction.account_id,
            "idempotency_key": transaction.key,
            "origin": transaction.origin.name.lower(),
            "principal_id": transaction.principal_id,
            **_children(children),
        }
        if transaction.refusal is None:
            return cls.of(transaction, **others)
        return cls(**_declined(transaction, transaction.refusal), **others)


def _declined(transaction: domain.Transaction, refusal: domain.Refusal) -> dict[str, Any]:
    members: dict[str, Any] = {
        "status": "declined",
        "code": refusal.reason.value,
        "entries": [],
        "decided_on": decided_on(transaction, refusal),
        **common_members(transaction),
        **parent_member(transaction),
        **detail_members(transaction),
    }
    if transaction.kind is Kind.TRANSFER:
        members["counterparty_id"] = transaction.counterparty_id
    return members


def _children(children: Sequence[Child]) -> dict[str, list[int]]:
    """A transaction is reversed, or it is a hold or a schedule with steps."""
    reversals = [child.id for child in children if child.kind is Kind.REVERSAL]
    if reversals:
        return {"reversed_by": reversals}
    steps = [child.id for child in children if child.kind in PARENT_MEMBERS]
    return {"steps": steps} if steps else {}


_READ = Need(Scope.TRANSACTIONS_READ, by_accounts=True)
Seen = frozenset[int] | None
"""The accounts that the caller may see; None: all."""


def _shown(seen: Seen, answer: Transaction) -> Transaction | Raw:
    """A transaction as the caller is shown it."""
    return answer if seen is None else without_others(answer, seen)


@get(router, "/transactions/{transaction_id}", Transaction, need=_READ)
async def get_transaction(request: Request) -> Response:
    """A posted transaction with its entries, or the record of a declined one."""
    transaction, children, seen = await _read(request)
    return json_response(_shown(seen, Transaction.recorded(transaction, children)))


async def _read(request: Request) -> tuple[domain.Transaction, Sequence[Child], Seen]:
    """The transaction of the path, what builds on it, and the accounts that the caller may see."""
    transaction_id = id_of(request, "transaction_id", "transaction_not_found")
    seen = accounts_seen(request, Scope.TRANSACTIONS_READ)
    if seen is not None and not await queries.is_seen(reader_of(request), transaction_id, seen):
        raise ProblemError("transaction_not_found")
    home = home_of(request)
    built = await runtime_of(request).reads.transactions.post(TransactionRead(home, transaction_id))
    if built is None:
        raise ProblemError("transaction_not_found")
    return await _whole(request, built.transaction), built.children, seen


class FirstAnswer(Struct):
    """The answer to the request that made a transaction, and to each repeat of that request.

    `status` is that of HTTP. `body` has the same bytes. If the service has made the request itself,
    it is what a caller would have got.
    """

    status: int
    body: JsonObject


@get(router, "/transactions/{transaction_id}/answer", FirstAnswer, need=_READ)
async def get_answer(request: Request) -> Response:
    """The exact answer that the caller got who made the transaction."""
    transaction, _, seen = await _read(request)
    status, body = answer(transaction)
    return json_response(FirstAnswer(status, Raw(shown_to(seen, body))))


@get(
    router,
    "/accounts/{account_id}/keys/{key:path}",
    Transaction,
    links={
        "get_transaction": {"transaction_id": "transaction_id"},
        "get_account": {"account_id": "account_id"},
    },
    need=_READ,
)
async def get_key(request: Request) -> Response:
    """The transaction of a key, for a request whose answer was lost."""
    account_id = id_of(request, "account_id", "account_not_found")
    read = KeyRead(home_of(request), account_id, _key_of_path(request))
    built = await runtime_of(request).reads.transactions.post(read)
    if built is None:
        raise ProblemError("key_not_found")
    seen = accounts_seen(request, Scope.TRANSACTIONS_READ)
    transaction = await _whole(request, built.transaction)
    return json_response(_shown(seen, Transaction.recorded(transaction)))


async def _whole(request: Request, transaction: domain.Transaction) -> domain.Transaction:
    """Of a transfer to another part of the ledger, both halves."""
    return await runtime_of(request).crossings.shown(home_of(request), transaction)


def _key_of_path(request: Request) -> str:
    """The key as it was sent. A key can contain `/`, so only the raw path shows where it ends."""
    raw = request.scope["raw_path"].partition(b"?")[0]
    key = unquote_to_bytes(raw.partition(b"/keys/")[2].removesuffix(b"/"))
    if not key.isascii() or b"\0" in key:
        raise ProblemError("key_not_found")
    return key.decode()


_KINDS = {kind.name: kind for kind in Kind}
_STATUSES = {status.name.lower(): status for status in domain.Status}


_LATER_STEPS: frozenset[Any] = frozenset(LATER_STEPS)


def _kind(name: str) -> Kind:
    if name not in _KINDS:
        raise ValueError(f"must be one of {', '.join(_KINDS)}")
    return _KINDS[name]


def _status(name: str) -> domain.Status:
    if name not in _STATUSES:
        raise ValueError(f"must be one of {', '.join(_STATUSES)}")
    return _STATUSES[name]


KindName = Annotated[str, AfterValidator(_kind), Schema({"type": "string", "enum": [*_KINDS]})]
StatusName = Annotated[
    str, AfterValidator(_status), Schema({"type": "string", "enum": [*_STATUSES]})
]


class TransactionFilters(PeriodFilters):
    """Which transactions are listed. Filters add up."""

    by: By = "recorded"
    account_id: (
        Annotated[int, Field(ge=-BIGGEST_ID, le=BIGGEST_ID), BeforeValidator(integer)] | None
    ) = None
    owner: FilterText | None = None
    kind: KindName | None = None
    status: StatusName | None = None
    currency: FilterCode | None = None
    min_amount: Bound | None = None
    max_amount: Bound | None = None
    reference: FilterText | None = None
    metadata: MetadataFilter | None = None


def _check_seen(filters: TransactionFilters, seen: Seen) -> None:
    """Raise ProblemError if the list is not that of an account which the caller may see. Whether
    another account is its owner's says something of that account.
    """
    if seen is None:
        return
    if filters.account_id is None or filters.owner is not None or filters.by != "recorded":
        raise denied("limited_to_accounts", 0)
    if filters.account_id not in seen:
        raise ProblemError("account_not_found")


def _is_whole(filters: TransactionFilters) -> bool:
    """Whether transfers between parts are listed as one, and not as their steps."""
    is_of_all = filters.account_id is None and filters.owner is None
    return is_of_all and filters.kind not in _LATER_STEPS


@get(router, "/transactions/", list[Transaction], TransactionFilters, need=_READ)
async def list_transactions(request: Request) -> Response:
    """Transactions, the latest first: by the time of their recording, or at which they take effect.

    The Link header leads to the next page, also from a page with fewer rows than `limit`. With a
    key that is limited to accounts, `account_id` is required, and `owner` and `by=effective` are
    refused.

    Of a ledger with parts, a transfer between two parts is listed once, with both halves; but by
    `account_id`, `owner` or the `kind` of a step, each step is listed as it is recorded.
    """
    seen = accounts_seen(request, Scope.TRANSACTIONS_READ)

    async def read(filters: TransactionFilters, after: Place | None) -> Page:
        _check_seen(filters, seen)
        readers = await readers_of(request, filters.account_id)
        values = await filter_values(readers[0], filters)
        is_whole = _is_whole(filters) and len(readers) > 1
        chosen = TransactionFilter(**values, apart=seen is not None, whole=is_whole)
        rows, end = await queries.list_filtered_of_all(readers, chosen, filters.limit, after)
        listed = [row.transaction for row in rows]
        if is_whole:
            listed = await runtime_of(request).crossings.shown_all(rows)
        return Page([_shown(seen, Transaction.recorded(one)) for one in listed], end)

    return await listing(request, TransactionFilters, tuple[datetime, int], read)
