"""The ASGI application. LAYERS is the order in which a request passes through its parts."""

import asyncio
import gc
import logging
import sys
import traceback
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack

from fastapi import FastAPI, Request
from starlette.datastructures import State
from starlette.types import Message, Receive, Scope, Send

from ledgerservice import __version__
from ledgerservice.access.grants import NEWCOMER, Caller
from ledgerservice.access.signatures import Signatures
from ledgerservice.api.application import create_api
from ledgerservice.api.door import MoneyDoor
from ledgerservice.api.http.authentication import CALLER, Authentication
from ledgerservice.api.http.call import (
    A_DRY_RUN,
    RUNTIME,
    Call,
)
from ledgerservice.api.http.documentation import ASSETS
from ledgerservice.api.http.forwarding import Forwarding
from ledgerservice.api.http.head import HeadCheck
from ledgerservice.api.http.observing import REQUEST_ID, name_route, observe
from ledgerservice.api.http.openapi import Handler
from ledgerservice.api.http.problems import problem, problem_of
from ledgerservice.api.movements.execution import keep_executing
from ledgerservice.api.movements.forms import MONEY_PATHS, Form
from ledgerservice.api.movements.posting import move
from ledgerservice.api.placing import READING, find_ledger
from ledgerservice.api.resources.frequent import frequent_read
from ledgerservice.api.sending import (
    PROTECTED,
    UNFRAMED,
    App,
    Header,
    send_reply,
    send_response,
    sending,
)
from ledgerservice.console.providers import Provider
from ledgerservice.errors import LedgerError, LimitReached
from ledgerservice.installation import command
from ledgerservice.postgres.connections import Database
from ledgerservice.posting.remote import PosterAddress
from ledgerservice.rights import reading_keys
from ledgerservice.runtime import posting, running
from ledgerservice.settings import Settings
from ledgerservice.shards import sharded
from ledgerservice.telemetry import exporter, logs, requests, traces
from ledgerservice.telemetry.exchanges import CURRENT, note_caller

SWITCH_S = 0.0005
GARBAGE_OBJECTS = 10_000
"""New objects after which the garbage collector looks for those that keep each other alive."""

log = logging.getLogger(__name__)

OPEN = (
    "there are no keys: whoever uses this machine can move money, until `%s create` makes the "
    "first one"
)


