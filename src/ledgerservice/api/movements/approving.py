"""Requests that others have to approve: whether a rule catches one, and its proposal.

Whatever needs to be read for that never changes: the currency of an account, and what a transaction
has moved. So it is read before the request is queued.
"""

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from functools import partial
from typing import Any, NamedTuple

import msgspec

from ledgerservice.access.grants import Caller
from ledgerservice.api.http.call import OUTSIDE, Call
from ledgerservice.api.http.problems import ProblemError, Reply, rejection
from ledgerservice.api.movements.answers import answer
from ledgerservice.api.movements.proposals import bodies_of
from ledgerservice.api.movements.queueing import patiently, post
from ledgerservice.domain.amounts import to_major
from ledgerservice.domain.audit import AuditRecord
from ledgerservice.domain.digests import digest_of
from ledgerservice.domain.instructions import Group, Instruction, Movement
from ledgerservice.domain.rules import approvals
from ledgerservice.domain.rules.approvals import FORCE_ALWAYS, Amount, Rule, Rules
from ledgerservice.domain.transactions import Rejected
from ledgerservice.postgres.access.approvals import NewProposal
from ledgerservice.postgres.queries.accounts import AccountView
from ledgerservice.postgres.queries.approvals import find_by_key, list_moved
from ledgerservice.postgres.queries.gathered.accounts import AccountRead
from ledgerservice.postgres.reader import Reader
from ledgerservice.telemetry.exchanges import CURRENT

UNSALTED = b""  # the body itself stands beside the digest
ITEM = "item"
"""The operation of an item of a batch or a stream, whose `type` says what it does."""


class Proposed(NamedTuple):
    """The answer to an item that others have to approve."""

    status: int
    body: bytes
    replayed: bool = False


class Origin(NamedTuple):
    """Where an instruction comes from: its form, the id in the path, and the body, byte by byte."""

    operation: str
    parent_id: int | None
    body: bytes


async def caught_by(call: Call, rules: Rules, instruction: Instruction) -> Rule | None:
    """The rule that catches an instruction; of several the one that needs the most approvals.

    Raises ProblemError for an account or a transaction that does not exist.
    """
    if not approvals.may_catch(rules, instruction):
        return None
    plain = approvals.caught(rules, instruction)
    rules_found = [] if plain is None else [plain]
    rules_found += [rule async for rule in _beyond_bounds(call, rules, instruction)]
    return max(rules_found, key=lambda rule: rule.approvals, default=None)


async def _beyond_bounds(call: Call, rules: Rules, instruction: Instruction) -> AsyncIterator[Rule]:
    floor = approvals.floor_of(rules, instruction)
    if floor is not None:
        for currency, amount in (await _totals(call, [floor])).items():
            if (rule := approvals.beyond(rules.floors, currency, amount, "floor")) is not None:
                yield rule
    totals = await _totals(call, approvals.amounts_of(rules, instruction))
    for currency, amount in totals.items():
        if (rule := approvals.beyond(rules.amounts, currency, amount, "amount")) is not None:
            yield rule


async def _totals(call: Call, amounts: Sequence[Amount]) -> dict[str, Decimal]:
    """The sums of amounts, by currency."""
    totals: dict[str, Decimal] = {}
    for amount in amounts:
        for currency, number in await _by_currency(call, amount):
            totals[currency] = totals.get(currency, Decimal(0)) + number
    return totals


async def _by_currency(call: Call, amount: Amount) -> list[tuple[str, Decimal]]:
    if amount.account_id is not None and amount.text is not None:
        account = await _account(call, amount.account_id)
        if account is None:
            raise ProblemError("account_not_found", account_id=amount.account_id)
        return [(account.currency, Decimal(amount.text))]
    moved = await list_moved(*await _moved_by(call, amount.parent_id or 0))
    if not moved:
        raise ProblemError("transaction_not_found")
    return [
        (currency, Decimal(amount.text or to_major(minor, exponent)))
        for currency, exponent, minor in moved
    ]


async def _account(call: Call, account_id: int) -> AccountView | None:
    parts = await call.runtime.parts_of(call.ledger)
    if parts is None:
        return await call.runtime.reads.accounts.post(AccountRead(call.ledger, account_id))
    ledger_id = parts.home(account_id)
    home = await call.runtime.crossings.home_of(ledger_id)
    return await home.read_account(AccountRead(ledger_id, account_id))


async def _moved_by(call: Call, transaction_id: int) -> tuple[Reader, int]:
    """The part that has a transaction: of one to another part, the credit there."""
    routes = call.runtime.routes
    parts = await call.runtime.parts_of(call.ledger)
    home = None if parts is None else await routes.find_home(parts, transaction_id)
    if home is None:
        return call.runtime.reader.of(call.ledger), transaction_id
    credit = await routes.find_arrival(home)
    if credit is None:
        return await routes.reader_of(home.ledger_id), transaction_id
    return await routes.reader_of(credit.ledger_id), credit.id


async def proposed(call: Call, instruction: Instruction, origin: Origin) -> Reply | None:
    """The answer to an instruction that a rule catches: its proposal. None: none catches it, or it
    is a dry run, whose answer is marked.

    Raises ProblemError.
    """
    rules = call.runtime.rules.of(call.ledger) or FORCE_ALWAYS
    rule = await caught_by(call, rules, instruction)
    if rule is None:
        return None
    if call.dry_run:
        _mark_rehearsal(rule)
        return None
    return await _propose(call, rule, instruction, origin)


