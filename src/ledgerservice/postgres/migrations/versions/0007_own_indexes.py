"""What finds one account, hold or schedule can enter no other index than its key's."""

from ledgerservice.postgres.migrations.revisions import refuse_downgrade, run_sql_of

revision = "0007"
down_revision = "0006"
branch_labels = None
depends_on = None
downgrade = refuse_downgrade


def upgrade() -> None:
    """See the SQL file beside this one."""
    run_sql_of(__file__)
