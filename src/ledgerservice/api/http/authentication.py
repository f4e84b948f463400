"""Who sends a request, and whether it may do what it asks for.

A layer of the application finds the caller; the route that a request is resolved to says what it
needs (`Need`). Nothing is decided on the text of a path.
"""

import ipaddress
import re
from functools import lru_cache

from starlette.requests import Request
from starlette.types import Message, Receive, Scope

from ledgerservice.access.certificates import names_of as names_in
from ledgerservice.access.grants import EVERYONE, STRANGER, Caller, Need, denial
from ledgerservice.access.registry import UNKNOWN, Registry
from ledgerservice.access.scopes import names_of
from ledgerservice.access.signatures import BodyDigest, Signatures
from ledgerservice.access.signatures import Message as SignedMessage
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

    def __init__(
        self, registry: Registry, signatures: Signatures, is_open: bool, is_trusted: bool
    ) -> None:
        self._registry = registry
        self._signatures = signatures
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

    def signed(self, caller: Caller, scope: Scope, receive: Receive) -> tuple[Caller, Receive]:
        """A caller whose key requires signatures, refused if there is no good one; and its body,
        which is compared with the signed digest when it is read to its end.
        """
        message, body = _message_of(scope), None
        has_body = any(name in _FRAMING and value != b"0" for name, value in scope["headers"])
        assert caller.public_key is not None
        fault = self._signatures.fault(
            message,
            caller.key_id,
            caller.public_key,
            has_body=has_body,
            is_repeatable=_is_repeatable(scope),
        )
        if fault is None:
            try:
                body = _SignedBody(receive, BodyDigest(message.values("content-digest")))
            except ValueError:
                fault = "signature_invalid"
        if body is None:
            return Caller(caller.key_id, caller.principal_id, refusal=fault), receive
        return caller, body

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


_FRAMING = frozenset({b"content-length", b"transfer-encoding"})
_IDEMPOTENT = re.compile(
    r"(/ledgers/[^/]+)?/(deposit|withdraw|transfer|transactions|holds|accounts/[^/]+"
    r"|(transactions|holds|schedules)/[^/]+/(reverse|capture|release|cancel))/?"
)
"""The routes that take an Idempotency-Key. This decides on nothing but the memory of nonces."""


def _is_repeatable(scope: Scope) -> bool:
    """Whether a request posts an instruction whose key is in the header."""
    if scope["method"] not in {"POST", "PATCH"} or not _IDEMPOTENT.fullmatch(scope["path"]):
        return False
    return any(name == b"idempotency-key" for name, _ in scope["headers"])


def _message_of(scope: Scope) -> SignedMessage:
    """What a signature of a request covers, but its body."""
    headers = scope["headers"]
    host = next((value for name, value in headers if name == b"host"), b"")
    path, query = scope["raw_path"].partition(b"?")[0], scope["query_string"]
    target = path + (b"?" + query if query else b"")
    url = f"{scope['scheme']}://{(host + target).decode('latin-1')}"
    return SignedMessage.of(scope["method"], url, headers)


class _SignedBody:
    """Receives a body, and ends the request if it is not the signed one."""

    def __init__(self, receive: Receive, digest: BodyDigest) -> None:
        self._receive = receive
        self._digest = digest
        self._is_complete = False

    async def __call__(self) -> Message:
        """ASGI's next message. Raises ProblemError."""
        message = await self._receive()
        if message["type"] == "http.request" and not self._is_complete:
            self._digest.update(message.get("body", b""))
            self._is_complete = not message.get("more_body", False)
            if self._is_complete and not self._digest.is_right():
                raise ProblemError("signature_invalid")
        return message


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


_is_account_id = re.compile(r"[1-9][0-9]{0,18}", re.ASCII).fullmatch


def check_shown(caller: Caller, ledger: int, need: Need, request: Request) -> None:
    """Raise ProblemError if the grants of a caller do not cover the account of the path: the same
    as for one that does not exist.
    """
    text = request.path_params["account_id"]
    account = int(text) if _is_account_id(text) else 0
    if not caller.sees_account(ledger, need.scopes, account):
        raise ProblemError("account_not_found")


def denied(code: str, scopes: int) -> ProblemError:
    """A refusal of the caller. `scopes`: one of these is missing. It gets into the audit log."""
    note_denial(code)
    if code != "scope_missing":
        return ProblemError(code)
    return ProblemError(code, scope=" ".join(names_of(scopes)))
