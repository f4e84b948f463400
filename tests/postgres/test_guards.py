"""The rights of the service's role, and what triggers refuse to everyone."""

import pytest

from ledgerservice.postgres.connections import Database, usable_role
from ledgerservice.postgres.migrations import upgrade
from ledgerservice.postgres.tables import metadata
from tests.databases import ROLE, administer, connect, empty_database, settings_for_tests
from tests.postgres.rows import DENIED, REFUSED
from tests.postings import deposit, open_accounts, post

DIRECT_WRITES = [
    "UPDATE ledger.transactions SET amount = 1",
    "DELETE FROM ledger.transactions",
    "TRUNCATE ledger.transactions",
    "UPDATE ledger.entries SET amount = 1",
    "DELETE FROM ledger.entries",
    "TRUNCATE ledger.entries",
    "DELETE FROM ledger.accounts",
    "TRUNCATE ledger.accounts",
    "UPDATE ledger.accounts SET balance = balance + 1",
    "UPDATE ledger.accounts SET held = 1",
    "UPDATE ledger.accounts SET version = version + 1",
    "UPDATE ledger.accounts SET last_recorded_at = now()",
    "UPDATE ledger.accounts SET currency = 'INR'",
    "UPDATE ledger.accounts SET floor = -1",
    "UPDATE ledger.accounts SET owner = 'Mallory'",
    "UPDATE ledger.currencies SET exponent = 3",
    "DELETE FROM ledger.currencies",
    "UPDATE ledger.accounts SET ceiling = 1",
    "UPDATE ledger.accounts SET below_floor = -1",
    "UPDATE ledger.accounts SET restricted = 0",
    "UPDATE ledger.ledgers SET name = 'mine'",
    "DELETE FROM ledger.ledgers",
    "INSERT INTO ledger.executions_due (ledger_id, proposal_id) VALUES (1, 1)",
    "DELETE FROM ledger.executions_due",
    *(
        f"{verb} ledger.{table} {rest}"
        for table, column in {
            "details": "reference",
            "account_details": "metadata",
            "holds": "remaining",
            "policies": "floor",
            "schedules": "settled_by",
            "dated_entries": "amount",
            "audit": "code",
        }.items()
        for verb, rest in (
            ("UPDATE", f"SET {column} = NULL"),
            ("DELETE FROM", ""),
            ("TRUNCATE", ""),
        )
    ),
]


WRITTEN_WHOLE = [
    *("entries", "details", "policies", "dated_entries", "account_details", "key_uses"),
]


@pytest.mark.parametrize("statement", DIRECT_WRITES)
def test_nobody_writes_past_the_journal(used_once, statement):
    used = used_once  # which stays as it is
    with connect(used, role=ROLE) as service, pytest.raises(DENIED):
        service.execute(statement)
    with connect(used) as owner, pytest.raises(REFUSED):
        owner.execute(statement)


@pytest.mark.parametrize(
    "columns",
    ["balance", "held", "version", "floor", "id", "created_at", "last_recorded_at", "exponent"],
)
def test_the_service_opens_accounts_empty(used, columns):
    statement = f"INSERT INTO ledger.accounts (ledger_id, owner, currency, {columns})"
    with connect(used, role=ROLE) as service, pytest.raises(DENIED):
        service.execute(f"{statement} VALUES (1, 'o', 'USD', DEFAULT)")


def test_an_account_of_the_owner_s_is_opened_empty_too(used):
    with connect(used) as owner:
        row = owner.execute(
            "INSERT INTO ledger.accounts (ledger_id, owner, currency, balance, held, version)"
            " VALUES (1, 'o', 'USD', 5, 5, 5) RETURNING balance, held, version, exponent"
        ).fetchone()
        assert row == (0, 0, 0, 2)
        with pytest.raises(REFUSED):
            owner.execute(
                "INSERT INTO ledger.accounts (ledger_id, owner, currency) VALUES (1, 'o', 'XXX')"
            )


ACCESS_WRITES = [
    f"{verb} ledger.{table}{rest}"
    for table in (
        *("principals", "api_keys", "grants", "account_grants"),
        *("key_uses", "oidc_principals", "approval_rules"),
    )
    for verb, rest in (
        ("INSERT INTO", " DEFAULT VALUES"),
        (
            "UPDATE",
            " SET "
            + {"key_uses": "day = now()", "approval_rules": "approvals = 1"}.get(table, "id = id"),
        ),
        ("DELETE FROM", ""),
        ("TRUNCATE", ""),
    )
    if (table, verb) not in {("key_uses", "INSERT INTO"), ("oidc_principals", "INSERT INTO")}
] + [
    f"INSERT INTO ledger.oidc_principals (issuer, subject, {column}) VALUES ('i', 's', {value})"
    for column, value in (("id", "1"), ("first_seen", "now()"))
]


