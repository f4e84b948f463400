"""The login of the service is nobody, and what the operator made beforehand is used."""

import os
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import psycopg
import pytest

from ledgerservice.embedded.server import EmbeddedServer
from ledgerservice.errors import ConfigurationError, SchemaForeign
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.urls import parse_url, without_environment
from ledgerservice.runtime import prepared, upgrade
from tests.databases import (
    administer,
    connect,
    empty_database,
    quick_place,
    reachable_folder,
    settings_for_tests,
    url_text,
)
from tests.postings import deposit, open_accounts, post
from tests.processes import cli, serving

LOGIN, OWNER, HERS = "ledger_test_login", "ledger_test_owner", "ledger_test_hers"
FORMER = [LOGIN, OWNER, HERS]

REPLACE_A_FUNCTION = (
    "CREATE OR REPLACE FUNCTION ledger.refuse_change() RETURNS trigger LANGUAGE plpgsql"
    " AS 'BEGIN RETURN NULL; END'"
)
NOT_FOR_A_LOGIN = [
    "UPDATE ledger.accounts SET balance = 100",
    "UPDATE ledger.accounts SET floor = NULL",
    "DELETE FROM ledger.entries",
    "TRUNCATE ledger.transactions",
    "ALTER TABLE ledger.entries DISABLE TRIGGER entries_post",
    "DROP TABLE ledger.holds",
    "CREATE TABLE ledger.mine ()",
    "CREATE RULE mine AS ON INSERT TO ledger.entries DO INSTEAD NOTHING",
    REPLACE_A_FUNCTION,
    "CREATE CAST (integer AS bytea) WITH INOUT",
    "CREATE EVENT TRIGGER mine ON ddl_command_start EXECUTE FUNCTION ledger.refuse_change()",
    "ALTER ROLE CURRENT_USER SUPERUSER",
    "SET session_replication_role = replica",
    "SET SESSION AUTHORIZATION {owner}",
    "SET ROLE {owner}",
    "COPY (SELECT 1) TO PROGRAM 'true'",
]


@pytest.fixture
def split(database: Database) -> Iterator[Database]:
    """A migrated database with an owner's URL, and a login that the migration has made."""
    drop_all(database)
    login = database.url.set(username=LOGIN, password="p@ss/w%rd")
    yield prepared(replace(database, url=login, owner_url=database.url))
    drop_all(database)


def drop_all(database: Database) -> None:
    with connect(database) as administrator:
        for role in FORMER:
            if administrator.execute("SELECT to_regrole(%s)", [role]).fetchone() != (None,):
                administrator.execute(f"REASSIGN OWNED BY {role} TO CURRENT_USER")
                administrator.execute(f"DROP OWNED BY {role}")
                administrator.execute(f"DROP ROLE {role}")


def test_the_login_posts_and_owns_nothing(split: Database) -> None:
    owner = split.of_owner()
    open_accounts(owner, "USD")
    post(split, [deposit(1, 5)], numbered=False)
    with connect(owner) as administrator:
        row = administrator.execute(
            "SELECT rolsuper, rolcreaterole, rolcreatedb, rolbypassrls, rolreplication,"
            " rolcanlogin, (SELECT array_agg(roleid::regrole::text) FROM pg_auth_members"
            " WHERE member = r.oid), rolpassword LIKE 'SCRAM-SHA-256$%%'"
            " FROM pg_authid r WHERE rolname = %s",
            [LOGIN],
        ).fetchone()
    assert row == (False, False, False, False, False, True, ["ledgerservice"], True)


@pytest.mark.parametrize("back", ["SET ROLE NONE", "RESET ROLE", "RESET ALL"])
@pytest.mark.parametrize("statement", NOT_FOR_A_LOGIN)
def test_leaving_the_role_leads_nowhere(split: Database, back: str, statement: str) -> None:
    assert split.owner_url is not None
    with connect(split, role="ledgerservice") as session:
        session.execute(back)
        with pytest.raises((psycopg.errors.InsufficientPrivilege, psycopg.errors.CheckViolation)):
            session.execute(statement.format(owner=split.owner_url.username))


