"""The currency of every account is checked against the foreign key that it has now."""

from ledgerservice.postgres.migrations.online import run_outside

revision = "0010_units_validated"
down_revision = "0010_units"
branch_labels = None
depends_on = None
compatible = True

VALIDATE = "ALTER TABLE ledger.accounts VALIDATE CONSTRAINT accounts_currency_fkey"


def upgrade() -> None:
    """Validate the constraint; accounts are read and written meanwhile."""
    run_outside(VALIDATE)


def downgrade() -> None:
    """A ledger is not downgraded."""
    raise NotImplementedError("restore a backup instead")
