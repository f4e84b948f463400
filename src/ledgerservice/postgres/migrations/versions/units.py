"""Units that only one ledger has.

The foreign keys of `accounts` to a currency become one, over its number and its code, because
several ledgers may now have units of one code. The next revision validates it.
"""

from alembic import op

revision = "0010_units"
down_revision = "0009_audit"
branch_labels = None
depends_on = None
compatible = True

STATEMENTS = """
ALTER TABLE ledger.currencies ADD ledger_id integer REFERENCES ledger.ledgers;
ALTER TABLE ledger.currencies
    ADD CONSTRAINT currencies_code_key UNIQUE NULLS NOT DISTINCT (code, ledger_id),
    ADD CONSTRAINT currencies_number_code_key UNIQUE (number, code);
ALTER TABLE ledger.accounts
    DROP CONSTRAINT accounts_currency_fkey,
    DROP CONSTRAINT accounts_currency_number_fkey,
    ADD CONSTRAINT accounts_currency_fkey FOREIGN KEY (currency_number, currency)
        REFERENCES ledger.currencies (number, code) NOT VALID;
ALTER TABLE ledger.currencies DROP CONSTRAINT currencies_pkey
"""


def upgrade() -> None:
    """Let a currency belong to a ledger.

    Until it is replaced, a process of the release before cannot add currencies; all else goes on.
    """
    op.get_bind().exec_driver_sql(STATEMENTS)


def downgrade() -> None:
    """A ledger is not downgraded."""
    raise NotImplementedError("restore a backup instead")
