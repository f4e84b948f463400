"""Hostile values of PostgreSQL's settings, and the places where an operator can set them."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import psycopg

from ledgerservice.postgres import session
from ledgerservice.postgres.connections import Database
from tests.databases import ROLE

LOGIN = "someone"

# Each by itself: the service starts, and answers as ever.
OVERRIDDEN = {
    "array_nulls": "off",
    "backslash_quote": "off",
    "bytea_output": "escape",
    "check_function_bodies": "off",
    "client_encoding": "LATIN1",
    "client_min_messages": "error",
    "constraint_exclusion": "on",
    "cpu_operator_cost": "1000",
    "cursor_tuple_fraction": "1",
    "datestyle": "SQL, DMY",
    "default_transaction_deferrable": "on",
    "default_transaction_isolation": "serializable",
    "enable_bitmapscan": "off",
    "enable_hashjoin": "off",
    "enable_indexscan": "off",
    "enable_nestloop": "off",
    "enable_sort": "off",
    "exit_on_error": "on",
    "extra_float_digits": "-15",
    "geqo_threshold": "2",
    "gin_fuzzy_search_limit": "1",
    "idle_in_transaction_session_timeout": "1ms",
    "idle_session_timeout": "1ms",
    "intervalstyle": "sql_standard",
    "jit": "on",
    "jit_above_cost": "0",
    "join_collapse_limit": "1",
    "lc_messages": "de_DE.UTF-8",
    "lock_timeout": "1ms",
    "log_parameter_max_length_on_error": "-1",
    "max_parallel_workers_per_gather": "0",
    "plan_cache_mode": "force_custom_plan",
    "plpgsql.extra_errors": "all",
    "quote_all_identifiers": "on",
    "random_page_cost": "1000000",
    "row_security": "off",
    "search_path": "",
    "seq_page_cost": "0",
    "standard_conforming_strings": "off",
    "statement_timeout": "1ms",
    "timezone": "Asia/Kolkata",
    "timezone_abbreviations": "India",
    "transform_null_equals": "on",
    "work_mem": "64kB",
}

LEFT = {
    "geqo_threshold",
    "jit_above_cost",
    "lc_messages",
    "plpgsql.extra_errors",
    "work_mem",
}
"""Those of OVERRIDDEN that stay as the operator has set them, without an effect on answers."""

# Each by itself: the service does not start, and names the setting.
REFUSED = {
    "default_transaction_read_only": "on",
    "session_replication_role": "replica",
    "synchronous_commit": "off",
    "synchronous_commit ": "local",
}
SINCE_17 = {"transaction_timeout": "200ms"}


class Place(NamedTuple):
    """Where a setting is made, the statement before its SET, and its name in pg_settings.source."""

    name: str
    target: str
    source: str


PLACES = [
    Place("server", "SYSTEM", "configuration file"),
    Place("database", 'DATABASE "{database}"', "database"),
    Place("role", f"ROLE {LOGIN}", "user"),
]


class Operator:
    """Changes the settings of a server, of a database, and of the login of the service."""

    def __init__(self, connection: "psycopg.Connection[Any]", database: Database) -> None:
        self._connection = connection
        self._database = database.url.database
        self.major = connection.info.server_version // 10_000

    def alter(self, place: Place, action: str) -> None:
        """SET or RESET something in a place, for connections to come."""
        target = place.target.format(database=self._database)
        self._connection.execute(f"ALTER {target} {action}")
        self._connection.execute("SELECT pg_reload_conf()")

    def end_sessions(self) -> None:
        """End the sessions of the service."""
        self._connection.execute(
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename = '{LOGIN}'"
        )


@contextmanager
def operating(database: Database) -> Iterator[Operator]:
    """The operator of the server, whom none of its settings disturb."""
    arguments = database.driver_arguments()
    pinned = session.options(session.owner_session(durable=True))
    with psycopg.connect(**arguments, options=pinned, autocommit=True) as connection:
        connection.execute("LOAD 'plpgsql'")  # else its settings are not known
        connection.execute(f"CREATE ROLE {LOGIN} LOGIN IN ROLE {ROLE}")
        try:
            yield Operator(connection, database)
        finally:
            connection.execute("ALTER SYSTEM RESET ALL")
            connection.execute("SELECT pg_reload_conf()")
            connection.execute(f"DROP ROLE {LOGIN}")


@contextmanager
def set_everywhere(operator: Operator, name: str, value: str) -> Iterator[None]:
    """A setting on the server, the database and the role."""
    for place in PLACES:
        operator.alter(place, f"SET {name} = '{value}'")
    yield
    for place in PLACES:
        operator.alter(place, f"RESET {name}")
