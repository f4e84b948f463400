"""${message}"""

from alembic import op

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
branch_labels = ${repr(branch_labels)}
depends_on = ${repr(depends_on)}
compatible = True

STATEMENTS = """
"""


def upgrade() -> None:
    """Say what it adds, and why a process of the release before can go on."""
    op.get_bind().exec_driver_sql(STATEMENTS)


def downgrade() -> None:
    """A ledger is not downgraded."""
    raise NotImplementedError("restore a backup instead")
