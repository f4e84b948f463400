"""The database: its connections, their settings, and whether the server can hold money."""

import logging
import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any

import msgspec
import psycopg
from sqlalchemy import URL, Engine, ExceptionContext, create_engine, event, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine, create_async_engine
from sqlalchemy.pool import NullPool

from ledgerservice.errors import (
    ConfigurationError,
    DatabaseNotUtf8,
    DatabaseReadOnly,
    InternalFault,
    ServerNotDurable,
    ServerTooOld,
    Unavailable,
    UnfitConnection,
)
from ledgerservice.postgres import roles, session
from ledgerservice.postgres.pipeline import Wire, without_values
from ledgerservice.postgres.refusals import explain, refuse_shared_sessions
from ledgerservice.postgres.roles import Login
from ledgerservice.postgres.schema import SCHEMA, in_schema
from ledgerservice.postgres.sharding import identity
from ledgerservice.postgres.sharding.identity import READ_IDENTITY, Identity
from ledgerservice.settings import Settings

OLDEST_SERVER = 15
APPLICATION = "ledgerservice"
"""The application_name of the service's connections."""

log = logging.getLogger(__name__)

# A peer that disappeared without closing the connection is noticed within about 20 s.
KEEPALIVE = {
    "keepalives_idle": 5,
    "keepalives_interval": 5,
    "keepalives_count": 3,
    "tcp_user_timeout": 20_000,
}


@dataclass(frozen=True, slots=True)
class Database:
    """A PostgreSQL database and the settings of the connections to it.

    `url` is of the service's login. `role` is the service's least-privilege role, or None to stay
    the login. `owner_url` is of the user that owns the schema, None if that is the login.
    `identity` is what the database must say it is, if it is one of several.
    """

    url: URL
    settings: Settings
    role: str | None = None
    owner_url: URL | None = None
    identity: Identity | None = None

    @property
    def login(self) -> Login | None:
        """The login that is to be made if it is missing; None if it owns the schema."""
        if self.owner_url is None or self.url.username is None:
            return None
        password = self.url.password or os.environ.get("PGPASSWORD")
        return Login(self.url.username, str(password) if password else None)

    def of_owner(self) -> "Database":
        """The same database, with its owner as the login."""
        return replace(self, url=self.owner_url or self.url, owner_url=None)

    def owner_engine(self) -> Engine:
        """Connections as the owner of the schema, for migrations and `verify`."""
        return self.of_owner().login_engine()

    def login_engine(self) -> Engine:
        """Connections as the login, before it takes the service's role."""
        return self._engine(session.owner_session(durable=self._durable))

    def service_engine(self) -> Engine:
        """Connections with the rights of the service and without its time limits, for `verify`."""
        as_role = {} if self.role is None else {"role": self.role}
        return self._engine({**session.owner_session(durable=self._durable), **as_role})

    def _engine(self, pinned: dict[str, str]) -> Engine:
        arguments = {
            "connect_timeout": self.settings.connect_timeout_s,
            "client_encoding": "utf8",
            "options": self._options(pinned),
            **KEEPALIVE,
        }
        engine = create_engine(
            self.url, poolclass=NullPool, connect_args=arguments, hide_parameters=True
        )
        return self._identified(self._translated(session.checked(engine, pinned)))

    def read_engine(self) -> AsyncEngine:
        """The service's pool, for reads."""
        pinned = self._service_session()
        engine = create_async_engine(
            self.url,
            pool_size=self.settings.read_connections,
            max_overflow=0,
            pool_timeout=self.settings.request_deadline_s,
            pool_pre_ping=True,
            isolation_level="AUTOCOMMIT",
            hide_parameters=True,
            connect_args=self._arguments(pinned),
        )
        self._identified(self._translated(session.checked(engine.sync_engine, pinned)))
        return engine

    def _identified(self, engine: Engine) -> Engine:
        """The engine; each of its new connections raises WrongDatabase if it is another one."""
        if self.identity is not None:
            event.listen(engine, "connect", self._identify)
        return engine

    def _identify(self, connection: Any, _: Any) -> None:
        assert self.identity is not None
        cursor = connection.cursor()
        cursor.execute(self._read_identity)
        fault = identity.fault_of(cursor.fetchall(), self.identity)
        cursor.close()
        connection.commit()
        if fault is not None:
            raise fault

    @property
    def _read_identity(self) -> str:
        return in_schema(READ_IDENTITY, self.settings.schema_name)

    def _translated(self, engine: Engine) -> Engine:
        """The engine, with the schema's name put into each statement if it is not the default."""
        event.listen(engine, "handle_error", _leave_out_values)
        schema = self.settings.schema_name
        if schema != SCHEMA:

            def translate(_c: Any, _k: Any, statement: str, parameters: Any, *_: Any) -> Any:
                return in_schema(statement, schema), parameters

            event.listen(engine, "before_cursor_execute", translate, retval=True)
        return engine

    async def connect_writer(self) -> Wire:
        """A connection of the write path, in autocommit: the journal sends BEGIN itself.

        Raises UnfitConnection, of which WrongDatabase is one.
        """
        return await self._connect_wire("read-write")

    async def connect_standby(self) -> Wire:
        """A connection for gathered reads, to the first host of the URL that is a standby.

        Raises UnfitConnection, of which WrongDatabase is one.
        """
        return await self._connect_wire("standby")

    async def _connect_wire(self, target: str) -> Wire:
        pinned = self._service_session() | session.WRITER_PLANS
        arguments = {**self.driver_arguments(), **self._arguments(pinned)}
        arguments["target_session_attrs"] = target
        connection = await psycopg.AsyncConnection.connect(**arguments, autocommit=True)
        await session.check(connection, pinned)
        if self.identity is not None:
            await identity.check(connection, self._read_identity, self.identity)
        return Wire(connection, self.settings.schema_name)

    def driver_arguments(self) -> dict[str, Any]:
        """Psycopg's connection arguments of the URL."""
        _, of_url = self.url.get_dialect()().create_connect_args(self.url)
        return {"connect_timeout": self.settings.connect_timeout_s, **of_url}

    def _service_session(self) -> dict[str, str]:
        limits = self.settings.statement_timeout_s, self.settings.idle_transaction_timeout_s
        return session.service_session(*limits, self.role, durable=self._durable)

    @property
    def _durable(self) -> bool:
        return not self.settings.allow_unsafe_durability

    def _options(self, pinned: dict[str, str]) -> str:
        return session.options(pinned, before=str(self.url.query.get("options", "")))

    def _arguments(self, pinned: dict[str, str]) -> dict[str, Any]:
        """Psycopg's connection arguments for the service."""
        return {
            "connect_timeout": self.settings.connect_timeout_s,
            "application_name": APPLICATION,
            "client_encoding": "utf8",
            "options": self._options(pinned),
            **KEEPALIVE,
        }


