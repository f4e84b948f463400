"""An account's open holds and pending transfers are listed in the order in which they end."""

from ledgerservice.postgres.migrations.revisions import refuse_downgrade, run_sql_of

revision = "0006"
down_revision = "0005"
branch_labels = None
depends_on = None
downgrade = refuse_downgrade


def upgrade() -> None:
    """See the SQL file beside this one."""
    run_sql_of(__file__)
