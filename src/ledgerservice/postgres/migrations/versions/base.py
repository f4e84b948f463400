"""The database of `schema.sql`. Until the first release this revision is edited in place."""

from ledgerservice.postgres.schema import BASE

revision = BASE
down_revision = None
branch_labels = None
depends_on = None


def upgrade() -> None:
    """Nothing to alter: a new database runs `schema.sql` and is stamped with the head revision."""


def downgrade() -> None:
    """A ledger is not downgraded."""
    raise NotImplementedError("restore a backup instead")
