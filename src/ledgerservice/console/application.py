"""The console as an ASGI application: its routes, sessions, and what becomes of refusals."""

import logging
import re
from collections.abc import Awaitable, Callable
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import PlainTextResponse, RedirectResponse, Response
from starlette.types import Receive, Scope, Send

from ledgerservice.console import assets
from ledgerservice.console.calls import Api, App, RefusedError
from ledgerservice.console.costly import Costs
from ledgerservice.console.pages import (
    account,
    accounts,
    actions,
    approvals,
    error,
    events,
    find,
    health,
    ledgers,
    overview,
    provider,
    raw,
    reports,
    signing,
    transaction,
    transactions,
)
from ledgerservice.console.providers import Provider
from ledgerservice.console.sessions import Session, Sessions, cookie_name
from ledgerservice.console.visits import PAGE_HEADERS, ROOT, FormError, Visit
from ledgerservice.settings import Settings

log = logging.getLogger(__name__)

Page = Callable[[Visit], Awaitable[Response]]


class Route(NamedTuple):
    """The path of a page below the ledger, with its parameters as groups."""

    path: "re.Pattern[str]"
    page: Page
    method: str = "GET"
    has_frame: bool = True
    """Whether it is a page with the navigation of the reader."""


def _route(path: str, page: Page, method: str = "GET", *, has_frame: bool = True) -> Route:
    pattern = re.sub(r"\{(\w+)\}", r"(?P<\1>[^/]+)", path)
    return Route(re.compile(pattern), page, method, has_frame)


ROUTES = (
    _route("", overview.page),
    _route("/ledgers", ledgers.page),
    _route("/find", find.page),
    _route("/accounts", accounts.page),
    _route("/accounts/{id}", account.page),
    _route("/events", events.page, has_frame=False),
    _route("/transactions", transactions.page),
    _route("/transactions/{transaction_id}", transaction.page),
    _route("/reports", reports.trial_balance),
    _route("/reports/owners", reports.owners),
    _route("/reports/metadata", reports.metadata),
    _route("/reports/months", reports.months),
    _route("/health", health.page),
    _route("/actions/{action}/{number}", actions.page),
    _route("/actions/{action}/{number}", actions.act, "POST"),
    _route("/approvals", approvals.listing),
    _route("/approvals/{approval_id}", approvals.page),
    _route("/approvals/{approval_id}/{verdict}", approvals.decide, "POST"),
    _route("/raw(?P<path>/.*)", raw.page, has_frame=False),
    _route("/sign-in", signing.page, has_frame=False),
    _route("/sign-in", signing.sign_in, "POST", has_frame=False),
    _route("/sign-out", signing.sign_out, "POST"),
    _route("/oidc/start", provider.leave, has_frame=False),
    _route("/oidc/callback", provider.come_back, has_frame=False),
)
"""Every page. `/console/PATH` is on the default ledger, `/console/ledgers/NAME/PATH` on another."""

_ON_LEDGER = re.compile(rf"{ROOT}/ledgers/([^/]+)(/.*)?")
_STATIC = re.compile(rf"{assets.PLACE}/([0-9a-f]+)/([a-zA-Z.]+)")


class Console:
    """Answers what is below /console. `api` answers the calls that the pages make."""

    def __init__(self, api: App, settings: Settings, provider: Provider | None = None) -> None:
        secret = settings.console_secret
        self._api, self._mode, self._provider = api, settings.console, provider
        self._sessions = Sessions(None if secret is None else secret.get_secret_value())
        self._costs = Costs(settings.console_patience_s)
        self._is_open_to_all = settings.allow_open

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """An ASGI call."""
        request = Request(scope, receive, send)
        if scope["path"] == "/":
            response: Response = RedirectResponse(
                f"{scope.get('root_path', '')}{ROOT}", 307, PAGE_HEADERS | {"vary": "accept"}
            )
            await response(scope, receive, send)
            return
        response = self._asset(request) or await self._page(request)
        await response(scope, receive, send)

    def _asset(self, request: Request) -> Response | None:
        match = _STATIC.fullmatch(request.scope["path"])
        return None if match is None else assets.asset(request, *match.groups())

    async def _page(self, request: Request) -> Response:
        ledger, path = _place(request.scope["path"])
        visit = self._visit(request, ledger)
        routes = [(match, route) for route in ROUTES if (match := route.path.fullmatch(path))]
        if not routes:
            return error.not_found(visit)
        method = "GET" if request.method == "HEAD" else request.method
        for match, route in routes:
            if route.method == method:
                visit.parameters = match.groupdict()
                return await _answered(visit, route)
        allowed = ", ".join(sorted({route.method for _, route in routes}))
        return PlainTextResponse("", 405, PAGE_HEADERS | {"allow": allowed})

    def _visit(self, request: Request, ledger: str | None) -> Visit:
        cookie = request.cookies.get(cookie_name(request.scope))
        session = self._sessions.opened(cookie) if cookie else None
        api = Api(self._api, request.scope, _authorization(request, session), ledger)
        return Visit(
            request,
            api,
            self._sessions,
            session,
            self._mode,
            self._costs,
            provider=self._provider,
            is_open_to_all=self._is_open_to_all,
        )


def _authorization(request: Request, session: Session | None) -> str | None:
    """The key of the session. A proxy that signs readers in by itself can send theirs."""
    return request.headers.get("authorization") or (session and f"Bearer {session.key}") or None


def _place(path: str) -> tuple[str | None, str]:
    """The ledger of a path, and the path below it."""
    match = _ON_LEDGER.fullmatch(path)
    ledger, rest = (None, path.removeprefix(ROOT)) if match is None else match.groups()
    return ledger, (rest or "").rstrip("/")


async def _answered(visit: Visit, route: Route) -> Response:
    """The page, or what says why there is none."""
    try:
        if route.has_frame:
            await visit.introduce()
        return await route.page(visit)
    except RefusedError as refused:
        return error.refused(visit, refused.answer)
    except FormError:
        return error.foreign_form(visit)
    except Exception:  # every request is answered
        log.exception("a page of the console failed")
        return error.failed(visit)
