"""Posting one instruction: between the bytes of a body and the bytes of an answer."""

import secrets
from typing import Any

from ledgerservice.api.http.authentication import authorize
from ledgerservice.api.http.bodies import fields_of, read_body
from ledgerservice.api.http.call import Call, has_body, header_values, key_of, reply
from ledgerservice.api.http.problems import Fault, ProblemError, Reply, rejection
from ledgerservice.api.movements import parsing
from ledgerservice.api.movements.answers import answer
from ledgerservice.api.movements.forms import Form
from ledgerservice.api.movements.permissions import check_scopes
from ledgerservice.api.movements.queueing import post
from ledgerservice.api.movements.showing import shown
from ledgerservice.domain.instructions import Group, Instruction, Movement, Reversal
from ledgerservice.domain.metadata import Number
from ledgerservice.domain.transactions import Rejected
from ledgerservice.telemetry.exchanges import note_refusal


async def move(call: Call, form: Form) -> Reply:
    """Post the movement of a money route; answer when it is durable."""
    authorize(call.caller, call.ledger, form.need)
    call.runtime.movements.check_room()  # before a body is read that would be refused
    body = await read_body(call)
    instruction = parsing.read(body, form, key_of(call.headers))
    is_plain = type(instruction) is Movement and instruction.detail is None
    if not is_plain or call.caller.by_accounts:
        check_scopes(call, instruction)
    return await _posted(call, instruction)


async def instruct(call: Call, form: Form, **ids: int) -> Reply:
    """Post an instruction; `ids` are those of the path. A missing body is an empty object."""
    call.runtime.movements.check_room()
    fields: dict[str, Any] = {}
    if has_body(call.headers):
        fields = fields_of(await read_body(call))
    if fields.keys() & ids.keys():
        faults = [Fault(name, "is in the path") for name in ids if name in fields]
        raise ProblemError("invalid_request", errors=faults)
    fields |= {name: Number(str(number)) for name, number in ids.items()}
    instruction = parsing.instruct(fields, form, key_of(call.headers))
    check_scopes(call, instruction)
    check_force(call, instruction)
    return await _posted(call, instruction)


def check_force(call: Call, instruction: Instruction) -> None:
    """Refuses a forced reversal without the token, because it can overdraw an account."""
    if not isinstance(instruction, Reversal) or not instruction.force:
        return
    token = call.runtime.settings.force_token
    values = header_values(call.headers, b"ledger-force-token")
    if token is None or len(values) != 1:
        raise ProblemError("force_not_allowed")
    if not secrets.compare_digest(values[0].encode("latin-1"), token.get_secret_value().encode()):
        raise ProblemError("force_not_allowed")


async def _posted(call: Call, instruction: Instruction) -> Reply:
    group = Group((instruction,), False, call.ledger, call.dry_run, call.caller.principal_id)
    (outcome,) = await post(call, group)  # type: ignore[misc]
    if isinstance(outcome, Rejected):
        raise rejection(outcome)
    if (refusal := outcome.transaction.refusal) is not None:
        note_refusal(refusal.reason.value)
    status, body = answer(outcome.transaction)
    if call.caller.by_accounts:
        body = shown(call, body)
    return reply(status, body, replayed=outcome.replayed)
