"""Which requests are in the audit log, and what is recorded of them.

A request to an operation whose scope is in AUDITED is recorded before it is answered, with what was
and what is. Callers that are refused are recorded, whatever the operation. Movements of money are
not: the journal has them, with their principal.
"""

from collections.abc import Awaitable, Callable
from typing import Any

import msgspec
from fastapi import Request
from fastapi.responses import Response
from starlette.types import Scope as AsgiScope

from ledgerservice.access.audit import new_event
from ledgerservice.access.scopes import POLICIES, Scope
from ledgerservice.api.http.authentication import caller_of
from ledgerservice.api.http.call import A_DRY_RUN, ledger_of, runtime_of
from ledgerservice.api.http.catalogue import CATALOGUE
from ledgerservice.api.http.problems import ProblemError
from ledgerservice.domain.audit import AuditRecord
from ledgerservice.domain.instructions import Instruction, PolicyChange, Reversal
from ledgerservice.postgres.schema import DEFAULT_LEDGER
from ledgerservice.runtime import Runtime
from ledgerservice.telemetry.exchanges import CURRENT, Exchange

AUDITED = int(
    POLICIES
    | Scope.REVERSALS_FORCE
    | Scope.CURRENCIES_WRITE
    | Scope.LEDGERS_WRITE
    | Scope.APPROVALS_DECIDE
    | Scope.WEBHOOKS
)
DENIED = frozenset({401, 403})
SECRETS = frozenset({"secret"})
"""Members of answers that are not recorded."""
MAX_DETAIL_BYTES = 10_000
"""Of a larger answer, as to a batch, nothing is recorded but its status."""

Handler = Callable[[Request], Awaitable[Response]]


def is_audited(method: str, scopes: int) -> bool:
    """Whether all requests to an operation are in the audit log."""
    recorded = int(Scope.AUDIT_READ) if method == "GET" else AUDITED
    return bool(scopes) and not scopes & ~recorded


async def audited(request: Request, action: str, handler: Handler, *, is_sure: bool) -> Response:
    """The handler's answer, which is in the audit log by then if it has to be: always, or because
    an instruction of its body says so. A dry run changes nothing, and is not.
    """
    if request.scope["query_string"] == A_DRY_RUN:
        return await handler(request)
    try:
        response = await handler(request)
    except ProblemError as error:
        status = CATALOGUE[error.code].status.value
        if status not in DENIED and (is_sure or is_marked()):
            await _add(request, action, status, error.code, None)
        raise
    if is_sure or is_marked():
        await _add(request, action, response.status_code, None, _detail(request, response))
    return response


def add_stream(request: Request, action: str) -> None:
    """Record a stream that has such an instruction. Its lines have been answered one by one."""
    if is_marked():
        record = _record(request.scope, action, 200, None, _ledger_of(request), None)
        runtime_of(request).audit.add_later(record)


def mark(instruction: Instruction) -> None:
    """Note that the request has an instruction that changes limits, or that overdraws by force."""
    is_forced = isinstance(instruction, Reversal) and instruction.force
    if is_forced or isinstance(instruction, PolicyChange):
        mark_request()


def mark_request() -> None:
    """Note that the request has to be in the audit log."""
    if (exchange := CURRENT.get()) is not None:
        exchange.is_audited = True


def is_marked() -> bool:
    """Whether the request has such an instruction."""
    exchange = CURRENT.get()
    return exchange is not None and exchange.is_audited


async def _add(
    request: Request, action: str, status: int, code: str | None, detail: str | None
) -> None:
    record = _record(request.scope, action, status, code, _ledger_of(request), detail)
    await runtime_of(request).audit.add(record)


def _ledger_of(request: Request) -> int | None:
    """None for what concerns no ledger, or all: the readers of one ledger's log must not see it."""
    exchange = CURRENT.get()
    return None if exchange is not None and exchange.has_no_ledger else ledger_of(request)


def refuse(runtime: Runtime, scope: AsgiScope, exchange: Exchange) -> None:
    """Record that a caller was refused, or one of the items of its request."""
    action = f"{exchange.method} {exchange.template()}"
    status, code = exchange.status, exchange.code
    if exchange.denial is not None:
        code = exchange.denial
        status = CATALOGUE[code].status.value
    if status not in DENIED:  # a ledger that does not exist for the caller
        return
    is_of_none = status == 401 or exchange.has_no_ledger
    ledger = None if is_of_none else exchange.ledger_id or DEFAULT_LEDGER
    runtime.audit.count(_record(scope, action, status, code, ledger, None), code)


def record_replays(runtime: Runtime, scope: AsgiScope, exchange: Exchange) -> None:
    """Record that a caller got the answers to requests of other principals, whose keys it sent."""
    if scope["query_string"] == A_DRY_RUN:
        return
    action, own = f"{exchange.method} {exchange.template()}", caller_of(scope).principal_id
    ledger = exchange.ledger_id or DEFAULT_LEDGER
    for first, transaction in (exchange.replays or {}).items():
        if first != own:
            facts = {"first_principal_id": first, "transaction_id": transaction}
            detail = msgspec.json.encode(facts).decode()
            record = _record(scope, action, exchange.status, None, ledger, detail)
            runtime.audit.count(record, f"replay of {first}")


def _record(
    scope: AsgiScope,
    action: str,
    status: int,
    code: str | None,
    ledger_id: int | None,
    detail: str | None,
) -> AuditRecord:
    caller, client, exchange = caller_of(scope), scope.get("client"), CURRENT.get()
    return AuditRecord(
        event=new_event(),
        source="unknown" if client is None else client[0],
        action=action,
        status=status,
        principal_id=caller.principal_id,
        key_id=caller.key_id or None,
        request_id=None if exchange is None else exchange.request_id,
        ledger_id=ledger_id,
        subject=scope["path"][:255],
        code=code,
        detail=detail,
    )


def note_before(request: Request, value: Any) -> None:
    """Keep what was before a change, for the record of it: what msgspec can encode."""
    request.state.audit_before = value


def _detail(request: Request, response: Response) -> str | None:
    """What was and what is, as JSON; None for a request that reads."""
    if request.method in {"GET", "HEAD"}:
        query = str(request.query_params)
        return msgspec.json.encode({"query": query}).decode() if query else None
    if len(response.body) > MAX_DETAIL_BYTES:
        return None
    after = msgspec.json.decode(response.body) if response.body else None
    if isinstance(after, dict):
        after = {name: value for name, value in after.items() if name not in SECRETS}
    before = getattr(request.state, "audit_before", None)
    return msgspec.json.encode({"before": before, "after": after}).decode()
