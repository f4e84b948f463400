"""The database: its connections, their settings, and whether the server can hold money."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import psycopg
from sqlalchemy import URL, Engine, create_engine, event, make_url, text
from sqlalchemy.exc import ArgumentError, DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from ledgerservice.errors import (
    ConfigurationError,
    DatabaseMissing,
    DatabaseNotUtf8,
    DatabaseReadOnly,
    DatabaseRefused,
    DatabaseUnreachable,
    LedgerError,
    RightsMissing,
    ServerNotDurable,
    ServerTooOld,
)
from ledgerservice.postgres.pipeline import Wire
from ledgerservice.postgres.schema import SCHEMA, in_schema
from ledgerservice.settings import Settings

OLDEST_SERVER = 15

log = logging.getLogger(__name__)

# The writer's statements look rows up by key. A plan that was made while the tables were small
# would stay in the connection's cache, so every other plan is ruled out.
PINNED_PLANS = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_sort": "off",
    "plan_cache_mode": "force_generic_plan",
}

# A peer that disappeared without closing the connection is noticed within about 20 s.
KEEPALIVE = {
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}


def parse_url(url: str) -> URL:
    """A PostgreSQL URL in any of its spellings, for psycopg. Raises ConfigurationError."""
    try:
        parsed = make_url(url)
    except (ArgumentError, ValueError):
        raise ConfigurationError("DATABASE_URL is not a URL.") from None
    if parsed.drivername.split("+")[0] not in {"postgres", "postgresql"}:
        raise ConfigurationError("DATABASE_URL must begin with postgresql://")
    return parsed.set(drivername="postgresql+psycopg")


@dataclass(frozen=True, slots=True)
class Database:
    """A PostgreSQL database and the settings of the connections to it.

    `role` is the service's least-privilege role, or None to stay the URL's user.
    """

    url: URL
    settings: Settings
    role: str | None = None

    def owner_engine(self) -> Engine:
        """Connections as the URL's user, for migrations and `verify`."""
        arguments = {
            "connect_timeout": self.settings.connect_timeout_s,
            "client_encoding": "utf8",
        }
        engine = create_engine(self.url, poolclass=NullPool, connect_args=arguments)
        return self._translated(engine)

    def read_engine(self) -> AsyncEngine:
        """The service's pool, for reads."""
        engine = create_async_engine(
            self.url,
            pool_size=self.settings.read_connections,
            max_overflow=0,
            pool_timeout=self.settings.request_deadline_s,
            pool_pre_ping=True,
            isolation_level="AUTOCOMMIT",
            connect_args=self._arguments({}),
        )
        self._translated(engine.sync_engine)
        return engine

    def _translated(self, engine: Engine) -> Engine:
        """The engine, with the schema's name put into each statement if it is not the default."""
        schema = self.settings.schema_name
        if schema != SCHEMA:

            def translate(_c: Any, _k: Any, statement: str, parameters: Any, *_: Any) -> Any:
                return in_schema(statement, schema), parameters

            event.listen(engine, "before_cursor_execute", translate, retval=True)
        return engine

    async def connect_writer(self) -> Wire:
        """A connection of the write path, in autocommit: the journal sends BEGIN itself."""
        dialect = self.url.get_dialect()()
        _, of_url = dialect.create_connect_args(self.url)
        arguments = {**of_url, **self._arguments(PINNED_PLANS)}
        arguments["target_session_attrs"] = "read-write"
        connection = await psycopg.AsyncConnection.connect(**arguments, autocommit=True)
        return Wire(connection, self.settings.schema_name)

    def _arguments(self, plans: dict[str, str]) -> dict[str, Any]:
        """Psycopg's connection arguments for the service."""
        options = {
            "statement_timeout": f"{self.settings.statement_timeout_s}s",
            "idle_in_transaction_session_timeout": f"{self.settings.idle_transaction_timeout_s}s",
            "TimeZone": "UTC",
            **plans,
        }
        if self.role is not None:
            options["role"] = self.role
        url_options = str(self.url.query.get("options", ""))
        flags = " ".join(f"-c {name}={value}" for name, value in options.items())
        return {
            "connect_timeout": self.settings.connect_timeout_s,
            "application_name": "ledgerservice",
            "client_encoding": "utf8",
            "options": f"{url_options} {flags}".strip(),
            **KEEPALIVE,
        }


@contextmanager
def explained() -> Iterator[None]:
    """Turn a failed connection into an error that says in one line what to do."""
    try:
        yield
    except DBAPIError as error:
        raise _explain(error.orig) from error


def _explain(error: BaseException | None) -> LedgerError:
    said = " ".join(str(error).split()) or type(error).__name__
    if "database" in said and "does not exist" in said:
        return DatabaseMissing(f"({said})")
    if any(sign in said for sign in _REFUSALS) or ("role" in said and "does not exist" in said):
        return DatabaseRefused(f"({said})")
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        return RightsMissing(f"({said})")
    if isinstance(error, psycopg.OperationalError):
        return DatabaseUnreachable(f"({said})")
    return LedgerError(said)


_REFUSALS = ("authentication failed", "no password supplied", "pg_hba.conf")


def check_server(database: Database) -> None:
    """Raise ServerTooOld, DatabaseReadOnly, DatabaseNotUtf8 or ServerNotDurable for a server that
    must not hold money.
    """
    with database.owner_engine().connect() as connection:
        facts = connection.execute(_SERVER_FACTS).one()
    if facts.version < OLDEST_SERVER * 10_000:
        raise ServerTooOld(f"It is version {facts.version // 10_000}.")
    if facts.read_only == "on":
        raise DatabaseReadOnly
    if facts.encoding != "UTF8":
        raise DatabaseNotUtf8(f"It keeps {facts.encoding}.")
    off = [
        name
        for name in ("fsync", "full_page_writes", "synchronous_commit")
        if getattr(facts, name) == "off"
    ]
    if off and not database.settings.allow_unsafe_durability:
        raise ServerNotDurable(
            f"Turn on: {', '.join(off)}. If the money in it is not real, set "
            "LEDGER_ALLOW_UNSAFE_DURABILITY=true."
        )


_SERVER_FACTS = text(
    """
    SELECT current_setting('server_version_num')::int AS version,
           current_setting('server_encoding') AS encoding,
           current_setting('transaction_read_only') AS read_only,
           current_setting('fsync') AS fsync,
           current_setting('full_page_writes') AS full_page_writes,
           current_setting('synchronous_commit') AS synchronous_commit
    """
)


def usable_role(database: Database) -> str | None:
    """The service's role if the URL's user is a member of it, else None, with a warning."""
    role = database.settings.service_role
    if not role:
        return None
    with database.owner_engine().connect() as connection:
        if connection.scalar(_MAY_TAKE_ROLE, {"role": role}):
            return role
    log.warning(
        "the service runs with the rights of its database user, which is not a member of the role "
        "%s; GRANT %s TO that user, or set LEDGER_SERVICE_ROLE to another role",
        role,
        role,
    )
    return None


_MAY_TAKE_ROLE = text(
    "SELECT pg_has_role(oid, 'MEMBER') AND has_table_privilege(oid, 'ledger.entries', 'INSERT')"
    " FROM pg_roles WHERE rolname = :role"
)
