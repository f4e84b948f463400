"""The whole ledger: transactions of many legs, holds, reversals, policies, schedules, detail."""

from ledgerservice.postgres.migrations.revisions import refuse_downgrade, run_sql_of

revision = "0003"
down_revision = "0002"
branch_labels = None
depends_on = None
downgrade = refuse_downgrade


def upgrade() -> None:
    """See the SQL file beside this one."""
    run_sql_of(__file__)
