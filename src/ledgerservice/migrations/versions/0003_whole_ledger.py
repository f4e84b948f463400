"""The whole ledger: transactions of many legs, holds, reversals, policies, schedules, detail."""

from pathlib import Path

from alembic import op

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Run the SQL file of this revision; the driver takes it as one script."""
    script = Path(__file__).with_suffix(".sql").read_text()
    op.get_bind().exec_driver_sql(script.replace("%", "%%"))


def downgrade() -> None:
    """A ledger is not undone."""
    raise NotImplementedError("restore a backup instead")
