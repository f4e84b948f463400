"""What waits for the approval of others, and deciding on it."""

import shlex
from typing import Any

import msgspec
from starlette.responses import Response

from ledgerservice.console.calls import Answer, RefusedError
from ledgerservice.console.pages import error
from ledgerservice.console.visits import Visit

STATES = ("open", "approved", "executed", "refused", "rejected", "withdrawn", "expired")
VERDICTS = ("approve", "reject", "withdraw")
UNSIGNED = "signature_required"


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
    answer = await visit.api.send(
        "POST", f"{path}/{verdict}", None, {"reason": fields.get("reason", "")}
    )
    if answer.is_good:
        return visit.redirect(visit.url("approvals", visit.parameters["approval_id"]))
    if answer.status == 401 and answer.code != UNSIGNED:
        raise RefusedError(answer)
    return await _shown(visit, answer)


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
        verdicts=VERDICTS,
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
