"""URLs of other servers, read in one place, so that each mistake is a sentence.

No message repeats a part of a URL that could be a password: what stands before the first `/`, with
a password that has a `/` in it, is one.
"""

import re
from collections.abc import Collection, Mapping
from typing import NamedTuple
from urllib.parse import parse_qsl, unquote, urlsplit

from ledgerservice.errors import ConfigurationError

MAX_PORT = 65_535

_scheme = re.compile(r"([a-z][a-z0-9+.-]*)://", re.ASCII | re.IGNORECASE)
_is_option = re.compile(r"[a-z_.]{1,40}", re.ASCII).fullmatch
_host = re.compile(r"(\[[0-9A-Fa-f:.]+(?:%[\w.-]+)?\]|[\w.-]+)(?::(.*))?", re.ASCII | re.DOTALL)


class Host(NamedTuple):
    """A host, an address of IPv6 in brackets, and its port; None if the URL has none."""

    name: str
    port: int | None

    @property
    def bare(self) -> str:
        """The host without brackets."""
        return self.name.strip("[]")

    def text(self, port: int) -> str:
        """As in a URL, with this port if it has none."""
        return f"{self.name}:{self.port or port}"


class Url(NamedTuple):
    """The parts of `scheme://user:password@host:port,host2/path?option=value`."""

    scheme: str
    login: tuple[str, str] | None
    hosts: list[Host]
    path: str
    """Without a slash at its begin and end."""
    options: dict[str, str]


def scheme_of(url: str) -> str:
    """What stands before the `://`; empty if nothing does."""
    scheme = _scheme.match(url)
    return scheme[1].lower() if scheme else ""


def url_of(url: str, form: str, known: Collection[str] | None = None) -> Url:
    """The parts of a URL. `form` is how it is written, `known` are its options, None for any.

    Raises ConfigurationError.
    """
    scheme = scheme_of(url)
    try:
        parts = urlsplit(url)
    except ValueError:
        raise ConfigurationError(f"The URL is not {form}.") from None
    if parts.fragment:
        raise ConfigurationError(f"Write a # in a URL of {scheme}:// as %23.")
    login, _, servers = parts.netloc.rpartition("@")
    if not scheme or not servers:
        raise ConfigurationError(f"The URL is not {form}.")
    hosts = [_host_of(scheme, text) for text in servers.split(",")]
    options = _options(parts.query, scheme, known)
    return Url(scheme, _login(login), hosts, parts.path.strip("/"), options)


def _host_of(scheme: str, text: str) -> Host:
    host = _host.fullmatch(text)
    if host is None:
        raise ConfigurationError(
            f"A host of {scheme}:// is not valid. Write @ / : ? # and % in a user or a password as "
            "%40 %2F %3A %3F %23 and %25."
        )
    return Host(host[1], None if host[2] is None else _port(scheme, host[2]))


def _port(scheme: str, text: str) -> int:
    return number(f"The port of {scheme}://", text, 1, MAX_PORT)


def number(name: str, text: str, first: int, last: int) -> int:
    """A number from `first` to `last`. Raises ConfigurationError, which does not repeat `text`."""
    is_number = text.isascii() and text.isdigit() and len(text) <= len(str(last))
    if not is_number or not first <= int(text) <= last:
        raise ConfigurationError(f"{name} is a number from {first} to {last}.")
    return int(text)


def _login(text: str) -> tuple[str, str] | None:
    user, _, password = text.partition(":")
    return (unquote(user), unquote(password)) if text else None


def _options(query: str, scheme: str, known: Collection[str] | None) -> dict[str, str]:
    pairs = parse_qsl(query, keep_blank_values=True)
    options = dict(pairs)
    if len(options) < len(pairs):
        raise ConfigurationError(f"An option of {scheme}:// is given twice.")
    if known is not None and options.keys() - known:
        unknown = min(options.keys() - known)
        shown = f"the option {unknown}" if _is_option(unknown) else "such an option"
        raise ConfigurationError(f"{scheme}:// does not have {shown}; it has {_listed(known)}.")
    return options


def _listed(known: Collection[str]) -> str:
    return ", ".join(sorted(known))


def boolean(scheme: str, options: Mapping[str, str], name: str) -> bool:
    """An option that is true or false; false if it is missing. Raises ConfigurationError."""
    text = options.get(name, "false")
    if text not in ("true", "false"):
        raise ConfigurationError(f"The option {name} of {scheme}:// is true or false.")
    return text == "true"
