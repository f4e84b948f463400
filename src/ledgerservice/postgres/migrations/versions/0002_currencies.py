"""Currencies: those of ISO 4217, and units of the callers' own."""

from ledgerservice.postgres.migrations.revisions import refuse_downgrade, run_sql_of

revision = "0002"
down_revision = "0001"
branch_labels = None
depends_on = None
downgrade = refuse_downgrade


def upgrade() -> None:
    """See the SQL file beside this one."""
    run_sql_of(__file__)
