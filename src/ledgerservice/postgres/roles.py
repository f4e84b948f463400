"""The service's role, which has the least rights, and the login that is a member of it.

`SET ROLE NONE` returns a session to its login. So the login of the service must be nobody: it owns
nothing, and has no other rights than those of the role.
"""

from typing import NamedTuple

from psycopg import sql
from sqlalchemy import Connection, text

from ledgerservice.postgres.schema import GRANTS_SQL, SCHEMA


class Login(NamedTuple):
    """A user of PostgreSQL, and the password to make it with, if it has one."""

    name: str
    password: str | None


class Rights(NamedTuple):
    """What the login of a connection may do with the service's role.

    `set_role`: SET ROLE; `inherited`: use its rights without that; `granted`: the role has its
    rights; `owner`: the login may do what the schema's owner may, or is a superuser.
    """

    set_role: bool
    inherited: bool
    granted: bool
    owner: bool


def provide(connection: Connection, role: str, login: Login | None, *, again: bool) -> None:
    """Make what is missing of the role, the login and their rights, as far as that is allowed.

    Without a login the user of this connection becomes a member. Rights are given if the role has
    none, as in a restored database, and `again` after a migration, which can add what needs some.
    Without the role the service runs as its login; the triggers hold all the same.
    """
    if connection.scalar(_EXISTS, {"role": role}) is None:
        if not connection.scalar(_MAY_CREATE_ROLES):
            return
        connection.exec_driver_sql(_statement("CREATE ROLE {role} NOLOGIN", role=role))
    if login is None:
        _join(connection, role)
    else:
        _make_member(connection, role, login)
    if again or not connection.scalar(_IS_GRANTED, {"role": role}):
        connection.exec_driver_sql(_statement(GRANTS_SQL, role=role))


def _join(connection: Connection, role: str) -> None:
    """Become a member. Since PostgreSQL 16 whoever created a role may grant it, but not use it."""
    if not rights(connection, role).set_role and connection.scalar(_MAY_GRANT, {"role": role}):
        connection.exec_driver_sql(_statement("GRANT {role} TO CURRENT_USER", role=role))


def _make_member(connection: Connection, role: str, login: Login) -> None:
    if connection.scalar(_EXISTS, {"role": login.name}) is None:
        if not connection.scalar(_MAY_CREATE_ROLES):
            return
        create = "CREATE ROLE {login} LOGIN PASSWORD {verifier}"
        connection.exec_driver_sql(
            _statement(create, login=login.name).replace("{verifier}", _verifier(connection, login))
        )
    values = {"role": role, "login": login.name}
    if not connection.scalar(_IS_MEMBER, values) and connection.scalar(_MAY_GRANT, values):
        connection.exec_driver_sql(
            _statement("GRANT {role} TO {login}", role=role, login=login.name)
        )


def _verifier(connection: Connection, login: Login) -> str:
    """The password as the server keeps it, so that no log has it as it is."""
    if login.password is None:
        return "NULL"
    driver = connection.connection.driver_connection
    assert driver is not None
    encrypted = driver.pgconn.encrypt_password(login.password.encode(), login.name.encode())
    return sql.quote(encrypted.decode())


def rights(connection: Connection, role: str) -> Rights:
    """What the login of this connection may do with the role."""
    version: int = connection.scalar(_VERSION) or 0
    # Before PostgreSQL 16 every member may set the role.
    set_role = "SET" if version >= 160_000 else "MEMBER"
    row = connection.execute(_RIGHTS, {"role": role, "set_role": set_role}).one()
    return Rights(*row)


_VERSION = text("SELECT current_setting('server_version_num')::integer")
_EXISTS = text("SELECT oid FROM pg_roles WHERE rolname = :role")
_MAY_CREATE_ROLES = text(
    "SELECT rolsuper OR rolcreaterole FROM pg_roles WHERE rolname = current_user"
)
_IS_MEMBER = text(
    "SELECT pg_has_role(l.oid, r.oid, 'MEMBER') FROM pg_roles l, pg_roles r"
    " WHERE l.rolname = :login AND r.rolname = :role"
)
_MAY_GRANT = text("""
SELECT me.rolsuper OR pg_has_role(r.oid, 'MEMBER WITH ADMIN OPTION')
       OR me.rolcreaterole AND current_setting('server_version_num')::integer < 160000
FROM pg_roles r, pg_roles me WHERE r.rolname = :role AND me.rolname = current_user
""")
_IS_GRANTED = text(
    f"SELECT has_table_privilege(r.oid, '{SCHEMA}.entries', 'INSERT')"
    " AND bool_and(has_function_privilege(r.oid, p.oid, 'EXECUTE'))"
    f" FROM pg_roles r, pg_proc p WHERE rolname = :role"
    f" AND p.pronamespace = '{SCHEMA}'::regnamespace AND proname IN"
    " ('version_at', 'refuse', 'refuse_table') GROUP BY r.oid"
)
_RIGHTS = text(f"""
SELECT coalesce(me.rolsuper OR pg_has_role(r.oid, :set_role), false),
       coalesce(pg_has_role(r.oid, 'USAGE'), false),
       coalesce(has_table_privilege(r.oid, '{SCHEMA}.entries', 'INSERT'), false),
       me.rolsuper OR coalesce(pg_has_role(c.relowner, 'MEMBER'), false)
FROM pg_roles me
LEFT JOIN pg_roles r ON r.rolname = :role
LEFT JOIN pg_class c ON c.oid = to_regclass('{SCHEMA}.entries')
WHERE me.rolname = session_user
""")


def _statement(template: str, **names: str) -> str:
    """The statement with names as identifiers; other braces stay."""
    for place, name in names.items():
        template = template.replace(f"{{{place}}}", sql.Identifier(name).as_string())
    return template
