"""Keys can be certificates of clients."""

from alembic import op

revision = "0013_credentials"
down_revision = "0010_units"
branch_labels = None
depends_on = None
compatible = True

STATEMENTS = """
ALTER TABLE ledger.api_keys ADD COLUMN subject text;
CREATE UNIQUE INDEX api_keys_subject ON ledger.api_keys (subject) WHERE revoked_at IS NULL
"""


def upgrade() -> None:
    """Add the column. To a process of the release before, such a key is one that nobody sends."""
    op.get_bind().exec_driver_sql(STATEMENTS)


def downgrade() -> None:
    """A ledger is not downgraded."""
    raise NotImplementedError("restore a backup instead")
