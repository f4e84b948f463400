-- Accounts carry metadata as transactions do. It stands beside them, because each transfer writes
-- an account's row anew.

CREATE TABLE ledger.account_details (
    ledger_id  integer NOT NULL,
    account_id bigint  NOT NULL,
    metadata   json    NOT NULL,
    PRIMARY KEY (ledger_id, account_id),
    CONSTRAINT account_details_metadata CHECK (json_typeof(metadata) = 'object')
);
CREATE INDEX account_details_by_metadata ON ledger.account_details
    USING gin ((metadata::jsonb) jsonb_path_ops);
CREATE FUNCTION ledger.refuse_stray_account_details() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
DECLARE
    stray bigint;
BEGIN
    SELECT n.account_id INTO stray
    FROM new_rows n
    LEFT JOIN ledger.accounts a ON a.ledger_id = n.ledger_id AND a.id = n.account_id
    WHERE a.id IS NULL OR a.id < 0 OR a.version > 0
    LIMIT 1;
    IF FOUND THEN
        PERFORM ledger.refuse(TG_NAME, format(
            'account %s is missing, external, or has been used already', stray));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER account_details_stray AFTER INSERT ON ledger.account_details
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_stray_account_details();
CREATE TRIGGER account_details_immutable BEFORE UPDATE OR DELETE OR TRUNCATE
    ON ledger.account_details
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('account details are immutable');
ALTER TABLE ledger.account_details ENABLE ALWAYS TRIGGER account_details_immutable;

-- What the service is to capture by itself, before it expires, does not expire before that was
-- tried: who was away over both moments finds it as promised. ends_at is when a hold reserves nothing
-- any more; NULL: not by itself, or not yet known.
ALTER TABLE ledger.holds ADD COLUMN capture_tried_at timestamptz;
ALTER TABLE ledger.holds DISABLE TRIGGER holds_derived;
UPDATE ledger.holds h SET capture_tried_at = t.recorded_at
FROM ledger.transactions t
WHERE t.ledger_id = h.ledger_id AND t.account_id = h.account_id
  AND t.idempotency_key = chr(183) || 'capture ' || h.transaction_id;
ALTER TABLE ledger.holds ENABLE TRIGGER holds_derived;
ALTER TABLE ledger.holds ADD COLUMN ends_at timestamptz GENERATED ALWAYS AS (
    CASE WHEN capture_at < expires_at THEN
        CASE WHEN capture_tried_at IS NOT NULL THEN greatest(expires_at, capture_tried_at) END
    ELSE expires_at END) STORED;
DROP INDEX ledger.holds_open, ledger.holds_due;
CREATE INDEX holds_open ON ledger.holds (ledger_id, account_id, ends_at) WHERE remaining > 0;
CREATE INDEX holds_ending ON ledger.holds (ends_at) WHERE remaining > 0 AND ends_at IS NOT NULL;
CREATE INDEX holds_to_capture ON ledger.holds (capture_at)
    WHERE remaining > 0 AND capture_at IS NOT NULL AND capture_tried_at IS NULL;

CREATE FUNCTION ledger.note_captures() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off AS $$
BEGIN
    UPDATE ledger.holds h SET capture_tried_at = t.recorded_at
    FROM new_rows n JOIN ledger.transactions t
      ON t.ledger_id = n.ledger_id AND t.id = n.transaction_id
    WHERE n.parent_id IS NOT NULL AND t.kind = 6
      AND t.idempotency_key = chr(183) || 'capture ' || n.parent_id
      AND h.ledger_id = n.ledger_id AND h.transaction_id = n.parent_id;
    RETURN NULL;
END $$;
CREATE TRIGGER details_captured AFTER INSERT ON ledger.details
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.note_captures();

-- A ledger and a currency that come at the same moment must see each other.
CREATE OR REPLACE FUNCTION ledger.open_external_accounts() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_advisory_xact_lock(2020067);
    INSERT INTO ledger.accounts (ledger_id, id, owner, currency, floor)
    SELECT l.ledger_id, -c.number, 'external', c.code, NULL
    FROM ledger.ledgers l CROSS JOIN ledger.currencies c
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
INSERT INTO ledger.accounts (ledger_id, id, owner, currency, floor)
SELECT l.ledger_id, -c.number, 'external', c.code, NULL
FROM ledger.ledgers l CROSS JOIN ledger.currencies c
ON CONFLICT DO NOTHING;

CREATE INDEX accounts_created ON ledger.accounts (ledger_id, created_at, id);
