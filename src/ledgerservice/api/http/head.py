"""The check of a request's head, before anything else of it is looked at.

A page of another site can make a browser on the operator's machine send requests here, also under a
name of its own that it resolves to this machine (DNS rebinding). So the host must be a known one,
and what a browser says of the origin must agree with it.
"""

from collections.abc import Iterable

from starlette.types import Scope

BOUNDED = "ledgerservice.bounded"
"""The entry of a request's scope that our own HTTP protocol sets: it drops trailers."""

ANY_HOST = "*"

MAX_HEADERS = 100
MAX_HEAD_BYTES = 65_536
MAX_KNOWN_HOSTS = 1_000

# Two of these would be read as one thing by a proxy and as another here.
_ONCE = (
    b"host",
    b"content-type",
    b"content-length",
    b"transfer-encoding",
    b"authorization",
    b"origin",
    b"sec-fetch-site",
)
_HEALTH = "/health"
_STREAM = "/batches"


class HeadCheck:
    """Finds what is wrong with the heads of requests to a service on certain hosts."""

    def __init__(self, hosts: Iterable[str]) -> None:
        """`hosts` are names and addresses without ports; ANY_HOST allows every one."""
        self._hosts = frozenset(hosts)
        self._known: set[bytes] = set()

    def fault(self, scope: Scope) -> str | None:
        """The code of the problem with a request's head, or None."""
        headers = scope["headers"]
        values: dict[bytes, bytes] = dict(headers)
        if (b"upgrade" in values or scope["method"] == "CONNECT") and _hides_body(headers):
            return "invalid_framing"
        if len(values) != len(headers) and _is_repeated([name for name, _ in headers]):
            return "header_repeated"
        if b"transfer-encoding" in values and _is_misframed(scope, values):
            return "invalid_framing"
        if len(headers) > MAX_HEADERS or sum(map(len, values.values())) > MAX_HEAD_BYTES:
            return "head_too_large"
        # Probes of a load balancer or of Kubernetes name the address that they happen to use.
        if scope["path"].startswith(_HEALTH):
            return None
        return self._fault_of_host(scope, values) or _fault_of_length(scope, values)

    def _fault_of_host(self, scope: Scope, values: dict[bytes, bytes]) -> str | None:
        host = values.get(b"host")
        if host is None:
            return "host_missing" if scope["http_version"] != "1.0" else None
        if host not in self._known and not self._is_allowed(host):
            return "host_not_allowed"
        if b"origin" in values or b"sec-fetch-site" in values:
            return _fault_of_origin(scope, host, values)
        return None

    def _is_allowed(self, host: bytes) -> bool:
        allowed = ANY_HOST in self._hosts or _name_of(host) in self._hosts
        if allowed and len(self._known) < MAX_KNOWN_HOSTS:
            self._known.add(host)
        return allowed


def _is_repeated(names: list[bytes]) -> bool:
    return any(names.count(name) > 1 for name in _ONCE)


def _is_misframed(scope: Scope, values: dict[bytes, bytes]) -> bool:
    """Whether another reader may find another end of the body (RFC 9112, section 6.1)."""
    coding = values[b"transfer-encoding"].strip(b" \t").lower()
    return coding != b"chunked" or scope["http_version"] == "1.0" or b"content-length" in values


def _hides_body(headers: Iterable[tuple[bytes, bytes]]) -> bool:
    """Whether a request that changes the protocol has a body. The parser (llhttp) reads none then,
    so the bytes of the body would be the next request of the connection.
    """
    return any(
        name == b"transfer-encoding" or (name == b"content-length" and value.strip(b"0"))
        for name, value in headers
    )


def _name_of(host: bytes) -> str:
    """A Host's name or address, without its port."""
    text = host.decode("latin-1").strip().lower()
    if text.startswith("["):
        return text[1:].partition("]")[0]
    return text.partition(":")[0].rstrip(".")


def _fault_of_origin(scope: Scope, host: bytes, values: dict[bytes, bytes]) -> str | None:
    """A browser's request must come from a page of this host, or be a link that was followed."""
    origin = values.get(b"origin")
    if origin is not None and origin.partition(b"://")[2].lower() != host.lower():
        return "origin_not_allowed"
    is_link = scope["method"] == "GET" and values.get(b"sec-fetch-mode") == b"navigate"
    if values.get(b"sec-fetch-site") == b"cross-site" and not is_link:
        return "origin_not_allowed"
    return None


def _fault_of_length(scope: Scope, values: dict[bytes, bytes]) -> str | None:
    """Another server may merge trailers into the headers, so none of these may decide anything."""
    if BOUNDED in scope or b"transfer-encoding" not in values:
        return None
    if scope["path"].rstrip("/").endswith(_STREAM):
        return None
    return "length_required"
