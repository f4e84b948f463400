"""The limits of a key."""

from alembic import op

revision = "0012_limits"
down_revision = "0011_credentials"
branch_labels = None
depends_on = None
compatible = True

STATEMENTS = """
ALTER TABLE ledger.api_keys
    ADD rate double precision,
    ADD burst integer,
    ADD queue_share double precision,
    ADD streams integer,
    ADD body_bytes_s bigint,
    ADD CONSTRAINT api_keys_limits CHECK (rate >= 0 AND rate < 'infinity' AND burst >= 0
                                          AND queue_share >= 0 AND queue_share <= 1
                                          AND streams >= 0 AND body_bytes_s >= 0)
"""


def upgrade() -> None:
    """Add the columns. A process of the release before has no limits."""
    op.get_bind().exec_driver_sql(STATEMENTS)


def downgrade() -> None:
    """A ledger is not downgraded."""
    raise NotImplementedError("restore a backup instead")
