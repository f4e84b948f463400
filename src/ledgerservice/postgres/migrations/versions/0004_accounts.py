"""Accounts carry metadata, and are listed by when they were opened."""

from ledgerservice.postgres.migrations.revisions import refuse_downgrade, run_sql_of

revision = "0004"
down_revision = "0003"
branch_labels = None
depends_on = None
downgrade = refuse_downgrade


def upgrade() -> None:
    """See the SQL file beside this one."""
    run_sql_of(__file__)
