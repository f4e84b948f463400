"""Keys can be certificates of clients, and people can have tokens of an OpenID provider."""

from alembic import op

revision = "0013_credentials"
down_revision = "0010_units"
branch_labels = None
depends_on = None
compatible = True

STATEMENTS = """
ALTER TABLE ledger.api_keys ADD COLUMN subject text;
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
    """Add the column. To a process of the release before, such a key is one that nobody sends."""
    op.get_bind().exec_driver_sql(STATEMENTS)


def downgrade() -> None:
    """A ledger is not downgraded."""
    raise NotImplementedError("restore a backup instead")
