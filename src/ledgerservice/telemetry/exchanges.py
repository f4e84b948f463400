"""The HTTP request that the running task answers, as it is counted, logged and traced."""

from contextvars import ContextVar
from itertools import count
from secrets import token_hex
from time import perf_counter
from typing import Any, Protocol

from ledgerservice.telemetry.metrics import AUTHENTICATIONS, REFUSALS, REQUESTS

UNROUTED = "none"
"""The route of a request that was refused before a route was found, or that has none."""
_METHODS = {name: name for name in ("GET", "HEAD", "POST", "PATCH", "PUT", "DELETE", "OPTIONS")}

_PREFIX = token_hex(6)
_numbers = count(1)


def new_request_id() -> str:
    """An id that no other request of any process has."""
    return f"{_PREFIX}-{next(_numbers):x}"


class Place(Protocol):
    """The place of a request in a queue, when its batch has been answered."""

    def times(self) -> dict[str, float]:
        """Milliseconds by the names of log fields."""


class Exchange:
    """A request and its answer. `scope` is the ASGI scope in which a router has put the route."""

    # What most requests do not have stands in the class.
    status = 0
    """0 until the answer begins."""
    route: str | None = None
    scope: dict[str, Any] | None = None
    ledger: str | None = None
    """The ledger's name, if the path names one that exists."""
    ledger_id: int | None = None
    has_no_ledger = False
    """Whether it concerns no ledger, or all of them."""
    is_audited = False
    """Whether an instruction of its body has to be in the audit log."""
    approval: str | None = None
    """The rule by which others would have to approve a dry run."""
    code: str | None = None
    denial: str | None = None
    """Why its caller was refused, as a whole or for one of its items."""
    key_id: str | None = None
    place: Place | None = None
    replays: dict[int, int] | None = None
    """By the id of the principal of an original: one of its transactions that was answered."""
    span: Any = None
    """The span, if the caller samples the request."""

    def __init__(self, request_id: str, method: str) -> None:
        self.request_id = request_id
        self.method = method
        self.began_s = perf_counter()

    def count(self) -> float:
        """Count the request, which is answered now; return how long it took, in seconds."""
        duration_s = perf_counter() - self.began_s
        REQUESTS.observe(duration_s, self.known_method(), self.template(), self.status)
        return duration_s

    def known_method(self) -> str:
        """The method, or `other`: a caller can send any word."""
        return _METHODS.get(self.method, "other")

    def template(self) -> str:
        """The path as the route declares it, without a slash at the end."""
        path = self.route
        if path is None and self.scope is not None:
            path = getattr(self.scope.get("route"), "path_format", None)
        if path is None:
            return UNROUTED
        return path.rstrip("/") or "/"


CURRENT: ContextVar[Exchange | None] = ContextVar("exchange", default=None)


def note_caller(key_id: str, refusal: str | None) -> None:
    """Count who sends the task's request: a key, nobody by name, or one that is refused."""
    AUTHENTICATIONS.add(1, refusal or ("key" if key_id else "open"))
    if key_id and (exchange := CURRENT.get()) is not None:
        exchange.key_id = key_id


def note_denial(code: str) -> None:
    """Keep that the caller of the task's request may not do what it, or an item of it, says."""
    exchange = CURRENT.get()
    if exchange is not None:
        exchange.denial = code


def note_no_ledger() -> None:
    """Keep that the task's request concerns no ledger, or all of them."""
    exchange = CURRENT.get()
    if exchange is not None:
        exchange.has_no_ledger = True


def note_replay(principal_id: int, transaction_id: int) -> None:
    """Keep that the task's request gets the answer to an earlier request of a principal."""
    exchange = CURRENT.get()
    if exchange is not None:
        exchange.replays = exchange.replays or {}
        exchange.replays.setdefault(principal_id, transaction_id)


def note_refusal(code: str) -> None:
    """Count a problem, which may be the answer to the task's request."""
    REFUSALS.add(1, code)
    exchange = CURRENT.get()
    if exchange is not None:
        exchange.code = code
