"""Details keep what a request said, if its record does not show it.

An export of the history takes it along: without it, a repeat of such a request was refused in the
copy as another request.
"""

from alembic import op

revision = "0003_requests"
down_revision = "0002_triggers_always"
branch_labels = None
depends_on = None
compatible = True


def upgrade() -> None:
    """Add the column; what was recorded before stays without it."""
    op.get_bind().exec_driver_sql("ALTER TABLE ledger.details ADD COLUMN request json")


def downgrade() -> None:
    """A ledger is not downgraded."""
    raise NotImplementedError("restore a backup instead")
