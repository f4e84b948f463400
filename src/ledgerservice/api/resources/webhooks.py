"""Webhooks: endpoints that get events, and the log of what they got."""

from collections.abc import Sequence
from datetime import datetime
from functools import partial
from typing import Annotated, Any, Literal, Self

import msgspec
from fastapi import APIRouter, Request
from fastapi.responses import Response
from msgspec import UNSET, Meta, UnsetType
from pydantic import BeforeValidator, Field, field_validator, model_validator
from pydantic import WithJsonSchema as Schema

from ledgerservice.access.grants import Need
from ledgerservice.access.scopes import Scope
from ledgerservice.api.http.bodies import Body, body_of
from ledgerservice.api.http.call import (
    call_of,
    go_to_part,
    id_of,
    json_response,
    ledger_of,
    reader_of,
    readers_of,
    runtime_of,
)
from ledgerservice.api.http.fields import AccountId, Answer, PartNumber, Text, TimestampText
from ledgerservice.api.http.openapi import NO_BODY, body_schema, get, post
from ledgerservice.api.http.pages import Page, Paging, first_rows, listing
from ledgerservice.api.http.problems import ProblemError, invalid
from ledgerservice.api.resources.accounts import check_account
from ledgerservice.api.resources.events import NEW, POSITION_PATTERN, EventType
from ledgerservice.domain.events import TYPES, position
from ledgerservice.domain.metadata import Number
from ledgerservice.feed.reading import Position
from ledgerservice.feed.webhooks.addresses import (
    LEDGER,
    MAX_URL_CHARACTERS,
    HostUnknown,
    UrlRefused,
)
from ledgerservice.feed.webhooks.signing import SCHEMES, new_secret, public_key, scheme_of
from ledgerservice.postgres.queries import webhooks as queries
from ledgerservice.postgres.queries.webhooks import DeliveryView, SecretView, WebhookView
from ledgerservice.postgres.webhooks import utc_now

router = APIRouter(tags=["webhooks"])

OVERLAP_S = 86_400
MAX_OVERLAP_S = 30 * 86_400
WRITES = (404, 408, 413, 415, 422, 503)

Scheme = Literal["v1", "v1a"]
State = Literal["active", "paused", "disabled"]
assert Scheme.__args__ == SCHEMES  # type: ignore[attr-defined]


def _seconds(value: Any) -> int:
    if isinstance(value, Number) and value.text.isdigit() and len(value.text) < 9:
        return int(value.text)
    raise ValueError("must be an integer")


Url = Annotated[
    str,
    Field(
        min_length=1,
        max_length=MAX_URL_CHARACTERS,
        description="https:// and a host that everybody can reach.",
        examples=["https://hooks.example/ledger"],
    ),
]
TypeList = Annotated[
    list[Annotated[str, Schema({"type": "string", "enum": [*TYPES]})]],
    Field(min_length=1, max_length=len(TYPES), description="Only these types. Else all."),
]
Place = Annotated[
    str,
    Field(
        pattern=f"^({POSITION_PATTERN}|{NEW})$",
        description="Begin after this event. `new`: with what comes from now on.",
        examples=[NEW],
    ),
]


def _known(types: list[str] | None) -> list[str] | None:
    if types is not None and set(types) - set(TYPES):
        raise ValueError(f"must be of {', '.join(TYPES)}")
    return types


class AddWebhook(Body):
    """Add an endpoint."""

    url: Url
    types: TypeList | None = None
    account_id: AccountId | None = Field(
        default=None, description="Only events that name this account."
    )
    part: PartNumber | None = Field(
        default=None, description="The part of a ledger with parts whose events it gets."
    )
    after: Place = NEW
    signature: Scheme = Field(
        default="v1", description="v1: HMAC-SHA256 with a secret. v1a: Ed25519."
    )

    _types = field_validator("types")(_known)


