"""The wider constraints of 0016_crossing hold for every row; the index of open crossings."""

from ledgerservice.postgres.migrations.online import create_index, run_outside

revision = "0016_crossing_validated"
down_revision = "0016_crossing"
branch_labels = None
depends_on = None
compatible = True

VALIDATE = [
    f"ALTER TABLE ledger.{name.partition('_')[0]} VALIDATE CONSTRAINT {name}"
    for name in (
        "accounts_balance_limit",
        "accounts_external_id",
        "transactions_kind",
        "holds_crossing",
    )
]
OPEN = (
    "ON ledger.holds (ledger_id, transaction_id) WHERE remaining > 0 AND to_ledger_id IS NOT NULL"
)


def upgrade() -> None:
    """Validate, and make the index; everything is read and written meanwhile."""
    run_outside(*VALIDATE)
    create_index("holds_crossing_open", OPEN)


def downgrade() -> None:
    """A ledger is not downgraded."""
    raise NotImplementedError("restore a backup instead")