class Service:
    """The service as an ASGI application: starts the runtime, answers requests, stops it."""

    def __init__(
        self,
        database: Database | None = None,
        *,
        is_trusted: bool = False,
        settings: Settings | None = None,
        poster: PosterAddress | None = None,
    ) -> None:
        """`database` is already prepared; None: it is started according to `settings`, which are
        those of the environment by default.

        `is_trusted`: no request needs a key. `poster`: the process that posts.
        """
        self.api = create_api()
        self.is_draining = False
        self._answer = _chain(self.api)
        self._database, self._settings = database, settings
        self._poster = poster
        self._is_trusted = is_trusted
        self.door: MoneyDoor | None = None
        self._life: AsyncExitStack | None = None

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI call."""
        if scope["type"] == "http":
            scope["app"] = self.api
            await self._answer(scope, receive, send)
        elif scope["type"] == "lifespan":
            await self._live(receive, send)
        else:
            await self.api(scope, receive, send)

    async def _live(self, receive: Receive, send: Send) -> None:
        await receive()
        try:
            await self.start()
        except LedgerError as error:
            # One clear line instead of a traceback.
            await send({"type": "lifespan.startup.failed", "message": str(error)})
            return
        except Exception:  # noqa: BLE001  (sent on as text)
            # uvicorn takes an exception for an application without a lifespan, and serves it.
            await send({"type": "lifespan.startup.failed", "message": traceback.format_exc()})
            return
        await send({"type": "lifespan.startup.complete"})
        await receive()
        await self.stop()
        await send({"type": "lifespan.shutdown.complete"})

    async def start(self) -> None:
        """Start the runtime. Raises LedgerError."""
        database = self._database
        settings = database.settings if database else self._settings or Settings.load()
        logs.configure_unless_done(settings.log_format)
        requests.CHOICE.choose(settings.log_requests, settings.log_slow_s)
        self._life = life = AsyncExitStack()
        state = self.api.state
        try:
            life.callback(exporter.listen(settings, __version__))
            life.callback(traces.start(settings, __version__))
            state.runtime = await life.enter_async_context(
                posting(database) if database else running(settings, self._poster)
            )
            registry = await life.enter_async_context(
                reading_keys(state.runtime, with_tokens=not self._is_trusted)
            )
            state.shards = await life.enter_async_context(sharded(state.runtime))
            works = [state.shards.keep_completing(registry)]
            if self._poster is None:
                works.append(keep_executing(state.shards))
            for work in works:
                life.push_async_callback(_cancelled, asyncio.create_task(work))
        except BaseException:
            await life.aclose()
            raise
        is_open, is_trusted = settings.allow_open, self._is_trusted
        signatures = Signatures(settings.signature_max_age_s)
        state.authentication = Authentication(registry, signatures, is_open, is_trusted)
        state.forwarding = Forwarding(() if is_trusted else settings.proxies)
        self.door = MoneyDoor(state)
        if not (registry.has_keys or is_trusted):
            log.warning(OPEN, command("keys"))
        tune_process()

    @property
    def is_draining(self) -> bool:
        """Whether the service is about to stop, and not ready for that reason."""
        return bool(self.api.state.is_draining)

    @is_draining.setter
    def is_draining(self, value: bool) -> None:
        self.api.state.is_draining = value

    async def stop(self) -> None:
        """Stop the runtime when all requests are answered."""
        assert self._life is not None
        await self._life.aclose()


def tune_process() -> None:
    """For a process whose threads wait for each other: they, and its garbage collector, wait less.

    The writer's thread waits for that of the requests at each of its steps. With Python's 5 ms a
    transfer took 0.5 s while another client sent large requests; it takes 7 ms.
    """
    sys.setswitchinterval(SWITCH_S)
    # The objects of start-up stay. Full collections of them took 77 ms, twice a second.
    gc.collect()
    gc.freeze()
    # A batch of requests alone is more than the usual 700 objects, most of which go with it.
    gc.set_threshold(GARBAGE_OBJECTS, *gc.get_threshold()[1:])


async def _cancelled(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


ROOT, FEED = "/console", "/console/events"


def show_console(inner: App, state: State) -> App:
    """Answers the pages of the console, and leads a browser from `/` to them. The pages call what
    is within this layer, each call observed as a request of its own.
    """
    console: App | None = None
    called = observe(inner, state)

    def answer(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        nonlocal console
        path = scope["path"]
        if path != "/" and not path.startswith(ROOT):
            return inner(scope, receive, send)
        settings = state.runtime.settings
        is_page = path == ROOT or path.startswith(f"{ROOT}/")
        if settings.console == "off" or not (is_page or (path == "/" and _is_browser(scope))):
            return inner(scope, receive, send)
        if console is None:
            # Imported when the first page is read: most processes show none.
            from ledgerservice.console.application import Console  # noqa: PLC0415

            console = Console(called, settings, _provider_of(settings))
        return console(scope, receive, _noting(send, path))

    return answer


def _provider_of(settings: Settings) -> Provider | None:
    """The provider at which readers of the console sign in, if there is one."""
    if settings.console_oidc_client_id is None:
        return None
    from ledgerservice.access.oidc.codes import SignInProvider  # noqa: PLC0415  (of an extra)

    return SignInProvider(settings)


def _noting(send: Send, path: str) -> Send:
    """Notes the answer to the task's request, also where a call within it sends the answer."""
    exchange = CURRENT.get()
    if exchange is None:
        return send
    exchange.route = FEED if path.endswith(FEED.removeprefix(ROOT)) else ROOT
    header = (REQUEST_ID, exchange.request_id.encode())

    async def send_noted(message: Message) -> None:
        if message["type"] == "http.response.start":
            exchange.status = message["status"]
            headers = [one for one in message["headers"] if one[0] != REQUEST_ID]
            message["headers"] = [*headers, header]
        await send(message)

    return send_noted


def _is_browser(scope: Scope) -> bool:
    if scope["method"] not in READING:
        return False
    return any(name == b"accept" and b"text/html" in value for name, value in scope["headers"])