def _leave_out_values(context: ExceptionContext) -> None:
    if isinstance(context.original_exception, psycopg.Error):
        without_values(context.original_exception)


@contextmanager
def explained() -> Iterator[None]:
    """Turn a failed connection into an error that says in one line what to do."""
    try:
        yield
    except psycopg.Error as error:
        raise explain(error) from error
    except (DBAPIError, Unavailable, InternalFault) as error:
        cause = error if isinstance(error, DBAPIError) else error.__cause__
        if isinstance(cause, UnfitConnection):
            raise cause from error
        if not isinstance(cause, DBAPIError):
            raise
        raise explain(cause.orig) from error


def check_server(database: Database) -> None:
    """Raise ServerTooOld, DatabaseReadOnly, DatabaseNotUtf8 or ServerNotDurable for a server that
    must not hold money, and UnfitConnection for one that the login cannot reach as it must.
    """
    pinned = session.owner_session(durable=False)
    refuse_shared_sessions(database.driver_arguments(), session.options(pinned))
    with database.login_engine().connect() as connection:
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
        if getattr(facts, name) in {"off", "local"}
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
           (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit')
               AS synchronous_commit
    """
)


class ServerState(msgspec.Struct, frozen=True):
    """The server of a database, and what its commits wait for where nothing else is set. `on` is
    the least that the service commits with.
    """

    revision: str
    version: str
    fsync: str
    full_page_writes: str
    synchronous_commit: str
    synchronous_standby_names: str
    data_checksums: str
    in_recovery: bool


FIND_SERVER = text(
    """
    SELECT (SELECT version_num FROM ledger.alembic_version) AS revision,
           current_setting('server_version') AS version,
           current_setting('fsync') AS fsync,
           current_setting('full_page_writes') AS full_page_writes,
           (SELECT reset_val FROM pg_settings WHERE name = 'synchronous_commit')
               AS synchronous_commit,
           current_setting('synchronous_standby_names') AS synchronous_standby_names,
           current_setting('data_checksums') AS data_checksums,
           pg_is_in_recovery() AS in_recovery
    """
)


def usable_role(database: Database) -> str | None:
    """The service's role if the login may take it, else None.

    Warns of a login that has more rights than the service needs, or fewer.
    """
    role = database.settings.service_role
    if not role:
        return None
    with database.login_engine().connect() as connection:
        rights = roles.rights(connection, role)
    if rights.owner and rights.granted:
        log.warning(
            "the user of DATABASE_URL owns the ledger or is a superuser; name it in "
            "LEDGER_OWNER_URL instead, and in DATABASE_URL a login of any other name, which the "
            "next start makes a member of the role %s",
            role,
        )
    if rights.set_role and rights.granted:
        return role
    if not (rights.inherited and rights.granted):
        log.warning(
            "the service runs with the rights of its database user, which is not a member of the "
            "role %s; GRANT %s TO that user, or set LEDGER_SERVICE_ROLE to another role",
            role,
            role,
        )
    return None


def check_same_database(database: Database) -> None:
    """Raise ConfigurationError if the login and the owner are connected to different databases."""
    places = []
    for engine in (database.login_engine(), database.owner_engine()):
        with engine.connect() as connection:
            places.append(tuple(connection.execute(_PLACE).one()))
    if places[0] != places[1]:
        raise ConfigurationError("DATABASE_URL and LEDGER_OWNER_URL name different databases.")


# A database's number is its server's own, and two servers hardly start in one microsecond.
_PLACE = text(
    "SELECT oid, pg_postmaster_start_time() FROM pg_database WHERE datname = current_database()"
)
