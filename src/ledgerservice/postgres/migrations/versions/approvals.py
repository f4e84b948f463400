"""Four eyes: which requests others have to approve, what was proposed, decided and carried out."""

from alembic import op

from ledgerservice.postgres.schema import FUNCTIONS_SQL

revision = "0014_approvals"
down_revision = "0013_grants"
branch_labels = None
depends_on = None
compatible = True

NAMES = "ledger.check_decision()", "ledger.check_execution()"
FUNCTIONS = [one for one in FUNCTIONS_SQL if any(name in one for name in NAMES)]

STATEMENTS = """
CREATE TABLE ledger.approval_rules (
    ledger_id integer  NOT NULL REFERENCES ledger.ledgers,
    rule      text     NOT NULL,
    currency  text     NOT NULL DEFAULT '',
    bound     text,
    approvals smallint NOT NULL DEFAULT 1,
    PRIMARY KEY (ledger_id, rule, currency),
    CONSTRAINT approval_rules_rule
        CHECK (rule IN ('force', 'close', 'unfreeze', 'floor', 'amount')),
    CONSTRAINT approval_rules_bound
        CHECK ((rule IN ('floor', 'amount')) = (bound IS NOT NULL AND currency <> '')),
    CONSTRAINT approval_rules_approvals CHECK (approvals BETWEEN 1 AND 9)
);
CREATE SEQUENCE ledger.proposal_id;
CREATE TABLE ledger.proposals (
    ledger_id       integer     NOT NULL REFERENCES ledger.ledgers,
    id              bigint      NOT NULL DEFAULT nextval('ledger.proposal_id'),
    proposed_by     integer     NOT NULL,
    proposed_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at      timestamptz NOT NULL,
    rule            text        NOT NULL,
    approvals       smallint    NOT NULL,
    operation       text        NOT NULL,
    parent_id       bigint,
    scope_id        bigint      NOT NULL,
    idempotency_key text        NOT NULL,
    body            bytea       NOT NULL,
    digest          bytea       NOT NULL,
    PRIMARY KEY (ledger_id, id),
    CONSTRAINT proposals_key UNIQUE (ledger_id, scope_id, idempotency_key),
    CONSTRAINT proposals_proposer UNIQUE (ledger_id, id, proposed_by),
    CONSTRAINT proposals_by_somebody CHECK (proposed_by > 0),
    CONSTRAINT proposals_approvals CHECK (approvals BETWEEN 1 AND 9),
    CONSTRAINT proposals_digest CHECK (length(digest) = 32)
);
CREATE TABLE ledger.decisions (
    ledger_id   integer     NOT NULL,
    proposal_id bigint      NOT NULL,
    proposed_by integer     NOT NULL,
    decided_by  integer     NOT NULL,
    verdict     text        NOT NULL,
    reason      text        NOT NULL,
    decided_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (ledger_id, proposal_id, decided_by),
    CONSTRAINT decisions_proposal FOREIGN KEY (ledger_id, proposal_id, proposed_by)
        REFERENCES ledger.proposals (ledger_id, id, proposed_by),
    CONSTRAINT decisions_verdict CHECK (verdict IN ('approve', 'reject', 'withdraw')),
    CONSTRAINT decisions_by_another
        CHECK ((decided_by = proposed_by) = (verdict = 'withdraw') AND decided_by > 0),
    CONSTRAINT decisions_reason CHECK (length(reason) BETWEEN 1 AND 255)
);
CREATE TABLE ledger.executions (
    ledger_id      integer     NOT NULL,
    proposal_id    bigint      NOT NULL,
    executed_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    status         smallint,
    transaction_id bigint,
    answer         bytea,
    PRIMARY KEY (ledger_id, proposal_id),
    CONSTRAINT executions_proposal FOREIGN KEY (ledger_id, proposal_id)
        REFERENCES ledger.proposals (ledger_id, id)
)
"""
TRIGGERS = """
CREATE TRIGGER decisions_open BEFORE INSERT ON ledger.decisions
    FOR EACH ROW EXECUTE FUNCTION ledger.check_decision();
CREATE TRIGGER executions_approved BEFORE INSERT ON ledger.executions
    FOR EACH ROW EXECUTE FUNCTION ledger.check_execution();
CREATE TRIGGER proposals_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.proposals
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('proposals are immutable');
CREATE TRIGGER decisions_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.decisions
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('decisions are immutable');
CREATE TRIGGER executions_permanent BEFORE DELETE OR TRUNCATE ON ledger.executions
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('executions are immutable');
CREATE TRIGGER executions_immutable BEFORE UPDATE ON ledger.executions
    FOR EACH ROW WHEN (OLD.status IS NOT NULL)
    EXECUTE FUNCTION ledger.refuse_change('executions are immutable');
ALTER TABLE ledger.decisions ENABLE ALWAYS TRIGGER decisions_open;
ALTER TABLE ledger.executions ENABLE ALWAYS TRIGGER executions_approved;
ALTER TABLE ledger.proposals ENABLE ALWAYS TRIGGER proposals_immutable;
ALTER TABLE ledger.decisions ENABLE ALWAYS TRIGGER decisions_immutable;
ALTER TABLE ledger.executions ENABLE ALWAYS TRIGGER executions_permanent;
ALTER TABLE ledger.executions ENABLE ALWAYS TRIGGER executions_immutable
"""


def upgrade() -> None:
    """Add the tables. A process of the release before does not read the rules."""
    for statements in (STATEMENTS, *FUNCTIONS, TRIGGERS):
        op.get_bind().exec_driver_sql(statements.replace("%", "%%"))


def downgrade() -> None:
    """A ledger is not downgraded."""
    raise NotImplementedError("restore a backup instead")
