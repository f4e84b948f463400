"""A visit: one request for a page, with all that the page needs."""

import asyncio
import shlex
from collections.abc import Callable, Coroutine, Mapping
from dataclasses import dataclass, field
from typing import Any, NamedTuple, TypeVar
from urllib.parse import parse_qsl, quote

from starlette.requests import ClientDisconnect, Request
from starlette.responses import HTMLResponse, RedirectResponse, Response

from ledgerservice.console.calls import Answer, Api, RefusedError, encoded
from ledgerservice.console.catalogue import LANGUAGES, Catalogue, language_of
from ledgerservice.console.costly import ALL, PARAMETER, Costs
from ledgerservice.console.filters import AsOf, as_of, zone_of
from ledgerservice.console.providers import Provider
from ledgerservice.console.readers import Reader
from ledgerservice.console.rendering import rendered
from ledgerservice.console.sessions import Session, Sessions

Value = TypeVar("Value")

ROOT = "/console"
DEFAULT_LEDGER = "default"
MAX_FORM_BYTES = 65_536
FORM_S = 10.0
"""How long the fields of a form may take to come."""
LANGUAGE_COOKIE, ZONE_COOKIE = "ledger-language", "ledger-zone"

SECTIONS = (
    ("overview", "", ()),
    ("accounts", "accounts", ("accounts:read",)),
    ("transactions", "transactions", ("transactions:read",)),
    ("proposals", "approvals", ("transactions:read", "approvals:decide")),
    ("reports", "reports", ("reports:read",)),
    ("health", "health", ("metrics:read",)),
)
"""The navigation: a text `nav.NAME`, the path below the ledger, and the scopes of which the reader
needs one.
"""

PAGE_HEADERS = {
    "content-security-policy": "default-src 'self'; frame-ancestors 'none'; form-action 'self'; "
    "base-uri 'none'; object-src 'none'",
    "cache-control": "no-store",
    "cross-origin-opener-policy": "same-origin",
    "referrer-policy": "same-origin",
    "x-content-type-options": "nosniff",
    "x-frame-options": "DENY",
}


class Source(NamedTuple):
    """A call of the API that a figure of the page comes from."""

    path: str
    query: dict[str, Any]
    is_list: bool


class FormError(Exception):
    """A form that does not come from a page of this session."""


