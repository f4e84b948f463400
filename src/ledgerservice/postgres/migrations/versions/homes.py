"""Shards: which database has which ledger, and ids that are unique over all of them."""

from alembic import op

revision = "0015_homes"
down_revision = "0014b_waiting"
branch_labels = None
depends_on = None
compatible = True

STATEMENTS = """
CREATE TABLE ledger.shards (
    name     text        PRIMARY KEY,
    number   smallint    NOT NULL UNIQUE,
    added_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT shards_name CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    CONSTRAINT shards_main CHECK ((name = 'main') = (number = 0) AND number >= 0)
);
CREATE TABLE ledger.homes (
    ledger_id  integer PRIMARY KEY REFERENCES ledger.ledgers,
    shard      text    NOT NULL REFERENCES ledger.shards,
    generation integer NOT NULL DEFAULT 0,
    state      text    NOT NULL DEFAULT 'home',
    target     text    REFERENCES ledger.shards,
    CONSTRAINT homes_generation CHECK (generation >= 0),
    CONSTRAINT homes_state
        CHECK (state IN ('home', 'moving') AND (state = 'moving') = (target IS NOT NULL)),
    CONSTRAINT homes_target CHECK (target <> shard)
);
CREATE TABLE ledger.identity (
    directory uuid NOT NULL,
    shard     text NOT NULL
);
CREATE UNIQUE INDEX identity_one ON ledger.identity ((true));
CREATE TABLE ledger.chunks (
    sequence  text        NOT NULL,
    number    bigint      NOT NULL,
    shard     text        NOT NULL REFERENCES ledger.shards,
    leased_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (sequence, number),
    CONSTRAINT chunks_sequence CHECK (
        sequence IN ('transaction_id', 'account_id', 'webhook_id', 'webhook_delivery_id')),
    CONSTRAINT chunks_number CHECK (number BETWEEN 0 AND 131071)
);
CREATE TABLE ledger.fences (
    ledger_id  integer PRIMARY KEY REFERENCES ledger.ledgers,
    generation integer NOT NULL,
    state      text    NOT NULL,
    CONSTRAINT fences_state
        CHECK (state IN ('arriving', 'home', 'leaving', 'left', 'removing'))
);
CREATE TABLE ledger.arrivals (
    ledger_id integer NOT NULL REFERENCES ledger.ledgers,
    after_id  bigint  NOT NULL,
    last_id   bigint  NOT NULL,
    epoch     integer NOT NULL,
    PRIMARY KEY (ledger_id, last_id)
);
CREATE TRIGGER chunks_permanent BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.chunks
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('chunks are permanent');
CREATE TRIGGER identity_permanent BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.identity
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('the identity is permanent');
ALTER TABLE ledger.chunks ENABLE ALWAYS TRIGGER chunks_permanent;
ALTER TABLE ledger.identity ENABLE ALWAYS TRIGGER identity_permanent
"""


def upgrade() -> None:
    """Add the tables. They are empty while there is no other shard than main."""
    op.get_bind().exec_driver_sql(STATEMENTS)


def downgrade() -> None:
    """A ledger is not downgraded."""
    raise NotImplementedError("restore a backup instead")
