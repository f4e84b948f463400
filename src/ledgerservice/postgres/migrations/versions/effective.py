"""An index of the times at which transactions take effect, for lists by them.

Only details with an `effective_at` are in it: other transactions cost nothing. The table takes no
writes while the index is built.
"""

from alembic import op

revision = "0005_details_effective"
down_revision = "0004_positions"
branch_labels = None
depends_on = None
compatible = True

CREATE_INDEX = """
CREATE INDEX details_effective ON ledger.details (ledger_id, effective_at, transaction_id)
    WHERE effective_at IS NOT NULL
"""


def upgrade() -> None:
    """Make the index."""
    op.get_bind().exec_driver_sql(CREATE_INDEX)


def downgrade() -> None:
    """A ledger is not downgraded."""
    raise NotImplementedError("restore a backup instead")
