"""The settings of every session, and the check that a new session has them.

An operator may set anything for a server, a database or a role, for other programs. What changes an
answer, a plan or an error is therefore set by the connection itself. Its options come before all
of those settings, before PGOPTIONS and before the options of the URL. The rest is checked.

Not in the list, because it is the operator's choice and changes only speed: the sizes of memory,
the tablespaces, and the settings of the server's log. lc_messages is not in it either: nothing here
depends on the language of a message.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import psycopg
from sqlalchemy import Engine, event

from ledgerservice.errors import PoolerFound, SettingRefused, UnfitConnection

ANSWERS = {
    "DateStyle": "ISO, MDY",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "client_encoding": "UTF8",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "standard_conforming_strings": "on",
    "backslash_quote": "safe_encoding",
    "quote_all_identifiers": "off",
    "timezone_abbreviations": "Default",
    "gin_fuzzy_search_limit": "0",
    # A schema's name is always written; names without one are PostgreSQL's own.
    "search_path": "pg_catalog, pg_temp",
    # An error instead of a part of the rows, if somebody adds a policy to a table.
    "row_security": "off",
    "check_function_bodies": "on",
    "default_table_access_method": "heap",
    "default_transaction_isolation": "read committed",
    "default_transaction_deferrable": "off",
    # By a warning a COMMIT says that a standby may not have it.
    "client_min_messages": "notice",
    "exit_on_error": "off",
    # Owners and metadata are parameters. They must not get into the server's log.
    "log_parameter_max_length_on_error": "0",
}
TIMES = {
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
}
"""No time limits; the service has some of its own."""

# PostgreSQL's defaults, on which the access paths of reads have been tested, but without JIT and
# the genetic optimizer. JIT compiled for seconds where a pinned plan seemed dear.
PLANS = {
    "jit": "off",
    "geqo": "off",
    "plan_cache_mode": "auto",
    **dict.fromkeys(
        [
            "enable_bitmapscan",
            "enable_gathermerge",
            "enable_hashagg",
            "enable_hashjoin",
            "enable_incremental_sort",
            "enable_indexonlyscan",
            "enable_indexscan",
            "enable_material",
            "enable_memoize",
            "enable_mergejoin",
            "enable_nestloop",
            "enable_seqscan",
            "enable_sort",
            "enable_tidscan",
        ],
        "on",
    ),
    "seq_page_cost": "1",
    "random_page_cost": "4",
    "cpu_tuple_cost": "0.01",
    "cpu_index_tuple_cost": "0.005",
    "cpu_operator_cost": "0.0025",
    "parallel_setup_cost": "1000",
    "parallel_tuple_cost": "0.1",
    "max_parallel_workers_per_gather": "2",
    "cursor_tuple_fraction": "0.1",
    "constraint_exclusion": "partition",
    "from_collapse_limit": "8",
    "join_collapse_limit": "8",
}

# The writer's statements look rows up by key. A plan that was made while the tables were small
# would stay in the connection's cache, so every other plan is ruled out.
WRITER_PLANS = {
    "enable_seqscan": "off",
    "enable_hashjoin": "off",
    "enable_mergejoin": "off",
    "enable_sort": "off",
    "plan_cache_mode": "force_generic_plan",
}

# For a batch in a transaction of a caller's, who has other values before it and after it. The
# journal sends and receives values in forms that the other settings do not change.
JOINED = {
    **{
        name: ANSWERS[name]
        for name in ("array_nulls", "transform_null_equals", "search_path", "row_security")
    },
    "standard_conforming_strings": "on",
    "jit": "off",
    **WRITER_PLANS,
}

# Without triggers no balance moves and no foreign key holds. Ours fire always, PostgreSQL's do not.
REQUIRED = {"session_replication_role": "origin"}
"""What only a superuser may set, so that it is only checked."""

# The operator may wait for more, but not for less: without the flush, or without the standby that
# the server waits for, a crash loses what was answered. So it is no option, but raised if need be.
DURABLE = {"synchronous_commit": "on"}
_AS_DURABLE = ("on", "remote_write", "remote_apply")

# libpq sends PGDATESTYLE, PGTZ and PGGEQO after the options, so they would win.
_LATE = ["DateStyle", "TimeZone", "geqo"]
# Not an option, because PostgreSQL 16 refuses the connection for an unknown name.
_SINCE_17 = {"transaction_timeout": "0"}


class Found(NamedTuple):
    """A setting that differs, and where its value comes from, as in pg_settings.source."""

    name: str
    expected: str
    value: str | None
    source: str


def owner_session(*, durable: bool) -> dict[str, str]:
    """The settings for migrations and `verify`.

    `durable`: commits wait for the disk, and for the standby that the server waits for.
    """
    return {**ANSWERS, **TIMES, **PLANS, **(DURABLE if durable else {})}


def service_session(
    statement_s: float, idle_transaction_s: float, role: str | None, *, durable: bool
) -> dict[str, str]:
    """The settings for reads, as `role`, or as the login. The limits are in seconds."""
    limits = {
        "statement_timeout": f"{round(statement_s * 1000)}ms",
        "idle_in_transaction_session_timeout": f"{round(idle_transaction_s * 1000)}ms",
    }
    as_role = {} if role is None else {"role": role}
    return {**owner_session(durable=durable), **limits, **as_role}


def options(session: Mapping[str, str], before: str = "") -> str:
    """The `options` of libpq that set a session, after those `before`, over which they win."""
    flags = (f"-c {n}={_escaped(value)}" for n, value in session.items() if n not in DURABLE)
    return " ".join([*filter(None, [before]), *flags])


def _escaped(value: str) -> str:
    return value.replace("\\", "\\\\").replace(" ", "\\ ")


CHECK = f"""
WITH late AS MATERIALIZED (
    SELECT set_config(name, value, false)
    FROM unnest(%(names)s::text[], %(values)s::text[]) AS pinned (name, value)
    WHERE name = ANY (%(late)s::text[])
       OR name = 'synchronous_commit' AND current_setting(name) NOT IN {_AS_DURABLE}
    UNION ALL
    SELECT set_config(name, value, false)
    FROM unnest(%(names_17)s::text[], %(values_17)s::text[]) AS pinned (name, value)
    WHERE current_setting('server_version_num')::integer >= 170000
)
SELECT pg_backend_pid(), d.name, d.expected, d.value, d.source
FROM (SELECT count(*) AS settings FROM late) applied
LEFT JOIN LATERAL (
    SELECT name, expected, value,
           coalesce((SELECT source FROM pg_settings s WHERE s.name = p.name), 'session') AS source
    FROM (
        SELECT name, expected, current_setting(name, true) AS value
        FROM unnest(%(names)s::text[], %(values)s::text[]) AS pinned (name, expected)) p
    WHERE applied.settings >= 0
      AND CASE WHEN name IN ({", ".join(f"'{name}'" for name in TIMES)})
               THEN value::interval IS DISTINCT FROM expected::interval
               WHEN name = 'synchronous_commit' THEN value NOT IN {_AS_DURABLE}
               ELSE value IS DISTINCT FROM expected END) d ON true
