"""Grants that are limited to accounts."""

from alembic import op

revision = "0013_grants"
down_revision = "0012_limits"
branch_labels = None
depends_on = None
compatible = False

STATEMENTS = """
ALTER TABLE ledger.grants
    ADD accounts bigint[],
    ADD debit_from bigint[],
    ADD credit_to bigint[],
    ADD max_amounts json,
    ADD CONSTRAINT grants_accounts CHECK (
        accounts IS NULL AND debit_from IS NULL AND credit_to IS NULL AND max_amounts IS NULL
        OR ledger_id IS NOT NULL AND accounts IS NOT NULL AND debit_from IS NOT NULL
        AND credit_to IS NOT NULL AND (max_amounts IS NULL OR json_typeof(max_amounts) = 'object'))
"""


def upgrade() -> None:
    """Add the columns. To a process of the release before such a grant is one of the whole ledger,
    so that it must not go on.
    """
    op.get_bind().exec_driver_sql(STATEMENTS)


def downgrade() -> None:
    """A ledger is not downgraded."""
    raise NotImplementedError("restore a backup instead")
