"""Rows are looked up by their own index, whatever the planner believes."""

from ledgerservice.postgres.migrations.revisions import refuse_downgrade, run_sql_of

revision = "0005"
down_revision = "0004"
branch_labels = None
depends_on = None
downgrade = refuse_downgrade


def upgrade() -> None:
    """See the SQL file beside this one."""
    run_sql_of(__file__)