@dataclass
class Visit:
    """A request for a page. `parameters` are those of the path."""

    request: Request
    api: Api
    sessions: Sessions
    session: Session | None
    mode: str
    costs: Costs
    provider: Provider | None = None
    is_open_to_all: bool = False
    parameters: dict[str, str] = field(default_factory=dict)
    sources: list[Source] = field(default_factory=list)
    ledgers: list[str] = field(default_factory=list)
    reader: Reader | None = None

    def __post_init__(self) -> None:
        cookies, headers = self.request.cookies, self.request.headers
        chosen = self.query("lang") or cookies.get(LANGUAGE_COOKIE)
        self.t = Catalogue(language_of(chosen, headers.get("accept-language", "")))
        self.zone = zone_of(cookies.get(ZONE_COOKIE, ""))
        self.as_of: AsOf = as_of(self.request.query_params, self.zone)

    # Reading the API.

    async def get(self, path: str, **query: Any) -> Answer:
        """Read the API. Raises RefusedError, which becomes the page."""
        answer = await self.peek(path, **query)
        if not answer.is_good:
            raise RefusedError(answer)
        return answer

    async def figure(self, path: str, **query: Any) -> Answer:
        """Read the API for a figure that the page can leave out: `answer.is_withheld` says that the
        reader may not read it. Raises RefusedError for any other problem.
        """
        answer = await self.peek(path, **query)
        if not (answer.is_good or answer.is_withheld):
            raise RefusedError(answer)
        return answer

    async def peek(self, path: str, **query: Any) -> Answer:
        """Read the API, and get whatever it answers. Names that Python reserves end with `_`."""
        query = {name.removesuffix("_"): value for name, value in query.items()}
        answer = await self.api.send("GET", path, query)
        if answer.is_good:
            is_list = isinstance(answer.body, list)
            self.sources.append(Source(path, query, is_list))
        return answer

    async def costly(self, figures: Callable[[], Coroutine[Any, Any, Value]]) -> Value | None:
        """Figures that read much, if they come soon or the URL says to wait; else None, and the
        template shows `later()` in their place.
        """
        name, reader = self.path, f"{self.api.authorization} {self.here(figures=None)}"
        if self.query(PARAMETER) == ALL:
            return await self.costs.whole(name, reader, figures)
        return None if self.costs.is_slow(name) else await self.costs.soon(name, reader, figures)

    # The state in the URL.

    def query(self, name: str, default: str = "") -> str:
        """A parameter of the page's URL, without blanks around it."""
        return self.request.query_params.get(name, default).strip()

    @property
    def root(self) -> str:
        """The path before `/console`, behind a proxy that adds one."""
        return str(self.request.scope.get("root_path", ""))

    @property
    def home(self) -> str:
        """The console on the ledger that is shown."""
        ledger = self.api.ledger
        return f"{self.root}{ROOT}" + ("" if ledger is None else f"/ledgers/{quote(ledger)}")

    def url(self, *parts: object, **query: Any) -> str:
        """The URL of a page of the ledger. It keeps the as-of control."""
        path = "/".join([self.home, *(quote(str(part), safe="") for part in parts if part != "")])
        return _with_query(path, {**self.as_of.url, **_unreserved(query)})

    def here(self, **changes: Any) -> str:
        """The URL of this page with other parameters; None takes one out."""
        return _with_query(self.path, {**self._parameters("lang"), **_unreserved(changes)})

    @property
    def path(self) -> str:
        """The path of this page."""
        return f"{self.root}{self.request.scope['path']}"

    def kept(self, *names: str) -> dict[str, list[str]]:
        """The parameters of the URL but these, and but the place in a list: for hidden fields."""
        return self._parameters("cursor", "lang", *names)

    def _parameters(self, *left_out: str) -> dict[str, list[str]]:
        parameters = self.request.query_params
        return {name: parameters.getlist(name) for name in parameters if name not in left_out}

    def chosen(self, *names: str) -> dict[str, str]:
        """The parameters of the URL that are filters of a list with these names."""
        return {name: value for name in names if (value := self.query(name))}

    # What the frame of every page shows.

    languages = LANGUAGES

    @property
    def sections(self) -> list[tuple[str, str]]:
        """The sections that the reader may see."""
        return [(name, path) for name, path, scopes in SECTIONS if not scopes or self.may(*scopes)]

    @property
    def section(self) -> str:
        """The section of this page."""
        below = self.path.removeprefix(self.home).strip("/").partition("/")[0]
        return below or SECTIONS[0][0]

    @property
    def all_ledgers(self) -> str:
        """The page that lists the ledgers."""
        return f"{self.root}{ROOT}/ledgers"

    def ledger_url(self, name: str) -> str:
        """The overview of a ledger."""
        is_default = name == DEFAULT_LEDGER
        return f"{self.root}{ROOT}" if is_default else f"{self.all_ledgers}/{quote(name)}"

    @property
    def is_known(self) -> bool:
        """Whether the API has answered to the reader."""
        return bool(self.sources)

    def api_path(self, source: Source) -> str:
        """The path and the query of a call."""
        return _with_query(self.api.path(source.path), source.query)

    def raw_url(self, source: Source, **query: Any) -> str:
        """The URL at which this session gets the answer to a call."""
        place = f"{self.home}/raw{source.path}"
        return _with_query(place, {**source.query, **_unreserved(query)})

    def curl(self, source: Source) -> str:
        """A command that makes the call. The key is a variable of the shell, not the session's."""
        url = f"{self.request.url.scheme}://{self.request.headers.get('host', '')}{self.root}"
        key = "" if self.is_open else '-H "Authorization: Bearer $LEDGER_API_KEY" '
        return f"curl -s {key}{shlex.quote(url + self.api_path(source))}"

    # Who reads.

    async def introduce(self) -> None:
        """Ask the API who the reader is. Who has no valid key stays unknown."""
        answer = await self.api.send("GET", "/me")
        if answer.is_good:
            self.reader = Reader(answer.body)

    def may(self, *scopes: str, is_whole: bool = False) -> bool:
        """Whether the reader has one of these scopes on the ledger, as far as is known; with
        `is_whole` not on single accounts only.
        """
        ledger = self.api.ledger or DEFAULT_LEDGER
        return self.reader is None or self.reader.may(ledger, scopes, is_whole=is_whole)

    @property
    def is_open(self) -> bool:
        """Whether the API answers without a key, because there is none yet."""
        return self.reader is not None and self.reader.is_open

    @property
    def can_write(self) -> bool:
        """Whether the console permits actions. The API decides whether the reader may do them."""
        return self.mode == "write"

    @property
    def token(self) -> str:
        """What every form has in its field `token`."""
        return self.sessions.token(self.session)

    async def form(self) -> dict[str, str]:
        """The fields of a form that a page of this session has sent. Raises FormError."""
        fields = await form_of(self.request)
        if not self.sessions.is_token(self.session, fields.get("token", "")):
            raise FormError("token")
        return fields

    # Answering.

    def page(self, template: str, status: int = 200, **values: Any) -> Response:
        """A page out of a template, which sees the visit as `visit` and the texts as `t`."""
        text = rendered(template, visit=self, t=self.t, **values)
        response = HTMLResponse(text, status, PAGE_HEADERS)
        if self.query("lang"):
            response.set_cookie(
                LANGUAGE_COOKIE,
                self.t.language,
                31_536_000,
                path=f"{self.root}{ROOT}",
                samesite="strict",
            )
        return response

    def redirect(self, url: str) -> Response:
        """Lead the browser to another page with GET."""
        return RedirectResponse(url, 303, PAGE_HEADERS)


def _unreserved(query: Mapping[str, Any]) -> dict[str, Any]:
    return {name.removesuffix("_"): value for name, value in query.items()}


def _with_query(path: str, query: Mapping[str, Any]) -> str:
    text = encoded(query)
    return f"{path}?{text}" if text else path


async def form_of(request: Request) -> dict[str, str]:
    """The fields of a form of this site. Raises FormError.

    The browser says where a form comes from; one that says nothing is refused.
    """
    headers = request.headers
    site, origin = headers.get("sec-fetch-site"), headers.get("origin")
    if (site is None and origin is None) or site not in {None, "same-origin", "none"}:
        raise FormError("site")
    if origin is not None and origin.partition("://")[2] != headers.get("host"):
        raise FormError("origin")
    content = bytearray()
    try:
        async with asyncio.timeout(FORM_S):
            async for chunk in request.stream():
                content += chunk
                if len(content) > MAX_FORM_BYTES:
                    raise FormError("size")
    except (TimeoutError, ClientDisconnect):
        raise FormError("time") from None
    return dict(parse_qsl(content.decode("utf-8", "replace"), keep_blank_values=True))
