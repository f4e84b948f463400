"""Why a connection failed, and whether what answers is PostgreSQL itself.

A failed connection has no SQLSTATE, only a text, in the language of the server's lc_messages. So
its cause is found by further connections, not in the text.
"""

from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import psycopg
from psycopg import conninfo, pq

from ledgerservice.errors import (
    DatabaseMissing,
    DatabaseRefused,
    DatabaseUnreachable,
    LedgerError,
    PoolerFound,
    RightsMissing,
    SettingRefused,
)

MAINTENANCE = ("postgres", "template1")
"""The databases that nearly every server has."""
ROUNDS = 3
TRANSACTION_TIMEOUT = "25P04"  # psycopg has no class for it


def explain(error: BaseException | None) -> LedgerError:
    """The error that says in one line what to do about a fault of psycopg's."""
    text = f"({' '.join(str(error).split()) or type(error).__name__})"
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return RightsMissing(text)
    if isinstance(error, psycopg.OperationalError):
        if error.pgconn is None or error.sqlstate is not None:
            return DatabaseUnreachable(text)
        return _explain_connecting(error.pgconn, text)
    if isinstance(error, psycopg.Error) and error.sqlstate == TRANSACTION_TIMEOUT:
        return SettingRefused(f"transaction_timeout is too short to connect. {text}")
    return LedgerError(text)


def _explain_connecting(failed: pq.abc.PGconn, text: str) -> LedgerError:
    """The cause of a failed connection, for which `text` has the server's own."""
    used: dict[str, Any] = {
        option.keyword.decode(): option.val.decode()
        for option in failed.info
        if option.val is not None
    }
    if pq.PGconn.ping(conninfo.make_conninfo(**used).encode()) != pq.Ping.OK:
        return DatabaseUnreachable(text)
    if used.pop("options", ""):
        with suppress(psycopg.Error), psycopg.connect(**used) as plain:
            return _refused_options(plain, text)
    for name in MAINTENANCE:
        with suppress(psycopg.Error), psycopg.connect(**{**used, "dbname": name}) as other:
            if other.execute(_EXISTS, [used.get("dbname")]).fetchone() is None:
                return DatabaseMissing(text)
            break
    return DatabaseRefused(text)


_EXISTS = "SELECT FROM pg_database WHERE datname = %s"


def _refused_options(plain: "psycopg.Connection[Any]", text: str) -> LedgerError:
    if _backend_pid(plain) != plain.info.backend_pid:
        return PoolerFound(f"It refuses the connection's options. {DIRECTLY} {text}")
    return DatabaseRefused(f"It refuses the options of the connection. {text}")


DIRECTLY = "Name the server itself in DATABASE_URL, or a pool in session mode that passes them on."


def refuse_shared_sessions(arguments: Mapping[str, Any], options: str) -> None:
    """Raise PoolerFound if two connections share a session, as in a pooler's transaction mode.

    Each of two open connections must be answered by one process, and not by that of the other.
    """
    try:
        _compare_sessions({**arguments, "options": options})
    except psycopg.OperationalError:  # a pooler may refuse the options before anything else
        _compare_sessions(arguments)


def _compare_sessions(arguments: Mapping[str, Any]) -> None:
    with psycopg.connect(**arguments) as one, psycopg.connect(**arguments) as other:
        one.autocommit = other.autocommit = True
        processes = [{_backend_pid(c) for _ in range(ROUNDS)} for c in (one, other, one, other)]
    first, second = processes[0] | processes[2], processes[1] | processes[3]
    if first & second or len(first) > 1 or len(second) > 1:
        raise PoolerFound(
            "It is in transaction mode, in which connections share sessions: settings, prepared "
            "statements and locks of one request reach another. Name the server itself in "
            "DATABASE_URL, or a pool in session mode."
        )


def _backend_pid(connection: "psycopg.Connection[Any]") -> int:
    row = connection.execute("SELECT pg_backend_pid()", prepare=False).fetchone()
    assert row is not None
    return int(row[0])
