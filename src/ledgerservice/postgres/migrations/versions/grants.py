"""Grants that are limited to accounts."""

from alembic import op

revision = "0013_grants"
down_revision = "0012_limits"
branch_labels = None
depends_on = None
compatible = True

STATEMENTS = """
CREATE TABLE ledger.account_grants (
    id           bigint   PRIMARY KEY DEFAULT nextval('ledger.grant_id'),
    principal_id integer  NOT NULL REFERENCES ledger.principals,
    ledger_id    integer  NOT NULL REFERENCES ledger.ledgers,
    scopes       bigint   NOT NULL,
    owner        text,
    accounts     bigint[] NOT NULL,
    debit_from   bigint[],
    credit_to    bigint[],
    max_amounts  json,
    CONSTRAINT account_grants_scopes CHECK (scopes > 0),
    CONSTRAINT account_grants_max_amounts CHECK (json_typeof(max_amounts) = 'object')
);
CREATE INDEX account_grants_principal ON ledger.account_grants (principal_id)
"""


def upgrade() -> None:
    """Add the table. A process of the release before does not read it, so that such a grant gives
    nothing there.
    """
    op.get_bind().exec_driver_sql(STATEMENTS)


def downgrade() -> None:
    """A ledger is not downgraded."""
    raise NotImplementedError("restore a backup instead")
