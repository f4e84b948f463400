"""What waits for the approval of others, and deciding on it."""

import shlex
from dataclasses import replace
from typing import Any

import msgspec
from starlette.responses import Response

from ledgerservice.console.calls import Answer, RefusedError
from ledgerservice.console.pages import error
from ledgerservice.console.visits import Visit

STATES = ("open", "approved", "executed", "refused", "rejected", "withdrawn", "expired")
VERDICTS = ("approve", "reject", "withdraw")
UNSIGNED = "signature_required"
SIGNED = VERDICTS[:2]
"""The decisions that are made by a signed request."""
SIGNATURE = {"digest": "content-digest", "input": "signature-input", "signature": "signature"}
"""The fields of a signed form, and the headers that they become."""


class Content(msgspec.Struct):
    """The request that is proposed, byte by byte."""

    request: msgspec.Raw


async def listing(visit: Visit) -> Response:
    """The proposals of a state, or of all."""
    query = {"state": visit.query("state"), "cursor": visit.query("cursor"), "limit": "50"}
    return visit.page(
        "approvals.html", proposals=await visit.get("/approvals", **query), states=STATES
    )


async def page(visit: Visit) -> Response:
    """A proposal, the decisions on it, and what came of it."""
    return await _shown(visit, None)


async def decide(visit: Visit) -> Response:
    """Send a decision to the API."""
    verdict, path = visit.parameters["verdict"], _path(visit)
    if not visit.can_write or verdict not in VERDICTS:
        return error.not_found(visit)
    fields = await visit.form()
    if "signature" in fields:
        answer = await _signed(visit, f"{path}/{verdict}", fields)
    else:
        reason = {"reason": fields.get("reason", "")}
        answer = await visit.api.send("POST", f"{path}/{verdict}", None, reason)
        if answer.status == 401 and answer.code != UNSIGNED:
            raise RefusedError(answer)
    if answer.is_good:
        return visit.redirect(visit.url("approvals", visit.parameters["approval_id"]))
    return await _shown(visit, answer)


async def _signed(visit: Visit, path: str, fields: dict[str, str]) -> Answer:
    """Send what the browser has signed, with the key of the form in place of the session's."""
    headers = {name: fields.get(field, "") for field, name in SIGNATURE.items()}
    api = replace(visit.api, authorization=f"Bearer {fields.get('key', '')}")
    body = fields.get("body", "").encode()
    return await api.send("POST", path, None, body, headers)


def _path(visit: Visit) -> str:
    return f"/approvals/{visit.parameters['approval_id']}"


async def _shown(visit: Visit, refusal: Answer | None) -> Response:
    answer = await visit.get(_path(visit))
    row: dict[str, Any] = answer.body
    request = msgspec.json.decode(answer.content, type=Content).request
    return visit.page(
        "approval.html",
        200 if refusal is None else refusal.status,
        row=row,
        request=bytes(request).decode(),
        signed={verdict: visit.api.url(f"{_path(visit)}/{verdict}") for verdict in SIGNED},
        refusal=refusal,
        command=command_of(visit, row["id"]),
    )


def command_of(visit: Visit, number: int) -> str:
    """The command that approves with a signature, which a browser cannot make."""
    place = f"{visit.request.url.scheme}://{visit.request.headers.get('host', '')}{visit.root}"
    ledger = "" if visit.api.ledger is None else f" --ledger {shlex.quote(visit.api.ledger)}"
    return (
        f"ledgerservice approvals approve {number} --reason '…' --url {shlex.quote(place)}{ledger}"
    )
