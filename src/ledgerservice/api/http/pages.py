"""Lists, a page at a time: filters, signed cursors, and the Link header to the next page."""

import base64
import hashlib
import hmac
from collections.abc import Awaitable, Callable, Sequence
from datetime import datetime
from typing import Annotated, Any, ClassVar, NamedTuple, TypeVar
from urllib.parse import urlencode

import msgspec
from fastapi import Request
from fastapi.responses import Response
from pydantic import BeforeValidator, Field, ValidationInfo, field_validator

from ledgerservice.api.http.bodies import validated
from ledgerservice.api.http.calendar import PeriodEnd, PeriodStart, Zone
from ledgerservice.api.http.call import (
    LEDGER,
    OUTSIDE,
    json_response,
    runtime_of,
)
from ledgerservice.api.http.parameters import (
    Parameters,
    Texts,
    integer,
    texts_of,
)
from ledgerservice.api.http.problems import ProblemError, invalid
from ledgerservice.domain.amounts import MAX_BALANCE_MINOR, to_minor
from ledgerservice.postgres.queries.catalogue import find_currency
from ledgerservice.postgres.reader import Reader

DEFAULT_PAGE_ROWS = 100
MAX_CURSOR_CHARACTERS = 5_000
MAX_FILTER_BYTES = 3_500  # a cursor carries the filters and must fit into a URL
SIGNATURE_BYTES = 12


class Paging(Parameters):
    """The parameters of a list; a subclass adds its filters."""

    outside: ClassVar[tuple[str, ...]] = ("limit", "cursor")
    """The parameters that a cursor does not carry: a link has them."""

    limit: Annotated[
        int, Field(ge=1, description="Rows in a page.", exclude=True), BeforeValidator(integer)
    ] = DEFAULT_PAGE_ROWS
    cursor: Annotated[
        str | None,
        Field(max_length=MAX_CURSOR_CHARACTERS, description="From the Link header.", exclude=True),
    ] = None


class Period(Parameters):
    """What is of the time [from, to). A day, month or year as `to` is included."""

    timezone: Zone = "UTC"
    since: PeriodStart | None = Field(default=None, alias="from")
    until: PeriodEnd | None = Field(default=None, alias="to")

    @field_validator("until")
    @classmethod
    def _is_not_before(cls, until: datetime | None, info: ValidationInfo) -> datetime | None:
        since = info.data.get("since")
        if since is not None and until is not None and until < since:
            raise ValueError("must not be before from")
        return until


class PeriodFilters(Period, Paging):
    """A list of what is of a time."""


Filters = TypeVar("Filters", bound=Paging)
Place = TypeVar("Place")
Row = TypeVar("Row")


class Page(NamedTuple):
    """The body of a page, and the place after which the list goes on; None at the end."""

    body: Any
    end: Any


async def listing(
    request: Request,
    filters: type[Filters],
    place: Any,
    read: Callable[[Filters, Place | None], Awaitable[Page]],
) -> Response:
    """A page of a list. `read` gets the filters, and the place after which the page begins or None;
    `place` is the type of a place.

    A cursor carries the filters and the place of its page. It belongs to one ledger and one path.
    """
    texts, parsed, after = _page_of(request, filters, place)
    page = await read(parsed, after)
    if page.end is None:
        return json_response(page.body)
    kept = {n: request.query_params[n] for n in filters.outside if n in request.query_params}
    cursor = _encode(request, texts, page.end)
    link = _next_link(request, kept | {"limit": str(parsed.limit), "cursor": cursor})
    return json_response(page.body, link)


def first_rows(
    rows: Sequence[Row],
    limit: int,
    answer: Callable[[Row], Any],
    place: Callable[[Row], Any],
) -> Page:
    """The page of the first `limit` of at most `limit + 1` rows."""
    end = place(rows[limit - 1]) if len(rows) > limit else None
    return Page([answer(row) for row in rows[:limit]], end)


