"""The client of a request that a proxy has sent on.

Whoever sends a request can write X-Forwarded-For. So it is believed only if the connection comes
from a trusted proxy, and in it only what trusted proxies have added: from the right to the first
address that is not one of theirs.
"""

import ipaddress
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import lru_cache

from starlette.types import Scope

from ledgerservice.settings import Network

FORWARDED, FORWARDED_FOR, FORWARDED_PROTO = b"forwarded", b"x-forwarded-for", b"x-forwarded-proto"
PORT = 0
"""Of a client behind a proxy, which is not known."""

_HEALTH = "/health"
_SCHEMES = {b"http": "http", b"https": "https"}
_NODE = re.compile(
    r"(?:\[([0-9A-Fa-f:.]{2,45})\]|([0-9.]{7,15}))(?::[0-9]{1,5})?|([0-9A-Fa-f:.]{2,45})", re.ASCII
)
_TOKEN = r"[!#$%&'*+.^_`|~0-9A-Za-z-]+"  # noqa: S105  (a token of HTTP)
_PAIR = re.compile(rf"({_TOKEN})=(?:({_TOKEN})|\"([^\"\\]*)\")", re.ASCII)
_PAIRS = re.sub(r"\((?!\?)", "(?:", _PAIR.pattern)
_ELEMENT = re.compile(rf"[ \t]*({_PAIRS}(?:;{_PAIRS})*)[ \t]*(?=,|$)", re.ASCII)


class ForwardedError(ValueError):
    """A header does not say who the client is."""


class Forwarding:
    """The trusted proxies. Without any, no header is believed, and nothing is refused."""

    def __init__(self, networks: Sequence[Network]) -> None:
        self._networks = networks
        self._is_trusted = lru_cache(1_000)(self._is_in_networks)

    def fault(self, scope: Scope) -> str | None:
        """Put the client's address and scheme into the scope; return the code of the problem."""
        if not self._networks:
            return None
        if not self._is_trusted(scope["client"][0] if scope["client"] else ""):
            is_refused = scope["scheme"] == "http" and not scope["path"].startswith(_HEALTH)
            return "proxy_required" if is_refused else None
        try:
            self._replace(scope)
        except ForwardedError:
            return "forwarded_invalid"
        return None

    def _replace(self, scope: Scope) -> None:
        lines: dict[bytes, list[str]] = {FORWARDED: [], FORWARDED_FOR: [], FORWARDED_PROTO: []}
        for name, value in scope["headers"]:
            if name in lines:
                lines[name].append(value.decode("latin-1"))
        hops = [text.strip(" \t") for line in lines[FORWARDED_FOR] for text in line.split(",")]
        elements = list(_elements(lines[FORWARDED]))
        # A proxy adds one of the two, and may send on what a client has written into the other.
        nodes = [element.get("for", "") for element in elements]
        clients = {self._client(one) for one in (hops, nodes) if one}
        schemes = {_scheme(text) for text in lines[FORWARDED_PROTO]}
        schemes |= {_scheme(element["proto"]) for element in elements[-1:] if "proto" in element}
        if len(clients) > 1 or len(schemes) > 1:
            raise ForwardedError
        for client in clients:
            scope["client"] = (client, PORT)
        for scheme in schemes:
            scope["scheme"] = scheme

    def _client(self, hops: Sequence[str]) -> str:
        """The last address that is not a proxy's, or the first one if all are."""
        address = ""
        for hop in reversed(hops):
            address = _address(hop)
            if not self._is_trusted(address):
                break
        return address

    def _is_in_networks(self, host: str) -> bool:
        try:
            address = ipaddress.ip_address(host.partition("%")[0])
        except ValueError:  # a socket of the file system
            return False
        address = getattr(address, "ipv4_mapped", None) or address
        return any(address in network for network in self._networks)


def _address(node: str) -> str:
    """The address of a node, which may have a port. Raises ForwardedError."""
    parts = _NODE.fullmatch(node)
    try:
        address = ipaddress.ip_address(next(filter(None, parts.groups())) if parts else "")
    except ValueError:
        raise ForwardedError(node) from None
    return str(getattr(address, "ipv4_mapped", None) or address)


def _scheme(text: str) -> str:
    scheme = _SCHEMES.get(text.strip(" \t").lower().encode("latin-1"))
    if scheme is None:
        raise ForwardedError(text)
    return scheme


def _elements(lines: Iterable[str]) -> Iterator[dict[str, str]]:
    """The elements of Forwarded (RFC 7239, section 4), each by its lower-case names."""
    for line in lines:
        end = -1
        while end < len(line):
            element = _ELEMENT.match(line, end + 1)
            if element is None:
                raise ForwardedError(line)
            end = element.end()
            pairs = [(m[1].lower(), m[2] or m[3]) for m in _PAIR.finditer(element[1])]
            if len(dict(pairs)) != len(pairs):
                raise ForwardedError(line)
            yield dict(pairs)