"""
"""Sets what could not be an option; finds what differs, and the process that answers."""


def check_values(session: Mapping[str, str]) -> dict[str, Any]:
    """The values of CHECK for a session."""
    expected = {**session, **REQUIRED}
    return {
        "names": list(expected),
        "values": list(expected.values()),
        "late": _LATE,
        "names_17": list(_SINCE_17),
        "values_17": list(_SINCE_17.values()),
    }


def fault_of(rows: list[tuple[Any, ...]], backend_pid: int) -> UnfitConnection | None:
    """The fault of a session by the answer of CHECK, or None.

    `backend_pid` is what the connection was given as its process when it began.
    """
    differing = [Found(*row[1:]) for row in rows if row[1] is not None]
    if not differing:
        return None
    if rows[0][0] != backend_pid and any(one.name not in REQUIRED for one in differing):
        names = ", ".join(sorted(one.name for one in differing)[:3])
        return PoolerFound(
            f"It does not pass on the connection's options ({names}, ...). Name the server itself "
            "in DATABASE_URL."
        )
    return SettingRefused(" ".join(map(_described, differing)))


def _described(found: Found) -> str:
    cure = _CURES.get(found.source, "set it to {expected}").format(**found._asdict())
    return (
        f"{found.name} is {found.value!r} (source: {found.source}) and must be "
        f"{found.expected!r}: {cure}."
    )


_CURES = {
    "database": "ALTER DATABASE ... RESET {name}",
    "user": "ALTER ROLE ... RESET {name}",
    "database user": "ALTER ROLE ... IN DATABASE ... RESET {name}",
    "configuration file": "ALTER SYSTEM RESET {name}, or correct postgresql.conf, and reload it",
    "default": "the option that sets it did not arrive; connect without a pooler",
}


def checked(engine: Engine, session: Mapping[str, str]) -> Engine:
    """The engine; each of its new connections raises UnfitConnection if its session differs."""

    def check(connection: Any, record: Any) -> None:
        cursor = connection.cursor()
        cursor.execute(CHECK, check_values(session))
        rows = cursor.fetchall()
        cursor.close()
        connection.commit()  # else the end of the transaction would undo what CHECK has set
        fault = fault_of(rows, record.driver_connection.info.backend_pid)
        if fault is not None:
            raise fault

    event.listen(engine, "connect", check)
    return engine


async def check(connection: "psycopg.AsyncConnection[Any]", session: Mapping[str, str]) -> None:
    """Raise UnfitConnection if a new connection's session differs."""
    rows = await (await connection.execute(CHECK, check_values(session))).fetchall()
    fault = fault_of(rows, connection.info.backend_pid)
    if fault is not None:
        await connection.close()
        raise fault