@pytest.mark.parametrize("statement", ACCESS_WRITES)
def test_the_service_cannot_write_a_key(used_once, statement):
    """An injection into the service makes no key, no principal, no grant and no rule."""
    with connect(used_once, role=ROLE) as service, pytest.raises(DENIED):
        service.execute(statement)


def test_the_role_has_exactly_the_rights_it_needs(used):
    with connect(used) as owner:
        rows = owner.execute(
            "SELECT table_name, privilege_type, column_name"
            " FROM information_schema.column_privileges"
            " WHERE grantee = %s AND table_schema = 'ledger' AND privilege_type <> 'SELECT'"
            " AND NOT (table_name = ANY (%s) AND privilege_type = 'INSERT')",
            [ROLE, WRITTEN_WHOLE],
        ).fetchall()
        assert sorted((t, p, c) for t, p, c in rows if t == "accounts") == [
            *(("accounts", "INSERT", c) for c in
              ("currency", "idempotency_key", "ledger_id", "origin", "owner", "principal_id",
               "reference")),
            ("accounts", "UPDATE", "row_lock"),
        ]  # fmt: skip
        written = {c for t, p, c in rows if (t, p) == ("transactions", "INSERT")}
        assert "principal_id" in written and "posted_by" not in written
        added = {(p, c) for t, p, c in rows if t == "currencies"}
        assert added == {
            ("INSERT", c)
            for c in ("code", "number", "exponent", "name", "principal_id", "ledger_id")
        }
        for table, derived in {
            "holds": {"remaining", "captured", "capture_tried_at", "ends_at"},
            "schedules": {"settled_by"},
        }.items():
            columns = {column for t, p, column in rows if (t, p) == (table, "INSERT")}
            assert columns == set(metadata.tables[f"ledger.{table}"].c.keys()) - derived
        named = {(p, c) for t, p, c in rows if t == "ledgers"}
        of_ledgers = ("ledger_id", "name", "principal_id", "shards", "parent_id", "part")
        assert named == {("INSERT", c) for c in of_ledgers}
        of_webhooks = {(t, p, c) for t, p, c in rows if t.startswith("webhook")}
        assert of_webhooks >= {("webhook_secrets", "INSERT", "secret")}
        assert {c for t, p, c in of_webhooks if (t, p) == ("webhook_secrets", "UPDATE")} == {
            "expires_at"
        }
        never = {"created_at", "ledger_id", "webhook_id", "id", "account_id"}
        assert not never & {c for _, p, c in of_webhooks if p == "UPDATE"}
        rows = sorted({*rows} - of_webhooks)
        of_audit = {(p, c) for t, p, c in rows if t == "audit"}
        chained = {"id", "recorded_at", "digest"}
        columns = set(metadata.tables["ledger.audit"].c.keys()) - chained
        assert of_audit == {("INSERT", column) for column in columns}
        people = {(p, c) for t, p, c in rows if t == "oidc_principals"}
        assert people == {("INSERT", "issuer"), ("INSERT", "subject")}
        of_approvals = {row for row in rows if row[0] in ("proposals", "decisions", "executions")}
        derived = {"id", "proposed_at", "decided_at", "executed_at"}
        assert not derived & {column for _, _, column in of_approvals}
        assert {(t, c) for t, p, c in of_approvals if p == "UPDATE"} == {
            ("executions", name) for name in ("status", "transaction_id", "answer")
        }
        assert "approval_rules" not in {t for t, _, _ in rows}
        rows = sorted({*rows} - of_approvals)
        rows = [row for row in rows if row[0] not in ("audit", "oidc_principals")]
        tables = {"accounts", "transactions", "currencies", "holds", "schedules", "ledgers"}
        assert {t for t, _, _ in rows} == tables | {"epochs", "claims"}
        assert "begun_at" not in {c for t, _, c in rows if t == "epochs"}
        assert {p for t, p, _ in rows if t != "accounts"} == {"INSERT"}


def test_without_the_right_to_make_a_role_the_triggers_hold_alone(database):
    administer(
        database.url,
        "DROP ROLE IF EXISTS ledger_test_plain",
        "CREATE ROLE ledger_test_plain LOGIN PASSWORD 'plain'",
    )
    plain = empty_database(database, "plain", "OWNER ledger_test_plain")
    url = plain.url.set(username="ledger_test_plain", password="plain")
    plain = Database(url, settings_for_tests(service_role="ledger_test_no_such_role"))
    assert upgrade(plain.owner_engine(), "ledger_test_no_such_role")
    assert usable_role(plain) is None
    open_accounts(plain, "USD")
    post(plain, [deposit(1, 1)])
    for statement in DIRECT_WRITES:
        with connect(plain) as user, pytest.raises(REFUSED):
            user.execute(statement)
