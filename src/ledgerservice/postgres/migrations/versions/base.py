"""The base revision: the database of `base.sql`, which stays as it is."""

from pathlib import Path

from alembic import op

revision = "base_c4d280188959"
down_revision = None
branch_labels = None
depends_on = None

BASE_SQL = Path(__file__).with_name("base.sql")


def upgrade() -> None:
    """Run `base.sql`. A new database runs `schema.sql` instead and is stamped with the head."""
    op.get_bind().exec_driver_sql(BASE_SQL.read_text().replace("%", "%%"))


def downgrade() -> None:
    """A ledger is not downgraded."""
    raise NotImplementedError("restore a backup instead")
