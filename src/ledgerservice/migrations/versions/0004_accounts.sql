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
