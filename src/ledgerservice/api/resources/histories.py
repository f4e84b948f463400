"""The history of accounts: their entries, from the journal, a standby or a store."""

from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Self

from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec import Meta
from pydantic import BeforeValidator, Field

from ledgerservice.access.grants import Need
from ledgerservice.access.scopes import Scope
from ledgerservice.api.http.call import home_of, id_of, reader_of, runtime_of
from ledgerservice.api.http.fields import AmountText, Answer, OriginName, TimestampText
from ledgerservice.api.http.openapi import get
from ledgerservice.api.http.pages import Page, Paging, first_rows, listing
from ledgerservice.api.http.parameters import integer
from ledgerservice.api.http.problems import invalid
from ledgerservice.api.resources.accounts import check_account
from ledgerservice.domain.amounts import to_major
from ledgerservice.domain.instructions import BIGGEST_ID, Kind, Origin
from ledgerservice.domain.timestamps import timestamp
from ledgerservice.postgres.queries import accounts as queries
from ledgerservice.postgres.queries.gathered.accounts import HistoryRead

router = APIRouter(tags=["accounts"])


class HistoryEntry(Answer, kw_only=True):
    """An entry of an account's history."""

    transaction_id: int
    transaction_type: Annotated[
        str, Meta(examples=["DEPOSIT", "TRANSFER_OUT", "TRANSFER_IN", "HOLD"])
    ]
    amount: AmountText
    balance: AmountText
    held_change: AmountText
    held: AmountText
    version: int
    idempotency_key: str
    origin: OriginName
    created_at: TimestampText

    @classmethod
    def of(cls, entry: queries.HistoryEntry) -> Self:
        """The entry as it is answered. A page has many: this takes a third of `of_row`'s time."""
        exponent = entry.exponent
        return cls(
            transaction_id=entry.transaction_id,
            transaction_type=_entry_type(entry),
            amount=to_major(entry.amount, exponent),
            balance=to_major(entry.balance, exponent),
            held_change=to_major(entry.held_change, exponent),
            held=to_major(entry.held, exponent),
            version=entry.version,
            idempotency_key=entry.key,
            origin=_ORIGIN_NAMES[entry.origin],
            created_at=timestamp(entry.recorded_at),
        )


_KIND_NAMES = {kind: kind.name for kind in Kind}
_ORIGIN_NAMES: dict[Origin, Any] = {origin: origin.name.lower() for origin in Origin}


def _entry_type(entry: queries.HistoryEntry) -> str:
    if entry.kind is not Kind.TRANSFER:
        return _KIND_NAMES[entry.kind]
    return "TRANSFER_OUT" if entry.amount < 0 else "TRANSFER_IN"


SOURCE, AS_OF, AGE = "History-Source", "History-As-Of", "History-Age-Ms"
SOURCES = ("journal", "standby", "store")


class HistoryPaging(Paging):
    """Which entries are listed, and from where. A cursor is good for every place."""

    outside: ClassVar[tuple[str, ...]] = (*Paging.outside, "from", "consistency", "min_version")

    source: Annotated[
        Literal["journal", "store"] | None,
        Field(alias="from", description="`store`: from LEDGER_HISTORY if it has the whole page."),
    ] = None
    consistency: Literal["strong", "standby"] | None = Field(
        default=None, description="`standby`: it may come from a standby, and be older."
    )
    min_version: (
        Annotated[
            int,
            Field(
                ge=0,
                le=BIGGEST_ID,
                description="A first page with an older newest entry is not answered.",
            ),
            BeforeValidator(integer),
        ]
        | None
    ) = None


class Found(NamedTuple):
    """Entries, and the headers that say where they are from."""

    rows: list[queries.HistoryEntry]
    headers: dict[str, str]


def _described(description: str, **schema: Any) -> dict[str, Any]:
    return {"description": description, "schema": schema}


@get(
    router,
    "/accounts/{account_id}/history",
    list[HistoryEntry],
    HistoryPaging,
    headers={
        SOURCE: _described(
            "With `from` or `consistency`: where the page is from.", type="string", enum=[*SOURCES]
        ),
        AS_OF: _described(
            "Of a page from a standby: it has what was answered before.",
            type="string",
            format="date-time",
        ),
        AGE: _described("Of a page from a standby: the time since then.", type="integer"),
    },
    need=Need(Scope.TRANSACTIONS_READ, by_accounts=True),
)
async def get_history(request: Request) -> Response:
    """The entries of an account, newest first.

    With `from=store` they are read from the store of LEDGER_HISTORY, if it provably has the whole
    page as the journal has it, and from the journal otherwise. The answer is the same; the header
    History-Source says where it is from. With `consistency=standby` they may be read from a
    standby. The first page may then lack the newest entries; all others are as from the journal.
    """
    account_id = id_of(request, "account_id", "account_not_found")
    headers: dict[str, str] = {}

    async def read(filters: HistoryPaging, before: int | None) -> Page:
        if filters.source is not None and filters.consistency is not None:
            raise invalid("consistency", "must not be sent together with from")
        place = home_of(request), account_id, before or BIGGEST_ID, filters.limit + 1
        entries = await _find(request, filters, HistoryRead(*place))
        headers.update(entries.headers)
        return first_rows(entries.rows, filters.limit, HistoryEntry.of, lambda last: last.version)

    response = await listing(request, HistoryPaging, int, read)
    response.headers.update(headers)
    return response


async def _find(request: Request, filters: HistoryPaging, read: HistoryRead) -> Found:
    """The entries, from where they may and can be read."""
    elsewhere = await _find_elsewhere(request, filters, read)
    if elsewhere is not None:
        return elsewhere
    rows = await runtime_of(request).reads.histories.post(read)
    await check_account(request, read.account_id, rows)
    is_named = filters.source is not None or filters.consistency is not None
    return Found(rows, {SOURCE: "journal"} if is_named else {})


async def _find_elsewhere(
    request: Request, filters: HistoryPaging, read: HistoryRead
) -> Found | None:
    runtime = runtime_of(request)
    if filters.source == "store" and runtime.history is not None:
        place = read.account_id, read.rows, read.before
        rows = await runtime.history.page(reader_of(request), *place)
        return None if rows is None else Found(rows, {SOURCE: "store"})
    if filters.consistency == "standby" and runtime.standby is not None:
        page = await runtime.standby.page(read, filters.min_version or 0)
        if page is not None:
            times = {AS_OF: timestamp(page.as_of), AGE: str(page.age_ms)}
            return Found(page.row, {SOURCE: "standby", **times})
    return None
