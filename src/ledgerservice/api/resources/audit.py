"""The audit log: who did what, from where, and what came of it."""

from typing import Annotated, Any, Self

from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec import Meta, Raw
from pydantic import BeforeValidator, Field

from ledgerservice.access.grants import Need, everywhere
from ledgerservice.access.scopes import Scope
from ledgerservice.api.http.authentication import authorize, caller_of
from ledgerservice.api.http.call import directory_reader_of
from ledgerservice.api.http.fields import Answer, JsonObject, TimestampText
from ledgerservice.api.http.openapi import get
from ledgerservice.api.http.pages import Page, PeriodFilters, listing
from ledgerservice.api.http.parameters import FilterText, integer
from ledgerservice.domain.audit import ChainedRecord
from ledgerservice.postgres.access.audit import AuditFilter, AuditPlace, list_records

router = APIRouter(tags=["audit"])

MOST_PRINCIPALS = 2**31 - 1


class Record(Answer, kw_only=True):
    """A record of the audit log. `digest` covers it and the digest of the record before."""

    id: int
    recorded_at: TimestampText
    event: str
    principal_id: Annotated[int, Meta(description="0: nobody was identified.")]
    key_id: str | None
    source: Annotated[str, Meta(description="The client's address, or `command line`.")]
    request_id: str | None
    action: Annotated[str, Meta(examples=["change_policy"])]
    ledger_id: int | None
    subject: str | None
    status: int
    code: str | None
    repeats: Annotated[int, Meta(description="How many equal refusals this is.")]
    detail: JsonObject | None
    digest: Annotated[str, Meta(description="SHA-256, in hexadecimal.")]

    @classmethod
    def of(cls, record: ChainedRecord) -> Self:
        """The record as it is answered."""
        detail = None if record.detail is None else Raw(record.detail.encode())
        return cls.of_row(record, detail=detail, digest=record.digest.hex())


def _flag(value: Any) -> Any:
    return {"true": True, "false": False}.get(value, value)


class AuditFilters(PeriodFilters):
    """Which records are listed. Filters add up."""

    everywhere: Annotated[bool, BeforeValidator(_flag)] = Field(
        default=False, description="Those of all ledgers, and those that concern none."
    )
    principal_id: (
        Annotated[int, Field(ge=0, le=MOST_PRINCIPALS), BeforeValidator(integer)] | None
    ) = None
    key_id: FilterText | None = None
    action: FilterText | None = None
    status: Annotated[int, Field(ge=100, le=599), BeforeValidator(integer)] | None = None


@get(router, "/audit", list[Record], AuditFilters, need=Need(Scope.AUDIT_READ))
async def list_audit(request: Request) -> Response:
    """The audit log of the ledger, the latest record first. Reading it is recorded too.

    The Link header leads to the next page, also from a page with fewer rows than `limit`.
    """
    reader = directory_reader_of(request)

    async def read(filters: AuditFilters, after: AuditPlace | None) -> Page:
        if filters.everywhere:
            authorize(caller_of(request.scope), 0, everywhere(Scope.AUDIT_READ))
        chosen = AuditFilter(
            filters.everywhere,
            filters.principal_id,
            filters.key_id,
            filters.action,
            filters.status,
            filters.since,
            filters.until,
        )
        records, end = await list_records(reader, chosen, filters.limit, after)
        return Page([Record.of(record) for record in records], end)

    return await listing(request, AuditFilters, AuditPlace, read)
