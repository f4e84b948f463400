"""Webhooks: endpoints, their secrets, what they did not take, and the log of attempts."""

from alembic import op

revision = "0006_webhooks"
down_revision = "0005_details_effective"
branch_labels = None
depends_on = None
compatible = True

STATEMENTS = """
CREATE SEQUENCE ledger.webhook_id;
CREATE TABLE ledger.webhooks (
    ledger_id    integer     NOT NULL REFERENCES ledger.ledgers,
    id           bigint      NOT NULL DEFAULT nextval('ledger.webhook_id'),
    url          text        NOT NULL,
    types        text,
    account_id   bigint,
    state        text        NOT NULL DEFAULT 'active',
    reason       text,
    epoch        integer     NOT NULL,
    position     bigint      NOT NULL,
    digest       bytea,
    dead_letters integer     NOT NULL DEFAULT 0,
    revision     integer     NOT NULL DEFAULT 0,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (ledger_id, id),
    CONSTRAINT webhooks_state CHECK (state IN ('active', 'paused', 'disabled')),
    CONSTRAINT webhooks_url_length CHECK (length(url) BETWEEN 1 AND 2048),
    CONSTRAINT webhooks_digest CHECK (length(digest) = 32)
);
CREATE TABLE ledger.webhook_secrets (
    ledger_id  integer     NOT NULL,
    webhook_id bigint      NOT NULL,
    number     integer     NOT NULL,
    secret     text        NOT NULL,
    created_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at timestamptz,
    PRIMARY KEY (ledger_id, webhook_id, number),
    CONSTRAINT webhook_secrets_webhook FOREIGN KEY (ledger_id, webhook_id)
        REFERENCES ledger.webhooks ON DELETE CASCADE
);
CREATE TABLE ledger.webhook_failures (
    ledger_id  integer     NOT NULL,
    webhook_id bigint      NOT NULL,
    event_id   bigint      NOT NULL,
    attempts   integer     NOT NULL,
    failed_at  timestamptz NOT NULL,
    next_at    timestamptz,
    PRIMARY KEY (ledger_id, webhook_id, event_id),
    CONSTRAINT webhook_failures_webhook FOREIGN KEY (ledger_id, webhook_id)
        REFERENCES ledger.webhooks ON DELETE CASCADE
);
CREATE SEQUENCE ledger.webhook_delivery_id;
CREATE TABLE ledger.webhook_deliveries (
    ledger_id    integer     NOT NULL,
    webhook_id   bigint      NOT NULL,
    id           bigint      NOT NULL DEFAULT nextval('ledger.webhook_delivery_id'),
    epoch        integer     NOT NULL,
    event_id     bigint      NOT NULL,
    attempt      integer     NOT NULL,
    attempted_at timestamptz NOT NULL,
    status       smallint,
    error        text,
    duration_ms  integer     NOT NULL,
    PRIMARY KEY (ledger_id, webhook_id, id),
    CONSTRAINT webhook_deliveries_webhook FOREIGN KEY (ledger_id, webhook_id)
        REFERENCES ledger.webhooks ON DELETE CASCADE
);
CREATE INDEX webhook_deliveries_time ON ledger.webhook_deliveries (attempted_at)
"""


def upgrade() -> None:
    """Add the tables. A process of the release before does not use them."""
    op.get_bind().exec_driver_sql(STATEMENTS)


def downgrade() -> None:
    """A ledger is not downgraded."""
    raise NotImplementedError("restore a backup instead")