def _page_of(request: Request, filters: type[Filters], place: Any) -> tuple[Texts, Filters, Any]:
    """The filters, as written and as parsed, and the place after which the page begins.

    Filters that are sent with a cursor must be those that the cursor carries.
    """
    texts = texts_of(request, filters)
    paging = {name: texts.pop(name) for name in filters.outside if name in texts}
    carried, after = texts, None
    if "cursor" in paging:
        carried, after = _decode(request, paging["cursor"], place)
    parsed = validated((texts or carried) | paging, filters)
    if texts not in ({}, carried):
        raise ProblemError("invalid_cursor")
    if len(msgspec.json.encode(carried)) > MAX_FILTER_BYTES:
        raise invalid("query", f"the filters must have at most {MAX_FILTER_BYTES} bytes in all")
    longest = runtime_of(request).settings.page_limit_rows
    if parsed.limit > longest:
        raise invalid("limit", f"must be at most {longest}")
    return carried, parsed, after


def _encode(request: Request, texts: Texts, place: Any) -> str:
    content = msgspec.json.encode((texts, place))
    signature = _signature(request, content)
    return base64.urlsafe_b64encode(signature + content).decode().rstrip("=")


def _decode(request: Request, cursor: str, place: Any) -> tuple[Texts, Any]:
    """The content of a cursor. Refuses a cursor of another list or ledger, and a forged one."""
    if len(cursor) > MAX_CURSOR_CHARACTERS:
        raise invalid("cursor", f"must have at most {MAX_CURSOR_CHARACTERS} characters")
    try:
        signed = base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4))
    except ValueError:
        raise ProblemError("invalid_cursor") from None
    signature, content = signed[:SIGNATURE_BYTES], signed[SIGNATURE_BYTES:]
    # The decoder accepts several texts for the same bytes.
    expected = _signature(request, content)
    is_exact = base64.urlsafe_b64encode(signed).decode().rstrip("=") == cursor
    if not is_exact or not hmac.compare_digest(signature, expected):
        raise ProblemError("invalid_cursor")
    texts, after = msgspec.json.decode(content, type=tuple[Texts, place | None])
    return texts, after


def _signature(request: Request, content: bytes) -> bytes:
    path = request.scope["path"].rstrip("/")
    subject = msgspec.json.encode((request.scope.get(LEDGER), path))
    text = b"%d %b%b" % (len(content), content, subject)
    return hmac.digest(runtime_of(request).cursor_key, text, hashlib.sha256)[:SIGNATURE_BYTES]


def _next_link(request: Request, texts: Texts) -> dict[str, str]:
    """The Link header (RFC 8288) to the next page."""
    ordered = {"limit": texts["limit"], "cursor": texts["cursor"], **texts}
    path = f"{request.scope.get(OUTSIDE, '')}{request.url.path}"
    return {"Link": f'<{path}?{urlencode(ordered)}>; rel="next"'}


async def filter_values(reader: Reader, filters: Paging) -> dict[str, Any]:
    """The filters that are not None, by the names of a query's fields.

    Those that begin with `min_` or `max_` bound an amount. They are in major units of the filter
    `currency`; the values are in minor units.
    """
    # A validator makes a `Kind` of a name, which pydantic would warn of.
    values = filters.model_dump(exclude_none=True, warnings=False)
    bounds = [name for name in values if name.startswith(("min_", "max_"))]
    if bounds:
        exponent = await _exponent_of(reader, values.get("currency"))
        values |= {name: _minor_units(name, values[name], exponent) for name in bounds}
    return values


async def _exponent_of(reader: Reader, code: str | None) -> int:
    if code is None:
        raise invalid("currency", "is required by a bound of an amount")
    currency = await find_currency(reader, code)
    if currency is None:
        raise ProblemError("currency_unknown")
    return currency.exponent


def _minor_units(name: str, text: str, exponent: int) -> int:
    """A bound in minor units; one beyond all amounts is replaced by the first that is."""
    digits = text.removeprefix("-")
    minor = to_minor(digits, exponent)
    if minor is None:
        raise invalid(name, "has more decimals than the currency")
    minor = min(minor, MAX_BALANCE_MINOR + 1)
    return minor if digits == text else -minor
