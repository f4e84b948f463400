"""Ledgers of several parts, and transfers between these.

The constraints that become wider are not validated here; the next revision does it.
"""

from alembic import op

revision = "0016_crossing"
down_revision = "0015_homes"
branch_labels = None
depends_on = None
compatible = True

STATEMENTS = """
ALTER TABLE ledger.ledgers
    ADD shards    smallint,
    ADD parent_id integer REFERENCES ledger.ledgers,
    ADD part      smallint,
    DROP CONSTRAINT ledgers_name;
ALTER TABLE ledger.ledgers
    ADD CONSTRAINT ledgers_name CHECK (
        name ~ CASE WHEN parent_id IS NULL THEN '^[a-z0-9][a-z0-9_-]{0,62}$'
                    ELSE '^[a-z0-9][a-z0-9_-]{0,62}[.][0-9]+$' END),
    ADD CONSTRAINT ledgers_shards
        CHECK (shards IS NULL OR shards BETWEEN 2 AND 64 AND parent_id IS NULL),
    ADD CONSTRAINT ledgers_part
        CHECK ((parent_id IS NULL) = (part IS NULL) AND part BETWEEN 0 AND 63),
    ADD CONSTRAINT ledgers_part_key UNIQUE (parent_id, part);
CREATE TABLE ledger.claims (
    ledger_id integer  NOT NULL REFERENCES ledger.ledgers,
    name      text     NOT NULL,
    part      smallint NOT NULL,
    PRIMARY KEY (ledger_id, name),
    CONSTRAINT claims_name CHECK (name ~ '^(key|reference) .'),
    CONSTRAINT claims_part CHECK (part BETWEEN 0 AND 63)
);
CREATE TRIGGER claims_permanent BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.claims
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('claims are permanent');
ALTER TABLE ledger.claims ENABLE ALWAYS TRIGGER claims_permanent;
ALTER TABLE ledger.accounts
    DROP CONSTRAINT accounts_balance_limit,
    DROP CONSTRAINT accounts_external_id,
    ADD CONSTRAINT accounts_balance_limit
        CHECK (abs(balance) <= 1000000000000000000 OR id < -32768) NOT VALID,
    ADD CONSTRAINT accounts_external_id
        CHECK (id > 0 OR mod(-id, 32768) = currency_number) NOT VALID;
ALTER TABLE ledger.transactions
    DROP CONSTRAINT transactions_kind,
    ADD CONSTRAINT transactions_kind CHECK (
        CASE WHEN kind <= 11 THEN kind > 0
             ELSE kind <= 15 AND (kind > 12) = (origin = 6) AND (kind < 14 OR status = 1) END)
        NOT VALID;
ALTER TABLE ledger.holds
    ADD to_ledger_id  integer,
    ADD to_account_id bigint;
ALTER TABLE ledger.holds
    ADD CONSTRAINT holds_crossing CHECK (
        num_nonnulls(to_ledger_id, to_account_id)
            = CASE WHEN counterparty_id < -32768 THEN 2 ELSE 0 END
        AND (to_ledger_id IS NULL OR num_nonnulls(expires_at, capture_at) = 0)) NOT VALID
"""


def upgrade() -> None:
    """Add the columns. No ledger has parts before every process knows them."""
    op.get_bind().exec_driver_sql(STATEMENTS)


def downgrade() -> None:
    """A ledger is not downgraded."""
    raise NotImplementedError("restore a backup instead")
