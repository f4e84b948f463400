"""Posts plain movements straight from a connection, without an ASGI call and a task for each.

It takes a request only if nothing of it has to be refused, awaited or looked at more closely, and
leaves all others, with nothing done, to the layers of the application. So it has no answer of its
own: what it asks is what LAYERS and `move` ask, by the same functions.
"""

import asyncio
from functools import partial
from typing import Any

from starlette.datastructures import State
from starlette.types import Scope, Send

from ledgerservice.access.grants import Caller
from ledgerservice.api.http.authentication import CALLER
from ledgerservice.api.http.bodies import SMALL_BYTES
from ledgerservice.api.http.call import Call
from ledgerservice.api.http.forwarding import Forwarding
from ledgerservice.api.http.head import HeadCheck
from ledgerservice.api.http.observing import end, request_id_of
from ledgerservice.api.http.problems import Reply, problem_of
from ledgerservice.api.http.protocol import Cycle
from ledgerservice.api.movements.forms import MONEY_PATHS, Form
from ledgerservice.api.movements.posting import answered, enter_at_once
from ledgerservice.api.sending import send_reply, write_reply
from ledgerservice.domain.transactions import Outcomes
from ledgerservice.errors import Unavailable
from ledgerservice.postgres.schema import DEFAULT_LEDGER
from ledgerservice.runtime import Runtime
from ledgerservice.telemetry import traces
from ledgerservice.telemetry.exchanges import CURRENT, Exchange, note_caller
from ledgerservice.telemetry.metrics import IN_FLIGHT


class MoneyDoor:
    """The money routes of a service that has started."""

    def __init__(self, state: State) -> None:
        """`state` is that of the application."""
        self._state = state
        self._runtime: Runtime = state.runtime
        self._find_caller = state.authentication.caller_of
        self._forwarding: Forwarding = state.forwarding
        self._head = HeadCheck(self._runtime.settings.hosts)

    def take(self, cycle: Cycle) -> bool:
        """Take a request whose body has come; False if the application has to answer it."""
        scope: Any = cycle.scope
        form = MONEY_PATHS.get(scope["path"])
        if form is None or len(cycle.body) > SMALL_BYTES or scope["query_string"]:
            return False
        place = scope["client"], scope["scheme"]
        call = self._call_of(scope, cycle)
        if call is None or not self._post(call, form, cycle):
            scope["client"], scope["scheme"] = place
            return False
        return True

    def _call_of(self, scope: Scope, cycle: Cycle) -> Call | None:
        """A call with a good head, of a plain caller; None if there is more to say of either."""
        if self._forwarding.fault(scope) is not None or self._head.fault(scope) is not None:
            return None
        caller: Caller = self._find_caller(scope)
        is_plain = caller.refusal is None and caller.public_key is None and not caller.by_accounts
        if not is_plain or caller.meter.bytes is not None or traces.are_on():
            return None
        receive: Any = cycle.receive
        return Call(self._runtime, scope["headers"], receive, DEFAULT_LEDGER, False, caller, scope)

    def _post(self, call: Call, form: Form, cycle: Cycle) -> bool:
        exchange = Exchange(request_id_of(call.headers), "POST")
        exchange.route = call.scope["path"]
        CURRENT.set(exchange)
        outcomes = enter_at_once(call, form, bytes(cycle.body))
        if outcomes is not None:
            cycle.scope[CALLER] = call.caller  # type: ignore[literal-required]
            note_caller(call.caller.key_id, None)
            IN_FLIGHT.number += 1
            # It is called in a copy of the present context.
            outcomes.add_done_callback(partial(self._answer, cycle, call, exchange))
        CURRENT.set(None)
        return outcomes is not None

    def _answer(
        self, cycle: Cycle, call: Call, exchange: Exchange, outcomes: asyncio.Future[Outcomes]
    ) -> None:
        call.caller.meter.give_movement()
        try:
            reply = answered(call, outcomes.result())
        except asyncio.CancelledError:
            reply = problem_of(Unavailable())
        except Exception as error:  # noqa: BLE001  (every request is answered)
            reply = problem_of(error)
        send: Any = cycle.send
        if write_reply(send, reply):
            self._end(call, exchange)
            return
        task = cycle.loop.create_task(self._send(send, reply, call, exchange))
        cycle.tasks.add(task)
        task.add_done_callback(cycle.tasks.discard)

    async def _send(self, send: Send, reply: Reply, call: Call, exchange: Exchange) -> None:
        """Wait until the client takes the answer, or has gone."""
        try:
            await send_reply(send, reply)
        finally:
            self._end(call, exchange)

    def _end(self, call: Call, exchange: Exchange) -> None:
        IN_FLIGHT.number -= 1
        scope: Any = call.scope
        end(exchange, scope, self._state)
