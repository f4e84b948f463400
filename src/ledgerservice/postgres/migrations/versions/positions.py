"""Transaction ids become positions in the change feed.

Every writer has its database transaction's number before it takes ids, and keeps no spare ids. A
process of the release before does neither, so it must not write beside one of this release.
"""

from alembic import op

from ledgerservice.postgres.migrations.online import create_index
from ledgerservice.postgres.schema import FUNCTIONS_SQL

revision = "0004_positions"
down_revision = "0003_requests"
branch_labels = None
depends_on = None
compatible = False

[NEXT_CHANGE_ID] = [one for one in FUNCTIONS_SQL if "FUNCTION ledger.next_change_id(" in one]

STATEMENTS = """
ALTER TABLE ledger.ledgers ALTER change_id SET DEFAULT ledger.next_change_id();
ALTER TABLE ledger.currencies ALTER change_id SET DEFAULT ledger.next_change_id();
CREATE TABLE ledger.epochs (
    epoch             integer     NOT NULL,
    system_identifier bigint      NOT NULL,
    timeline          bigint      NOT NULL,
    database_id       bigint      NOT NULL,
    journal_id        bigint      NOT NULL,
    compare_from      bigint      NOT NULL,
    begun_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (epoch, system_identifier, timeline, database_id, journal_id)
);
CREATE TRIGGER epochs_permanent BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.epochs
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('epochs are permanent');
ALTER TABLE ledger.epochs ENABLE ALWAYS TRIGGER epochs_permanent
"""


def upgrade() -> None:
    """Add the epochs of the feed, and the order of accounts in it."""
    create_index("accounts_change", "ON ledger.accounts (ledger_id, change_id) WHERE id > 0")
    op.get_bind().exec_driver_sql(NEXT_CHANGE_ID.replace("%", "%%"))
    op.get_bind().exec_driver_sql(STATEMENTS)


def downgrade() -> None:
    """A ledger is not downgraded."""
    raise NotImplementedError("restore a backup instead")
