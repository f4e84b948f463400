"""What is approved and was not carried out, in a table of its own: the sweep reads nothing else."""

from alembic import op

from ledgerservice.postgres.schema import FUNCTIONS_SQL

revision = "0014b_waiting"
down_revision = "0014_approvals"
branch_labels = None
depends_on = None
compatible = True

NAMES = "ledger.note_approval()", "ledger.settle_execution()"
FUNCTIONS = [one for one in FUNCTIONS_SQL if any(name in one for name in NAMES)]

TABLE = """
CREATE TABLE ledger.executions_due (
    ledger_id   integer     NOT NULL,
    proposal_id bigint      NOT NULL,
    approved_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (ledger_id, proposal_id)
)
"""
TRIGGERS = """
CREATE TRIGGER decisions_due AFTER INSERT ON ledger.decisions
    FOR EACH ROW WHEN (NEW.verdict = 'approve') EXECUTE FUNCTION ledger.note_approval();
CREATE TRIGGER executions_settled AFTER INSERT OR UPDATE ON ledger.executions
    FOR EACH ROW WHEN (NEW.status IS NOT NULL) EXECUTE FUNCTION ledger.settle_execution();
ALTER TABLE ledger.decisions ENABLE ALWAYS TRIGGER decisions_due;
ALTER TABLE ledger.executions ENABLE ALWAYS TRIGGER executions_settled
"""
# With the locks of the triggers, so that no decision and no answer comes in between.
FILL = """
INSERT INTO ledger.executions_due (ledger_id, proposal_id, approved_at)
SELECT p.ledger_id, p.id, d.last
FROM ledger.proposals p
CROSS JOIN LATERAL (
    SELECT count(*) AS given, bool_and(verdict = 'approve') AS is_open, max(decided_at) AS last
    FROM ledger.decisions WHERE ledger_id = p.ledger_id AND proposal_id = p.id) d
WHERE d.given >= p.approvals AND d.is_open AND NOT EXISTS (
    SELECT FROM ledger.executions x
    WHERE x.ledger_id = p.ledger_id AND x.proposal_id = p.id AND x.status IS NOT NULL)
"""
GUARD = """
CREATE TRIGGER executions_due_derived BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE
    ON ledger.executions_due
    FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0)
    EXECUTE FUNCTION ledger.refuse_change('only decisions and executions change it');
ALTER TABLE ledger.executions_due ENABLE ALWAYS TRIGGER executions_due_derived
"""


def upgrade() -> None:
    """Add the table. Decisions and answers of a process of the release before get into it too."""
    for statements in (TABLE, *FUNCTIONS, TRIGGERS, FILL, GUARD):
        op.get_bind().exec_driver_sql(statements.replace("%", "%%"))


def downgrade() -> None:
    """A ledger is not downgraded."""
    raise NotImplementedError("restore a backup instead")
