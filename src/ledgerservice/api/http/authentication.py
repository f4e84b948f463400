"""Who sends a request, and whether it may do what it asks for.

A layer of the application finds the caller; the route that a request is resolved to says what it
needs (`Need`). Nothing is decided on the text of a path.
"""

import ipaddress
from functools import lru_cache

from starlette.requests import Request
from starlette.types import Scope

from ledgerservice.access.certificates import names_of as names_in
from ledgerservice.access.grants import EVERYONE, STRANGER, Caller, Need, denial
from ledgerservice.access.registry import UNKNOWN, Registry
from ledgerservice.access.scopes import names_of
from ledgerservice.api.http.problems import ProblemError
from ledgerservice.telemetry.exchanges import note_denial

CALLER = "ledgerservice.caller"
"""The entry of a request's scope with its `Caller`."""

EXTENSIONS = "extensions"
TLS = "tls"
"""The entry of EXTENSIONS that says who the client is (ASGI's extension for TLS)."""

NOT_LOCAL = Caller(refusal="no_keys")
_FORWARDED = (b"forwarded", b"x-forwarded-")
FORWARDED = Caller(refusal="forwarded_without_keys")


class Authentication:
    """Finds the caller of a request.

    While no key was ever made, whoever is on this machine is `EVERYONE`, and with `is_open` whoever
    reaches the service. With `is_trusted` requests need no key: they come from a command that has
    the database itself.
    """

    def __init__(self, registry: Registry, is_open: bool, is_trusted: bool) -> None:
        self._registry = registry
        self._is_open = is_open
        self._is_trusted = is_trusted

    def caller_of(self, scope: Scope) -> Caller:
        """The caller, or one with a `refusal`."""
        registry = self._registry
        if registry.has_keys:
            for name, value in scope["headers"]:
                if name == b"authorization":
                    caller = registry.caller_of(value)
                    return self._beside(caller, scope) if EXTENSIONS in scope else caller
            return self._holder(scope) or (EVERYONE if self._is_trusted else STRANGER)
        return EVERYONE if self._is_open or self._is_trusted else _local_caller(scope)

    async def introduced(self, scope: Scope) -> Caller:
        """Who sends a request with a token of somebody new, who gets a row in the database."""
        for name, value in scope["headers"]:
            if name == b"authorization":
                await self._registry.introduce(value)
        return self.caller_of(scope)

    def _holder(self, scope: Scope) -> Caller | None:
        """Who has the certificate of the connection; None if it stands for nobody."""
        chain = scope.get(EXTENSIONS, {}).get(TLS, {}).get("client_cert_chain")
        return self._registry.holder_of(names_in(chain[0])) if chain else None

    def _beside(self, caller: Caller, scope: Scope) -> Caller:
        """Who sends a key. A certificate that stands for another principal makes it not valid."""
        holder = self._holder(scope)
        if caller.refusal is None and holder is not None:
            if holder.refusal is not None:
                return holder
            if holder.principal_id != caller.principal_id:
                return UNKNOWN
        return caller


def _local_caller(scope: Scope) -> Caller:
    """Everyone, if the request comes from this machine and no proxy sent it on."""
    for place in (scope["server"], scope["client"]):
        if place is None or not _is_loopback(place[0]):
            return NOT_LOCAL
    for name, _ in scope["headers"]:
        # Most names are sorted out by the comparison, which takes half as long.
        if name >= b"forwarded" and name.startswith(_FORWARDED):
            return FORWARDED
    return EVERYONE


@lru_cache(1_000)
def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        address = ipaddress.ip_address(host.partition("%")[0])
    except ValueError:  # a socket of the file system
        return False
    mapped = getattr(address, "ipv4_mapped", None)
    return (mapped or address).is_loopback


def caller_now(request: Request) -> Caller:
    """The caller of a request as it is now: a stream outlasts keys."""
    authentication: Authentication = request.app.state.authentication
    return authentication.caller_of(request.scope)


def caller_of(scope: Scope) -> Caller:
    """The caller that the layer has found; a stranger where there was no layer."""
    caller: Caller = scope.get(CALLER, STRANGER)
    return caller


def authorize(caller: Caller, ledger: int, need: Need, *, is_named: bool = True) -> None:
    """Raise ProblemError if the caller may not do what has this need."""
    code = denial(caller, ledger, need, is_named=is_named)
    if code is not None:
        raise denied(code, need.scopes)


def denied(code: str, scopes: int) -> ProblemError:
    """A refusal of the caller. `scopes`: one of these is missing. It gets into the audit log."""
    note_denial(code)
    if code != "scope_missing":
        return ProblemError(code)
    return ProblemError(code, scope=" ".join(names_of(scopes)))