def test_the_service_runs_as_the_login_without_a_warning(split: Database, tmp_path) -> None:
    values = {"DATABASE_URL": url_text(split), "LEDGER_OWNER_URL": url_of_owner(split)}
    with serving(LOGGED_TO=str(tmp_path / "log"), **values) as service:
        account = service.open(balance="7")
        assert service.account(account, "balance") == ("7.00",)
        with connect(split.of_owner()) as administrator:
            users = administrator.execute(
                "SELECT DISTINCT usename FROM pg_stat_activity"
                " WHERE application_name = 'ledgerservice' AND datname = current_database()"
            ).fetchall()
    assert users == [(LOGIN,)]
    assert "LEDGER_OWNER_URL" not in (tmp_path / "log").read_text()
    assert cli("verify", **values).returncode == 0


def url_of_owner(split: Database) -> str:
    return url_text(split.of_owner())


def test_an_owner_as_the_login_works_with_one_warning(database: Database, caplog) -> None:
    assert prepared(database).role == "ledgerservice"
    warnings = [record.getMessage() for record in caplog.records]
    assert len(warnings) == 1
    assert "LEDGER_OWNER_URL" in warnings[0]


def test_the_two_urls_must_name_one_database(split: Database) -> None:
    other = empty_database(split.of_owner(), "other")
    with pytest.raises(ConfigurationError, match="different databases"):
        prepared(replace(split, owner_url=other.url))


def test_an_owner_s_url_alone_starts_no_server(workspace: Path) -> None:
    done = cli("migrate", LEDGER_OWNER_URL="postgresql://x", LEDGER_DATA_FOLDER=str(workspace))
    assert (done.returncode, list(workspace.iterdir())) == (1, [])
    assert "LEDGER_OWNER_URL is set, but DATABASE_URL is not." in done.stderr


SINCE_16 = {
    "admin only": "GRANT ledger_test_hers TO ledger_test_owner"
    " WITH ADMIN TRUE, SET FALSE, INHERIT FALSE",
    "set only": "GRANT ledger_test_hers TO ledger_test_owner WITH SET TRUE, INHERIT FALSE",
    "inherit only": "GRANT ledger_test_hers TO ledger_test_owner WITH SET FALSE, INHERIT TRUE",
    "not a member": "",
}
BEFORE_16 = {
    "a member that does not inherit": "ALTER ROLE ledger_test_owner NOINHERIT;"
    " GRANT ledger_test_hers TO ledger_test_owner",
    "a member": "GRANT ledger_test_hers TO ledger_test_owner",
}


@pytest.mark.parametrize("case", [*SINCE_16, *BEFORE_16])
def test_a_role_that_somebody_made_before(database: Database, case: str) -> None:
    """The service starts and posts, whatever the owner may do with the role."""
    with connect(database) as administrator:
        if case in SINCE_16 and administrator.info.server_version < 160000:
            pytest.skip("the options of a membership came with PostgreSQL 16")
        drop_all(database)
        administrator.execute(f"CREATE ROLE {HERS} NOLOGIN")
        administrator.execute(f"CREATE ROLE {OWNER} LOGIN PASSWORD 'o'")
        for statement in {**SINCE_16, **BEFORE_16}[case].split(";"):
            if statement.strip():
                administrator.execute(statement)
    new = empty_database(database, "before", f"OWNER {OWNER}")
    url = new.url.set(username=OWNER, password="o")
    ready = prepared(Database(url, settings_for_tests(service_role=HERS)))
    assert ready.role == (None if case in ("inherit only", "not a member") else HERS)
    open_accounts(ready, "USD")
    post(ready, [deposit(1, 5)], numbered=False)
    administer(database.url, f"DROP DATABASE {new.url.database}")
    drop_all(database)


