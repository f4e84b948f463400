"""The audit log: a chain of records of who did what, which no one changes."""

from alembic import op

from ledgerservice.postgres.schema import FUNCTIONS_SQL

revision = "0009_audit"
down_revision = "0007_access"
branch_labels = None
depends_on = None
compatible = True

FUNCTIONS = [one for one in FUNCTIONS_SQL if "audit" in one]

STATEMENTS = """
CREATE TABLE ledger.audit (
    id           bigint      PRIMARY KEY,
    recorded_at  timestamptz NOT NULL,
    event        text        NOT NULL,
    principal_id integer     NOT NULL DEFAULT 0,
    key_id       text,
    source       text        NOT NULL,
    request_id   text,
    action       text        NOT NULL,
    ledger_id    integer,
    subject      text,
    status       smallint    NOT NULL,
    code         text,
    repeats      integer     NOT NULL DEFAULT 1,
    detail       text,
    digest       bytea       NOT NULL,
    CONSTRAINT audit_repeats CHECK (repeats > 0),
    CONSTRAINT audit_detail CHECK (json_typeof(detail::json) = 'object')
);
CREATE UNIQUE INDEX audit_event ON ledger.audit (event);
CREATE INDEX audit_time ON ledger.audit (recorded_at, id)
"""
TRIGGERS = """
CREATE TRIGGER audit_chain BEFORE INSERT ON ledger.audit
    FOR EACH ROW EXECUTE FUNCTION ledger.chain_audit();
CREATE TRIGGER audit_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.audit
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('the audit log is immutable');
ALTER TABLE ledger.audit ENABLE ALWAYS TRIGGER audit_chain;
ALTER TABLE ledger.audit ENABLE ALWAYS TRIGGER audit_immutable
"""


def upgrade() -> None:
    """Add the table. A process of the release before does not use it."""
    for statements in (STATEMENTS, *FUNCTIONS, TRIGGERS):
        op.get_bind().exec_driver_sql(statements.replace("%", "%%"))


def downgrade() -> None:
    """A ledger is not downgraded."""
    raise NotImplementedError("restore a backup instead")
