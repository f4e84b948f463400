"""Nobody moves a balance by hanging a trigger function of the ledger on a table of their own."""

import re
from collections.abc import Iterator

import psycopg
import pytest

from ledgerservice.postgres.migrations import upgrade
from ledgerservice.postgres.schema import SCHEMA_SQL
from tests.databases import ROLE, administer, connect

READER = "ledger_test_reader"
TRIGGERS = re.findall(
    r"CREATE (?:CONSTRAINT )?TRIGGER \w+\s+(BEFORE|AFTER) .*? ON (ledger\.\w+)(.*?FOR EACH \w+)"
    r".*?EXECUTE FUNCTION (ledger\.\w+\([^)]*\))",
    SCHEMA_SQL,
    re.DOTALL,
)


@pytest.fixture
def roles(used) -> Iterator[list[str]]:
    """The service's role, and one that may only read."""
    administer(
        used.url,
        f"DROP ROLE IF EXISTS {READER}",
        f"CREATE ROLE {READER} NOLOGIN",
        f"GRANT USAGE ON SCHEMA ledger TO {READER}",
        f"GRANT SELECT ON ALL TABLES IN SCHEMA ledger TO {READER}",
    )
    yield [ROLE, READER]
    administer(used.url, f"DROP OWNED BY {READER}", f"DROP ROLE {READER}")


def hang(when: str, table: str, rest: str, function: str) -> list[str]:
    """The statements that hang a function on a temporary copy of its table."""
    rest = re.sub(r"DEFERRABLE INITIALLY DEFERRED|WHEN \(.*?\)\)?", "", rest)
    trigger = f"CREATE TRIGGER t {when} INSERT ON f {rest} EXECUTE FUNCTION {function}"
    return [f"CREATE TEMP TABLE f AS SELECT * FROM {table} WITH NO DATA", trigger]


@pytest.mark.parametrize("trigger", TRIGGERS, ids=[f"{t[3]} {t[1]}" for t in TRIGGERS])
def test_no_role_uses_a_trigger_function(used, roles, trigger) -> None:
    for role in roles:
        with connect(used, role=role) as session, session.transaction(force_rollback=True):
            copy, hung = hang(*trigger)
            session.execute(copy)
            with pytest.raises(psycopg.errors.InsufficientPrivilege, match="permission denied"):
                session.execute(hung)


@pytest.mark.parametrize(
    "trigger", [t for t in TRIGGERS if "refuse_change" not in t[3]], ids=lambda t: f"{t[3]} {t[1]}"
)
def test_a_trigger_function_refuses_a_table_that_is_not_its_own(used, trigger) -> None:
    """Also if the right to execute it was given to somebody."""
    with connect(used) as owner, owner.transaction(force_rollback=True):
        for statement in hang(*trigger):
            owner.execute(statement)
        with pytest.raises(psycopg.errors.CheckViolation, match="is not for table f"):
            owner.execute("INSERT INTO f DEFAULT VALUES")


def test_the_right_that_a_restore_brings_back_is_taken_again(used) -> None:
    administer(used.url, "GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA ledger TO PUBLIC")
    upgrade(used.owner_engine(), ROLE)
    with connect(used) as owner:
        everybody = owner.execute(
            "SELECT proname FROM pg_proc p, aclexplode(p.proacl)"
            " WHERE pronamespace = 'ledger'::regnamespace AND grantee = 0"
        )
        assert everybody.fetchall() == []
