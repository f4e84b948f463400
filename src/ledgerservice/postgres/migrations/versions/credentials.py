"""Keys can be certificates of clients and can require signatures; people can have tokens."""

from alembic import op

revision = "0011_credentials"
down_revision = "0010_units_validated"
branch_labels = None
depends_on = None
compatible = True

STATEMENTS = """
ALTER TABLE ledger.api_keys ADD COLUMN subject text, ADD COLUMN public_key bytea,
    ADD CONSTRAINT api_keys_public_key CHECK (length(public_key) = 32);
CREATE UNIQUE INDEX api_keys_subject ON ledger.api_keys (subject) WHERE revoked_at IS NULL;
CREATE TABLE ledger.oidc_principals (
    id         integer     PRIMARY KEY DEFAULT nextval('ledger.principal_id'),
    issuer     text        NOT NULL,
    subject    text        NOT NULL,
    first_seen timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT oidc_principals_id CHECK (id > 0),
    CONSTRAINT oidc_principals_subject CHECK (length(subject) BETWEEN 1 AND 255)
);
CREATE UNIQUE INDEX oidc_principals_person ON ledger.oidc_principals (issuer, subject)
"""


def upgrade() -> None:
    """Add the columns. To a process of the release before, a certificate is a key that nobody
    sends, and a key that requires signatures is one that does not.
    """
    op.get_bind().exec_driver_sql(STATEMENTS)


def downgrade() -> None:
    """A ledger is not downgraded."""
    raise NotImplementedError("restore a backup instead")
