"""All triggers fire whatever `session_replication_role` is.

Migration services have it set to `replica` on a database. The triggers that move the accounts were
then silent: a transfer was answered and moved nothing.
"""

from alembic import op

revision = "0002_triggers_always"
down_revision = "base_c4d280188959"
branch_labels = None
depends_on = None
compatible = True

ENABLE_ALWAYS = """
DO $$
DECLARE
    guard record;
BEGIN
    FOR guard IN
        SELECT tgrelid::regclass AS relation, tgname
        FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        WHERE c.relnamespace = 'ledger'::regnamespace AND NOT tgisinternal
    LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', guard.relation, guard.tgname);
    END LOOP;
END $$
"""


def upgrade() -> None:
    """Let each trigger fire always."""
    op.get_bind().exec_driver_sql(ENABLE_ALWAYS.replace("%", "%%"))


def downgrade() -> None:
    """A ledger is not downgraded."""
    raise NotImplementedError("restore a backup instead")
