"""An index of the times at which transactions take effect, for lists by them.

Only details with an `effective_at` are in it: other transactions cost nothing.
"""

from ledgerservice.postgres.migrations.online import create_index

revision = "0005_details_effective"
down_revision = "0004_positions"
branch_labels = None
depends_on = None
compatible = True

DEFINITION = """
ON ledger.details (ledger_id, effective_at, transaction_id) WHERE effective_at IS NOT NULL
""".strip()


def upgrade() -> None:
    """Make the index."""
    create_index("details_effective", DEFINITION)


def downgrade() -> None:
    """A ledger is not downgraded."""
    raise NotImplementedError("restore a backup instead")