class ChangeWebhook(Body):
    """Change an endpoint. What is left out stays."""

    url: Url | None = None
    types: TypeList | None = Field(default=None, description="null: all types.")
    state: State | None = Field(default=None, description="`active` also ends a pause.")

    _types = field_validator("types")(_known)

    @model_validator(mode="after")
    def _changes(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("must have url, types or state")
        return self


class RotateSecret(Body):
    """Sign with a new secret, and for a time with the old one too."""

    overlap_s: Annotated[
        int,
        BeforeValidator(_seconds),
        Field(le=MAX_OVERLAP_S, description="How long the old secret is used, in seconds."),
        Schema({"type": "integer", "minimum": 0, "maximum": MAX_OVERLAP_S, "default": OVERLAP_S}),
    ] = OVERLAP_S
    signature: Scheme | None = Field(default=None, description="As before, if it is left out.")


class ReplayEvents(Body):
    """Deliver events again: all after a position, or the dead letters."""

    after: Place | None = None
    dead_letters: Literal[True] | None = None

    @model_validator(mode="after")
    def _is_one(self) -> Self:
        if (self.after is None) == (self.dead_letters is None):
            raise ValueError("must have either after or dead_letters")
        return self


SchemeName = Annotated[
    str, Meta(extra_json_schema={"x-name": "SignatureScheme", "enum": [*SCHEMES]})
]
StateName = Annotated[
    str,
    Meta(extra_json_schema={"x-name": "WebhookState", "enum": ["active", "paused", "disabled"]}),
]


class WebhookKey(Answer):
    """What requests are signed with. The secret itself is never shown again."""

    signature: SchemeName
    public_key: Annotated[str | None, Meta(description="whpk_...; null for v1.")]
    created_at: TimestampText
    expires_at: TimestampText | None

    @classmethod
    def of(cls, row: SecretView) -> Self:
        """The key as it is answered."""
        return cls.of_row(row, signature=scheme_of(row.secret), public_key=public_key(row.secret))


class Webhook(Answer):
    """An endpoint that gets events."""

    id: int
    url: str
    types: Annotated[list[EventType] | None, Meta(description="null: all types.")]
    account_id: int | None
    state: StateName
    reason: Annotated[
        str | None,
        Meta(description="Why the service changed the state: gone, dead_letters, restored."),
    ]
    position: Annotated[str, Meta(description="The last event that was passed.")]
    waiting: Annotated[int, Meta(description="Events that failed and are tried again.")]
    dead_letters: Annotated[int, Meta(description="Events that are tried no more.")]
    keys: list[WebhookKey]
    created_at: TimestampText
    secret: (
        Annotated[str, Meta(description="whsec_..., only here. With v1a there is none.")]
        | UnsetType
    ) = UNSET

    @classmethod
    def of(cls, row: WebhookView, secrets: Sequence[SecretView]) -> Self:
        """The endpoint as it is answered."""
        return cls.of_row(
            row,
            types=None if row.types is None else row.types.split(","),
            position=position(row.epoch, row.position),
            keys=[WebhookKey.of(one) for one in secrets if one.webhook_id == row.id],
        )


class Delivery(Answer):
    """An attempt to deliver an event, successful if the status is 200 to 299."""

    event_id: Annotated[str, Meta(description="The id of the event, and of the request.")]
    attempt: int
    attempted_at: TimestampText
    status: int | None
    error: Annotated[str | None, Meta(description="Why there is no status, such as timeout.")]
    duration_ms: int

    @classmethod
    def of(cls, row: DeliveryView) -> Self:
        """The attempt as it is answered."""
        return cls.of_row(row, event_id=position(row.epoch, row.event_id))


class TestWebhook(Body):
    """An event that is sent now."""

    message: Text = Field(default="test", description="It is in `data` of the event.")


class TestResult(Answer):
    """What came of a request with an event of type `webhook.test`."""

    delivered: bool
    status: int | None
    error: str | None
    duration_ms: int


_EXAMPLE = {"url": "https://hooks.example/ledger", "types": ["transaction.posted"]}


_changes = partial(post, router, parameters=(), headers={}, need=Need(Scope.WEBHOOKS))
"""Declares a route that changes webhooks. Such requests have no idempotency key."""


@_changes(
    "/webhooks",
    Webhook,
    body_schema(AddWebhook, {"payments": _EXAMPLE}),
    status=201,
    refusals=(404, 408, 409, 410, 413, 415, 422, 503),
    links={"get_webhook": {"webhook_id": "id"}},
)
async def add_webhook(request: Request) -> Response:
    """Add an endpoint.

    The answer has the secret that requests are signed with. It is not shown again. Of a ledger with
    parts it gets the events of one, of `part` or of that of `account_id`: add one for each part.
    """
    body = await _body(request, AddWebhook)
    await go_to_part(request, body.part, body.account_id)
    reader, settings = reader_of(request), runtime_of(request).settings
    await _check_url(request, body.url)
    if body.account_id is not None:
        await check_account(request, body.account_id, ())
    place, secret = await _place(request, body.after), new_secret(body.signature)
    values = {"url": body.url, "types": _joined(body.types), "account_id": body.account_id}
    added = await queries.write(
        reader,
        queries.ADD,
        **values,
        epoch=place.epoch,
        position=place.id,
        secret=secret,
        most=settings.webhooks_limit,
    )
    if added is None:
        raise ProblemError("webhook_limit")
    return await _answer(request, added, secret, status=201)


@get(router, "/webhooks", list[Webhook], Paging, need=Need(Scope.WEBHOOKS))
async def list_webhooks(request: Request) -> Response:
    """The endpoints of the ledger, by id."""

    async def read(filters: Paging, after: int | None) -> Page:
        readers = await readers_of(request)
        rows, secrets = await queries.list_of_all(readers, filters.limit + 1, after or 0)
        return first_rows(
            rows, filters.limit, lambda row: Webhook.of(row, secrets), lambda last: last.id
        )

    return await listing(request, Paging, int, read)


@_changes(
    "/webhooks/{webhook_id}/secret",
    Webhook,
    body_schema(RotateSecret, {"rotation": {"overlap_s": OVERLAP_S}}),
    refusals=WRITES,
)
async def rotate_secret(request: Request) -> Response:
    """Replace the secret of an endpoint.

    Requests have the signatures of both until `overlap_s` has passed, by default a day.
    """
    body = await _body(request, RotateSecret)
    scheme: str | None = body.signature
    if scheme is None:
        secrets = await queries.list_secrets(reader_of(request), [_id(request)])
        scheme = scheme_of(secrets[0].secret) if secrets else "v1"
    secret = new_secret(scheme)
    await _write(request, queries.ROTATE, secret=secret, overlap_s=body.overlap_s)
    return await _answer(request, _id(request), secret)


@_changes(
    "/webhooks/{webhook_id}/replay",
    Webhook,
    body_schema(ReplayEvents, {"dead_letters": {"dead_letters": True}}),
    refusals=(404, 408, 410, 413, 415, 422, 503),
)
async def replay_events(request: Request) -> Response:
    """Deliver events again: all after a position, or the dead letters.

    Each has the same `webhook-id` as before. The state of the endpoint stays.
    """
    body = await _body(request, ReplayEvents)
    if body.after is None:
        await _write(request, queries.REVIVE)
    else:
        await _found(request)
        place = await _place(request, body.after)
        await _write(request, queries.MOVE, epoch=place.epoch, position=place.id)
    return await _answer(request, _id(request))


@_changes(
    "/webhooks/{webhook_id}/test",
    TestResult,
    body_schema(TestWebhook, {"hello": {"message": "hello"}}),
    refusals=WRITES,
)
async def test_webhook(request: Request) -> Response:
    """Send an event of type `webhook.test` now, whatever the state, and return what came of it."""
    sent = await _body(request, TestWebhook)
    webhook = await _found(request)
    secrets = await queries.list_secrets(reader_of(request), [webhook.id])
    time = utc_now()
    name = f"test-{webhook.id}-{int(time.timestamp() * 1_000_000)}"
    body = msgspec.json.encode(_TestEvent(name, time, {"message": sent.message}))
    LEDGER.set(ledger_of(request))
    sender, texts = runtime_of(request).sender, [one.secret for one in secrets]
    attempt = await sender.send(webhook.url, texts, name, body)
    return json_response(TestResult.of_row(attempt, delivered=attempt.succeeded))


class _TestEvent(msgspec.Struct):
    id: str
    recorded_at: datetime
    data: dict[str, str]
    type: str = "webhook.test"
    version: int = 1
    ledger: None = None


@get(router, "/webhooks/{webhook_id}/deliveries", list[Delivery], Paging, need=Need(Scope.WEBHOOKS))
async def list_deliveries(request: Request) -> Response:
    """The attempts to deliver to an endpoint, newest first."""
    reader, webhook_id = reader_of(request), _id(request)

    async def read(filters: Paging, before: int | None) -> Page:
        rows = await queries.list_deliveries(reader, webhook_id, filters.limit + 1, before)
        if not rows:
            await _found(request)
        return first_rows(rows, filters.limit, Delivery.of, lambda last: last.id)

    return await listing(request, Paging, int, read)


@get(router, "/webhooks/{webhook_id}", Webhook, need=Need(Scope.WEBHOOKS))
async def get_webhook(request: Request) -> Response:
    """An endpoint, its state, and how far it is."""
    return await _answer(request, _id(request))


@_changes(
    "/webhooks/{webhook_id}",
    Webhook,
    body_schema(ChangeWebhook, {"resume": {"state": "active"}}),
    method="PATCH",
    refusals=WRITES,
)
async def change_webhook(request: Request) -> Response:
    """Change an endpoint: its URL, its types or its state.

    A paused or disabled endpoint gets nothing. When it is active again, it gets what has been
    recorded meanwhile.
    """
    body = await _body(request, ChangeWebhook)
    if body.url is not None:
        await _found(request)
        await _check_url(request, body.url)
    values = {"url": body.url, "types": _joined(body.types), "state": body.state}
    sets_types = "types" in body.model_fields_set
    await _write(request, queries.CHANGE, **values, sets_types=sets_types)
    return await _answer(request, _id(request))


@_changes(
    "/webhooks/{webhook_id}",
    Webhook,
    NO_BODY,
    method="DELETE",
    refusals=(404, 422, 503),
)
async def remove_webhook(request: Request) -> Response:
    """Remove an endpoint, with its secrets, its dead letters and its log."""
    _refuse_dry_run(request)
    answer = await _answer(request, _id(request))
    await _write(request, queries.REMOVE)
    return answer


# What the routes share.


def _id(request: Request) -> int:
    return id_of(request, "webhook_id", "webhook_not_found")


def _joined(types: list[str] | None) -> str | None:
    return None if types is None else ",".join(dict.fromkeys(types))


def _refuse_dry_run(request: Request) -> None:
    if call_of(request).dry_run:
        raise invalid("dry_run", "is not supported by this route")


async def _body(request: Request, model: Any) -> Any:
    _refuse_dry_run(request)
    return await body_of(call_of(request), model)


async def _check_url(request: Request, url: str) -> None:
    LEDGER.set(ledger_of(request))
    try:
        await runtime_of(request).sender.check(url)
    except HostUnknown:
        return  # it may be known later, and is checked by every connection
    except UrlRefused as refused:
        raise invalid("url", refused.detail) from None


async def _place(request: Request, text: str) -> Position:
    """A position that a caller gave, in the present epoch."""
    feed, ledger = runtime_of(request).feed, reader_of(request).ledger_id
    if text == NEW:
        return await feed.head(ledger)
    epoch, number = map(int, text.split("-"))
    present = await feed.start()
    if epoch != present.epoch:
        raise invalid("after", f"must be a position of the epoch {present.epoch}")
    return Position(epoch, number)


async def _found(request: Request) -> WebhookView:
    webhook = await queries.find(reader_of(request), _id(request))
    if webhook is None:
        raise ProblemError("webhook_not_found")
    return webhook


async def _write(request: Request, statement: Any, **values: Any) -> None:
    if await queries.write(reader_of(request), statement, id=_id(request), **values) is None:
        raise ProblemError("webhook_not_found")


async def _answer(
    request: Request, webhook_id: int, secret: str | None = None, status: int = 200
) -> Response:
    """The endpoint; with a new secret, if its receiver needs one."""
    reader = reader_of(request)
    webhook = await queries.find(reader, webhook_id)
    if webhook is None:
        raise ProblemError("webhook_not_found")
    answer = Webhook.of(webhook, await queries.list_secrets(reader, [webhook_id]))
    if secret is not None and public_key(secret) is None:
        answer.secret = secret
    return Response(msgspec.json.encode(answer), status, media_type="application/json")
