"""Principals, their keys and grants, and the days on which a key was used."""

from alembic import op

revision = "0007_access"
down_revision = "0006_webhooks"
branch_labels = None
depends_on = None
compatible = True

STATEMENTS = """
CREATE SEQUENCE ledger.principal_id AS integer;
CREATE TABLE ledger.principals (
    id          integer     PRIMARY KEY DEFAULT nextval('ledger.principal_id'),
    name        text        NOT NULL UNIQUE,
    kind        text        NOT NULL DEFAULT 'service',
    created_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    disabled_at timestamptz,
    CONSTRAINT principals_id CHECK (id > 0),
    CONSTRAINT principals_name CHECK (name ~ '^[A-Za-z0-9][A-Za-z0-9@._-]{0,62}$'),
    CONSTRAINT principals_kind CHECK (kind IN ('service', 'person'))
);
CREATE TABLE ledger.api_keys (
    id           text        PRIMARY KEY,
    principal_id integer     NOT NULL REFERENCES ledger.principals,
    digest       bytea       NOT NULL UNIQUE,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    not_before   timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at   timestamptz NOT NULL,
    revoked_at   timestamptz,
    CONSTRAINT api_keys_id CHECK (id ~ '^[a-z0-9]{12}$'),
    CONSTRAINT api_keys_digest CHECK (length(digest) = 32),
    CONSTRAINT api_keys_expiry CHECK (expires_at > not_before
                                      AND expires_at <= created_at + interval '8784 hours')
);
CREATE SEQUENCE ledger.grant_id;
CREATE TABLE ledger.grants (
    id           bigint  PRIMARY KEY DEFAULT nextval('ledger.grant_id'),
    principal_id integer NOT NULL REFERENCES ledger.principals,
    ledger_id    integer REFERENCES ledger.ledgers,
    scopes       bigint  NOT NULL,
    CONSTRAINT grants_scopes CHECK (scopes > 0)
);
CREATE INDEX grants_principal ON ledger.grants (principal_id);
CREATE TABLE ledger.key_uses (
    key_id text NOT NULL REFERENCES ledger.api_keys,
    day    date NOT NULL,
    PRIMARY KEY (key_id, day)
)
"""


def upgrade() -> None:
    """Add the tables. A process of the release before is open to its machine, as it was."""
    op.get_bind().exec_driver_sql(STATEMENTS)


def downgrade() -> None:
    """A ledger is not downgraded."""
    raise NotImplementedError("restore a backup instead")
