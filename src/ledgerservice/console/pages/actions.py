"""Actions: a form, a dry run that shows the exact result, and the request itself.

An action is a request of the API with the reader's key: the API decides whether the reader may do
it, and whether others have to approve it. One form has one idempotency key, so that sending it
twice does nothing twice.
"""

import uuid
from collections.abc import Iterable
from typing import Any, NamedTuple

from starlette.responses import Response

from ledgerservice.console.calls import Answer, RefusedError
from ledgerservice.console.pages import error
from ledgerservice.console.visits import Visit

Fields = dict[str, str]


class Action(NamedTuple):
    """A request of the API, the members of its body that the form has, and the scopes of which the
    reader needs one.
    """

    method: str
    path: str
    fields: tuple[str, ...]
    scopes: tuple[str, ...]


POLICIES = ("policies:freeze", "policies:write")
ACTIONS = {
    "reverse": Action(
        "POST",
        "/transactions/{}/reverse",
        ("amount", "description", "force", "actor"),
        ("reversals",),
    ),
    "capture": Action("POST", "/holds/{}/capture", ("amount", "final", "description"), ("holds",)),
    "release": Action("POST", "/holds/{}/release", ("amount", "description"), ("holds",)),
    "cancel": Action("POST", "/schedules/{}/cancel", ("description",), ("schedules",)),
    "freeze": Action("PATCH", "/accounts/{}", ("frozen", "actor", "reason"), POLICIES),
}
"""What the console can do. `/console/actions/NAME/ID` has the form."""
FLAGS = {"force", "final"}
FORCING = ("force", "actor")
"""The fields of those who may force."""
NOBODY = "none"
"""The choice of `frozen` that frees an account."""
DO = "do"


async def page(visit: Visit) -> Response:
    """The empty form."""
    if _action_of(visit) is None:
        return error.not_found(visit)
    return _form(visit, {"key": f"console-{uuid.uuid4()}"}, None)


async def act(visit: Visit) -> Response:
    """Try it, or do it. What was done leads to the page of its transaction or its proposal."""
    action = _action_of(visit)
    if action is None:
        return error.not_found(visit)
    fields = await visit.form()
    is_done = fields.get("step") == DO
    path = action.path.format(visit.parameters["number"])
    query = {} if is_done else {"dry_run": "true"}
    answer = await visit.api.send(action.method, path, query, body_of(action, fields))
    if answer.status == 401:
        raise RefusedError(answer)
    if is_done and answer.is_good:
        place = "approvals" if answer.status == 202 else "transactions"
        return visit.redirect(visit.url(place, answer.body.get("id") or _number(answer)))
    return _form(visit, fields, answer)


def _number(answer: Answer) -> int:
    number: int = answer.body["transaction_id"]
    return number


def _action_of(visit: Visit) -> Action | None:
    """The action of the path, if the console permits actions."""
    number = visit.parameters["number"]
    if not (visit.can_write and number.isascii() and number.isdecimal()):
        return None
    return ACTIONS.get(visit.parameters["action"])


def permitted(visit: Visit, names: Iterable[str]) -> list[str]:
    """Those of these actions that the console permits, and that the reader has a scope for."""
    return [name for name in names if visit.can_write and visit.may(*ACTIONS[name].scopes)]


def body_of(action: Action, fields: Fields) -> dict[str, Any]:
    """The body of the request. A field that is empty is left out."""
    body: dict[str, Any] = {"idempotency_key": fields.get("key", "")}
    for name in action.fields:
        text = fields.get(name, "").strip()
        if text:
            body[name] = True if name in FLAGS else None if text == NOBODY else text
    return body


def _form(visit: Visit, fields: Fields, answer: Answer | None) -> Response:
    name = visit.parameters["action"]
    action = ACTIONS[name]
    can_force = visit.may("reversals:force")
    shown = [one for one in action.fields if can_force or name != "reverse" or one not in FORCING]
    return visit.page(
        "action.html",
        200 if answer is None else answer.status,
        name=name,
        number=visit.parameters["number"],
        shown=shown,
        missing=None if visit.may(*action.scopes) else action.scopes[0],
        fields=fields,
        answer=answer,
        is_posted=answer is not None and answer.is_good,
        rule=None if answer is None else answer.headers.get("approval-required"),
    )