def _mark_rehearsal(rule: Rule) -> None:
    if (exchange := CURRENT.get()) is not None:
        exchange.approval = rule.name


async def _propose(call: Call, rule: Rule, instruction: Instruction, origin: Origin) -> Reply:
    if not call.caller.principal_id:
        raise ProblemError("approval_without_keys")
    rehearsed = Group((instruction,), False, call.ledger, True, call.caller.principal_id)
    (outcome,) = await post(call, rehearsed)  # type: ignore[misc]
    if isinstance(outcome, Rejected):
        raise rejection(outcome)
    new = _proposal(call, rule, instruction, origin, outcome.transaction.account_id)
    reader = call.runtime.main.reader.of(call.ledger)
    if outcome.replayed:
        number = await find_by_key(reader, new.scope_id, new.idempotency_key)
        if number is None:  # it was posted before there was such a rule
            status, body = answer(outcome.transaction)
            return status, body, _headers(status) | {"idempotency-replayed": "true"}
    else:
        number = await _added(call, rule, new)
    bodies = await bodies_of(reader, [number])
    location = f"{call.scope.get(OUTSIDE, '')}/approvals/{number}"
    return 202, bodies[number], _headers(202) | {"location": location}


async def _added(call: Call, rule: Rule, new: NewProposal) -> int:
    """The id of a proposal that is recorded now, or was before. Raises ProblemError."""
    number = await call.runtime.approvals.post(new)
    if number is None:
        raise ProblemError("idempotency_key_reused")
    await call.runtime.audit.add(_record(call, number, rule))
    return number


def _headers(status: int) -> dict[str, str]:
    return {"content-type": "application/json" if status < 400 else "application/problem+json"}


def _proposal(
    call: Call, rule: Rule, instruction: Instruction, origin: Origin, account: int
) -> NewProposal:
    """A new proposal. `account` is the one that the key belongs to, as when it is posted."""
    lasting = timedelta(seconds=call.runtime.settings.approval_expiry_s)
    return NewProposal(
        call.ledger,
        call.caller.principal_id,
        datetime.now(UTC) + lasting,
        rule.name,
        rule.approvals,
        *origin[:2],
        account,
        instruction.key,
        origin.body,
        digest_of(instruction, UNSALTED),
    )


def _record(call: Call, number: int, rule: Rule) -> AuditRecord:
    """The record of a proposal. Its event is that of the proposal, so it is recorded once."""
    return record_of(
        call.caller,
        f"proposal-{number}",
        "propose",
        202,
        request_id=None if (exchange := CURRENT.get()) is None else exchange.request_id,
        source=(call.scope.get("client") or ("unknown",))[0],
        ledger_id=call.ledger,
        subject=f"/approvals/{number}",
        detail=msgspec.json.encode({"rule": rule.name, "approvals": rule.approvals}).decode(),
    )


def record_of(caller: Caller, event: str, action: str, status: int, **facts: Any) -> AuditRecord:
    """A record of the audit log about a proposal."""
    return AuditRecord(
        event=event,
        action=action,
        status=status,
        principal_id=caller.principal_id,
        key_id=caller.key_id or None,
        **facts,
    )


def may_be_caught(rules: Rules | None, items: Sequence[Any]) -> bool:
    """Whether a rule can catch one of the items of a batch. Without rules it is a forced one."""
    return rules is not None or not set(map(type, items)) <= {Movement}


async def put_aside(
    call: Call,
    items: list[Any],
    lines: Sequence[bytes],
    *,
    linked: bool = False,
    is_patient: bool = False,
) -> list[Any]:
    """The items, with the proposals of those that others have to approve.

    One that is `linked` to others is refused. A dry run marks the answer and leaves all as it is.
    With `is_patient` an item waits for room in a queue that is full.
    """
    if not may_be_caught(call.runtime.rules.of(call.ledger), items):
        return items
    return [
        await _put_aside(call, item, line, linked=linked, is_patient=is_patient)
        for item, line in zip(items, lines, strict=True)
    ]


async def _put_aside(call: Call, item: Any, line: bytes, *, linked: bool, is_patient: bool) -> Any:
    if isinstance(item, list):
        return [
            await _put_aside(call, one, line, linked=True, is_patient=is_patient) for one in item
        ]
    rules = call.runtime.rules.of(call.ledger) or FORCE_ALWAYS
    if isinstance(item, ProblemError) or not approvals.may_catch(rules, item):
        return item
    work: Callable[[], Awaitable[Any]] = partial(refused_if_caught, call, item)
    if not linked:
        work = partial(_unless_caught, call, item, Origin(ITEM, None, line))
    try:
        return await (patiently(call, work) if is_patient else work())
    except ProblemError as error:
        return error.bare()


async def _unless_caught(call: Call, item: Instruction, origin: Origin) -> Instruction | Proposed:
    """The instruction, or its proposal if a rule catches it. Raises ProblemError."""
    reply = await proposed(call, item, origin)
    if reply is None:
        return item
    status, body, headers = reply
    return Proposed(status, body, "idempotency-replayed" in headers)


async def refused_if_caught(call: Call, item: Instruction) -> Instruction:
    """The instruction. Raises ProblemError if a rule catches it and it cannot be proposed here:
    linked to others, or where callers have no keys.
    """
    rules = call.runtime.rules.of(call.ledger) or FORCE_ALWAYS
    rule = await caught_by(call, rules, item)
    if rule is None:
        return item
    if call.dry_run:
        _mark_rehearsal(rule)
    raise ProblemError("approval_required")