def test_a_login_without_rights_is_a_fault_of_the_start(database: Database) -> None:
    drop_all(database)
    administer(database.url, f"CREATE ROLE {LOGIN} LOGIN PASSWORD 'x'")
    url = url_text(replace(database, url=database.url.set(username=LOGIN, password="x")))
    done = cli("serve", DATABASE_URL=url, LEDGER_AUTO_MIGRATE="false")
    assert done.returncode == 1
    assert "lacks a privilege" in done.stderr
    assert "outcome in time" not in done.stderr
    assert len(done.stderr.strip().splitlines()) == 1
    drop_all(database)


FOREIGN = {
    "a table": ["CREATE TABLE ledger.accounts (id int)"],
    "a table and Alembic's": [
        "CREATE TABLE ledger.thing (id int)",
        "CREATE TABLE ledger.alembic_version (version_num text)",
        "INSERT INTO ledger.alembic_version VALUES ('abc')",
    ],
}


@pytest.mark.parametrize("statements", FOREIGN.values(), ids=FOREIGN)
def test_a_schema_of_the_same_name_is_left_alone(database: Database, statements) -> None:
    foreign = empty_database(database, "foreign")
    administer(foreign.url, "CREATE SCHEMA ledger", *statements)
    with pytest.raises(SchemaForeign, match="LEDGER_SCHEMA"):
        prepared(foreign)
    done = cli("serve", DATABASE_URL=url_text(foreign))
    assert (done.returncode, len(done.stderr.strip().splitlines())) == (1, 1)


def test_an_empty_schema_that_was_made_for_us_is_used(database: Database) -> None:
    empty = empty_database(database, "empty")
    administer(empty.url, "CREATE SCHEMA ledger")
    assert upgrade(empty)


ENVIRONMENT = {
    "PGHOSTADDR": "127.0.0.9",
    "PGHOST": "localhost",
    "PGPORT": "1",
    "PGUSER": "nobody",
    "PGDATABASE": "nothing",
    "PGOPTIONS": "-c search_path=nowhere",
    "PGSSLMODE": "verify-full",
    "PGPASSFILE": "/nowhere",
    "PGTARGETSESSIONATTRS": "standby",
    "PGREQUIREAUTH": "scram-sha-256",
    "PGREQUIREPEER": "nobody",
    "PGGSSENCMODE": "require",
    "PGCHANNELBINDING": "require",
    "PGMINPROTOCOLVERSION": "3.2",
    "PGAPPNAME": "shell",
    "PGCLIENTENCODING": "LATIN1",
    "PGCONNECT_TIMEOUT": "never",
}


@pytest.fixture(scope="module")
def embedded() -> Iterator[EmbeddedServer]:
    with reachable_folder(quick_place()) as folder, EmbeddedServer(folder / "data") as server:
        yield server


@pytest.mark.parametrize("name", ENVIRONMENT)
def test_the_embedded_server_is_reached_whatever_the_shell_says(
    embedded: EmbeddedServer, name: str, monkeypatch
) -> None:
    monkeypatch.setenv(name, ENVIRONMENT[name])
    owner = without_environment(parse_url(embedded.url))
    login = without_environment(parse_url(embedded.login_url))
    ready = prepared(Database(login, settings_for_tests(), owner_url=owner))
    assert ready.role == "ledgerservice"
    post(ready, [], numbered=False)


def test_an_embedded_service_runs_as_its_login(workspace: Path, new_database: Callable) -> None:
    values = dict.fromkeys(["PGHOSTADDR", "PGSSLMODE"], "nonsense")
    with serving(LEDGER_DATA_FOLDER=str(workspace / "data"), **values) as service:
        account = service.open(balance="1")
        with psycopg.connect(EmbeddedServer(workspace / "data").url) as administrator:
            users = administrator.execute(
                "SELECT DISTINCT usename FROM pg_stat_activity"
                " WHERE application_name = 'ledgerservice'"
            ).fetchall()
        assert users == [("ledgerservice_login",)]
        assert service.account(account, "balance") == ("1.00",)
    assert "PGHOSTADDR" not in os.environ
