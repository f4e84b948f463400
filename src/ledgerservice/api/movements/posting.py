"""Posting one instruction: between the bytes of a body and the bytes of an answer."""

from asyncio import Future
from typing import Any

from ledgerservice.access.grants import denial
from ledgerservice.api.http.authentication import authorize
from ledgerservice.api.http.bodies import fields_of, read_body
from ledgerservice.api.http.call import JSON, Call, has_body, key_of, media_type, reply
from ledgerservice.api.http.problems import Fault, ProblemError, Reply, rejection
from ledgerservice.api.movements import parsing
from ledgerservice.api.movements.answers import answer
from ledgerservice.api.movements.approving import Origin, may_be_caught, proposed
from ledgerservice.api.movements.forms import Form
from ledgerservice.api.movements.parents import with_parents
from ledgerservice.api.movements.permissions import check_scopes
from ledgerservice.api.movements.queueing import post
from ledgerservice.api.movements.showing import shown
from ledgerservice.domain.instructions import Group, Instruction, Movement
from ledgerservice.domain.metadata import Number
from ledgerservice.domain.rules.approvals import may_catch
from ledgerservice.domain.transactions import Outcomes, Rejected
from ledgerservice.telemetry.exchanges import note_refusal, note_replay


async def move(call: Call, form: Form) -> Reply:
    """Post the movement of a money route; answer when it is durable."""
    authorize(call.caller, call.ledger, form.need)
    call.runtime.movements.check_room()  # before a body is read that would be refused
    body = await read_body(call)
    instruction = parsing.read(body, form, key_of(call.headers))
    is_plain = type(instruction) is Movement and instruction.detail is None
    if not is_plain or call.caller.by_accounts:
        check_scopes(call, instruction)
    rules = call.runtime.rules.of(call.ledger)
    if rules is not None and may_catch(rules, instruction):
        return await _posted_unless_caught(call, instruction, Origin(form.name, None, body))
    return await _posted(call, instruction)


def enter_at_once(call: Call, form: Form, body: bytes) -> Future[Outcomes] | None:
    """Queue the movement of a money route, of a caller without grants by account.

    Whoever calls it gives the meter its movement back when there is an outcome. None, with nothing
    done, if `move` has to refuse the request or to look closer at it.
    """
    if denial(call.caller, call.ledger, form.need) or media_type(call.headers) != JSON:
        return None
    try:
        call.runtime.movements.check_room()
        rules = call.runtime.rules.of(call.ledger)
        movement = parsing.plain(body, form, key_of(call.headers))
        if movement is None or (rules is not None and may_catch(rules, movement)):
            return None
        return _entered(call, _group_of(call, movement))
    except Exception:  # noqa: BLE001  (`move` meets it again, and it is answered there)
        return None


def _entered(call: Call, group: Group) -> Future[Outcomes]:
    """Queue one movement, and count its request. What refuses it raises, and nothing is counted."""
    meter = call.caller.meter
    meter.take_movement()
    try:
        return call.runtime.movements.enter(group)
    except BaseException:
        meter.give_movement()
        if meter.requests is not None:
            meter.requests.owe(-1)
        raise


async def instruct(call: Call, form: Form, **ids: int) -> Reply:
    """Post an instruction; `ids` are those of the path. A missing body is an empty object."""
    call.runtime.movements.check_room()
    body, fields = b"", dict[str, Any]()
    if has_body(call.headers):
        body = await read_body(call)
        fields = fields_of(body)
    if fields.keys() & ids.keys():
        faults = [Fault(name, "is in the path") for name in ids if name in fields]
        raise ProblemError("invalid_request", errors=faults)
    fields |= {name: Number(str(number)) for name, number in ids.items()}
    instruction = parsing.instruct(fields, form, key_of(call.headers))
    if call.caller.by_accounts:
        call = await with_parents(call, [instruction])
    check_scopes(call, instruction)
    if may_be_caught(call.runtime.rules.of(call.ledger), (instruction,)):
        origin = Origin(form.name, next(iter(ids.values()), None), body)
        return await _posted_unless_caught(call, instruction, origin)
    return await _posted(call, instruction)


async def _posted_unless_caught(call: Call, instruction: Instruction, origin: Origin) -> Reply:
    proposal = await proposed(call, instruction, origin)
    if proposal is None:
        return await _posted(call, instruction)
    status, body, headers = proposal
    return status, shown(call, body), headers


async def _posted(call: Call, instruction: Instruction) -> Reply:
    return answered(call, await post(call, _group_of(call, instruction)))


def _group_of(call: Call, instruction: Instruction) -> Group:
    return Group((instruction,), False, call.ledger, call.dry_run, call.caller.principal_id)


def answered(call: Call, outcomes: Outcomes) -> Reply:
    """The answer to a single instruction. Raises ProblemError."""
    (outcome,) = outcomes  # type: ignore[misc]
    if isinstance(outcome, Rejected):
        raise rejection(outcome)
    if (refusal := outcome.transaction.refusal) is not None:
        note_refusal(refusal.reason.value)
    if outcome.replayed:
        note_replay(outcome.transaction.principal_id, outcome.transaction.id)
    status, body = answer(outcome.transaction)
    if call.caller.by_accounts:
        body = shown(call, body)
    return reply(status, body, replayed=outcome.replayed)
