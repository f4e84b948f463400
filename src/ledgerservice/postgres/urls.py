"""The URL of a database: parsed by libpq, so that it means what it means to psql."""

import os
import re
from typing import Any

import psycopg
from psycopg import pq
from psycopg.conninfo import conninfo_to_dict
from sqlalchemy import URL

from ledgerservice.errors import ConfigurationError

DRIVER = "postgresql+psycopg"
_SCHEME = re.compile(r"^(?:postgres|postgresql)(?:\+\w+)?://")
_UNKNOWN_PARAMETER = re.compile(r'invalid URI query parameter: "(\w{1,40})"')


def parse_url(url: str, variable: str = "DATABASE_URL") -> URL:
    """A PostgreSQL URL in any of its spellings, for psycopg.

    Raises ConfigurationError, which names the environment variable and never repeats a part of the
    URL: it could be the password.
    """
    scheme = _SCHEME.match(url)
    if scheme is None:
        raise ConfigurationError(f"{variable} must begin with postgresql://")
    rest = url[scheme.end() :]
    if _is_ambiguous(rest):
        raise ConfigurationError(
            f"{variable} has an @ after the host. Write @ / : ? and % in a user or a password as "
            "%40 %2F %3A %3F and %25."
        )
    try:
        parts: dict[str, Any] = conninfo_to_dict(f"postgresql://{rest}")
    except psycopg.ProgrammingError as error:
        raise ConfigurationError(_fault(variable, str(error))) from None
    return _url_of(parts, variable)


def _is_ambiguous(rest: str) -> bool:
    """Whether libpq would take a part of a user or password for a host, port or path."""
    before_query = rest.partition("?")[0]
    authority = before_query.partition("/")[0]
    return before_query.count("@") > 1 or ("@" in before_query and "@" not in authority)


def _fault(variable: str, message: str) -> str:
    unknown = _UNKNOWN_PARAMETER.search(message)
    if unknown is not None:
        return f"{variable} has the parameter {unknown[1]}, which PostgreSQL does not know."
    return (
        f"{variable} is not a PostgreSQL URL. Its form is postgresql://user:password@host:5432/"
        "database, with special characters in user and password as %40 (for @) and the like."
    )


def _url_of(parts: dict[str, Any], variable: str) -> URL:
    hosts, ports = parts.pop("host", ""), str(parts.pop("port", ""))
    single = "," not in hosts and not hosts.startswith("/")
    if single and ports and not (ports.isdecimal() and 0 < int(ports) < 65536):
        raise ConfigurationError(f"{variable} has a port that is not a number from 1 to 65535.")
    query = {name: str(value) for name, value in parts.items() if name not in _URL_PARTS}
    if not single:
        query |= {"host": hosts} | ({"port": ports} if ports else {})
    if "," in hosts:  # one of them may be a standby, where a read misses what was answered
        query.setdefault("target_session_attrs", "read-write")
    return URL.create(
        DRIVER,
        username=parts.get("user"),
        password=parts.get("password"),
        host=(hosts or None) if single else None,
        port=int(ports) if single and ports else None,
        database=parts.get("dbname"),
        query=query,
    )


_URL_PARTS = {"user", "password", "dbname"}


_NEUTRAL = dict.fromkeys([b"PGMINPROTOCOLVERSION", b"PGMAXPROTOCOLVERSION"], b"3.0")
"""What has no default of its own, and must not be empty."""


def without_environment(url: URL) -> URL:
    """The URL with every option at libpq's own default that the environment would set otherwise.

    PGHOSTADDR, PGOPTIONS and the like are meant for another server. PGSERVICE cannot be ruled out,
    but what the URL names is stronger than the service's file.
    """
    named = {*url.query, "service", "connect_timeout", "user", "password", "host", "port", "dbname"}
    defaults = {
        option.keyword.decode(): _NEUTRAL.get(option.envvar, option.compiled or b"").decode()
        for option in pq.Conninfo.get_defaults()
        if option.envvar and option.envvar.decode() in os.environ
        if option.keyword.decode() not in named
    }
    return url.update_query_dict(defaults)