def _mark_dry_runs(inner: App, _: State) -> App:
    """Marks every answer to a dry run, refusals and streams included."""

    def answer(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["query_string"] == A_DRY_RUN:
            send = _marked(send)
        return inner(scope, receive, send)

    return answer


def _marked(send: Send) -> Send:
    async def send_marked(message: Message) -> None:
        if message["type"] == "http.response.start":
            message["headers"] = [*message.get("headers", ()), (b"dry-run", b"true"), *_approval()]
        await send(message)

    return send_marked


def _approval() -> list[Header]:
    """The rule by which the request would have to be approved."""
    exchange = CURRENT.get()
    if exchange is None or exchange.approval is None:
        return []
    return [(b"approval-required", exchange.approval.encode())]


def _authenticate(inner: App, state: State) -> App:
    """Finds who sends a request, and counts the request. What the caller may do is decided where
    its route is known.
    """
    find: Callable[[Scope], Caller] | None = None

    def answer(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        nonlocal find
        if find is None:
            find = state.authentication.caller_of
        caller = find(scope)
        if caller is NEWCOMER:
            return answer_newcomer(scope, receive, send)
        if caller.public_key is not None:
            caller, receive = state.authentication.signed(caller, scope, receive)
        scope[CALLER] = caller
        note_caller(caller.key_id, caller.refusal)
        return answer_metered(caller, scope, receive, send)

    async def answer_newcomer(scope: Scope, receive: Receive, send: Send) -> None:
        scope[CALLER] = caller = await state.authentication.introduced(scope)
        note_caller(caller.key_id, caller.refusal)
        await answer_metered(caller, scope, receive, send)

    def answer_metered(
        caller: Caller, scope: Scope, receive: Receive, send: Send
    ) -> Awaitable[None]:
        if (bucket := caller.meter.requests) is not None:
            try:
                bucket.take()
            except LimitReached as error:
                return send_reply(send, problem_of(error))
        return inner(scope, receive, send)

    return answer


def _move_money(inner: App, state: State) -> App:
    """Answers the money routes without FastAPI, which takes longer than the movement."""

    def answer(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["method"] == "POST" and (form := MONEY_PATHS.get(scope["path"])):
            if (exchange := CURRENT.get()) is not None:
                exchange.route = scope["path"]
            return answer_movement(form, scope, receive, send)
        return inner(scope, receive, send)

    async def answer_movement(form: Form, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            runtime = scope.get(RUNTIME, state.runtime)
            reply = await move(Call.of(runtime, scope, receive), form)
        except Exception as error:  # noqa: BLE001  (every request is answered)
            reply = problem_of(error)
        await send_reply(send, reply)

    return answer


def _read(inner: App, _: State) -> App:
    """Answers the most frequent reads without FastAPI's routing, by the handlers of its routes."""

    def answer(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        if scope["method"] == "GET" and (read := frequent_read(scope["path"])):
            scope["path_params"] = read.parameters
            if (exchange := CURRENT.get()) is not None:
                exchange.route = read.route
            return answer_read(read.handler, scope, receive, send)
        return inner(scope, receive, send)

    async def answer_read(handler: Handler, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            response = await handler(Request(scope, receive))
        except Exception as error:  # noqa: BLE001  (every request is answered)
            await send_reply(send, problem_of(error))
            return
        await send_response(response, scope, receive, send, PROTECTED)

    return answer


def _refuse_controls(inner: App, _: State) -> App:
    """Refuses a path with NUL, which PostgreSQL could not keep in the audit log, and one that ends
    with an encoded line feed: the framework's routes would match it.
    """

    def answer(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        path = scope["path"]
        if "\0" in path or path.endswith("\n"):
            return send_reply(send, problem("not_found"))
        return inner(scope, receive, send)

    return answer


def _find_client(inner: App, state: State) -> App:
    """Replaces the address of a proxy by that of its client, if there are trusted proxies."""
    find: Callable[[Scope], str | None] | None = None

    def answer(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        nonlocal find
        if find is None:
            find = state.forwarding.fault
        code = find(scope)
        if code is not None:
            return send_reply(send, problem(code))
        return inner(scope, receive, send)

    return answer


def _check_head(inner: App, state: State) -> App:
    """Refuses a head that means different things to different readers, and foreign hosts."""
    check: HeadCheck | None = None

    def answer(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        nonlocal check
        if check is None:
            check = HeadCheck(state.runtime.settings.hosts)
        code = check.fault(scope)
        if code is not None:
            return send_reply(send, problem(code))
        return inner(scope, receive, send)

    return answer


def _protect(inner: App, _: State) -> App:
    """Adds to what FastAPI answers that it is neither kept, nor shown in a frame of another page.

    The files of the documentation may be kept.
    """

    def answer(scope: Scope, receive: Receive, send: Send) -> Awaitable[None]:
        added = UNFRAMED if scope["path"].startswith(ASSETS) else PROTECTED
        return inner(scope, receive, sending(send, added))

    return answer


LAYERS = (
    observe,
    _find_client,
    _check_head,
    show_console,
    _mark_dry_runs,
    _refuse_controls,
    _authenticate,
    find_ledger,
    _move_money,
    _read,
    _protect,
    name_route,
)
"""What a request passes through before FastAPI, in this order."""


def _chain(api: FastAPI) -> App:
    app: App = api
    for layer in reversed(LAYERS):
        app = layer(app, api.state)
    return app
