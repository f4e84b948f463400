"""The ledger: accounts, transactions, entries, and the guards that keep them."""

from ledgerservice.postgres.migrations.revisions import refuse_downgrade, run_sql_of

revision = "0001"
down_revision = None
branch_labels = None
depends_on = None
downgrade = refuse_downgrade


def upgrade() -> None:
    """See the SQL file beside this one."""
    run_sql_of(__file__)
