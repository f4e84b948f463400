-- A single account is found by the key of the table, and nothing else can pass for it. While a
-- ledger was new, another index that begins with ledger_id could, and was read from end to end for
-- each account of a batch, for as long as the plan was kept: 2,000 transfers took 10 s. So all
-- others are partial, and only a statement that asks for what they are limited to can enter them.
DROP INDEX ledger.accounts_owner, ledger.accounts_currency, ledger.accounts_created;
ALTER TABLE ledger.accounts
    DROP CONSTRAINT accounts_reference_key,
    DROP CONSTRAINT accounts_idempotency_key;
CREATE UNIQUE INDEX accounts_reference_key ON ledger.accounts (ledger_id, reference)
    WHERE reference IS NOT NULL;
CREATE UNIQUE INDEX accounts_idempotency_key ON ledger.accounts (ledger_id, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX accounts_owner ON ledger.accounts (ledger_id, owner, id) WHERE id > 0;
CREATE INDEX accounts_currency ON ledger.accounts (ledger_id, currency, id) WHERE id > 0;
CREATE INDEX accounts_created ON ledger.accounts (ledger_id, created_at, id) WHERE id > 0;

-- As before, in words that only the tables' keys answer to: an external account has no floor, and
-- what an index is limited to (id > 0, settled_by IS NULL) is not said.
CREATE OR REPLACE FUNCTION ledger.apply_policies() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off AS $$
DECLARE
    stray bigint;
BEGIN
    WITH latest AS (
        SELECT DISTINCT ON (ledger_id, account_id)
               ledger_id, account_id, floor, ceiling, restricted,
               min(least(floor, lowest)) OVER (PARTITION BY ledger_id, account_id) AS lowest
        FROM new_rows ORDER BY ledger_id, account_id, seq DESC
    ), applied AS (
        UPDATE ledger.accounts a
        SET floor = p.floor, ceiling = p.ceiling, restricted = p.restricted,
            below_floor = least(a.floor, a.below_floor, p.lowest)
        FROM latest p
        WHERE a.ledger_id = p.ledger_id AND a.id = p.account_id AND a.floor IS NOT NULL
        RETURNING a.ledger_id, a.id
    )
    SELECT account_id INTO stray FROM (
        SELECT ledger_id, account_id FROM new_rows EXCEPT SELECT ledger_id, id FROM applied
    ) s LIMIT 1;
    IF FOUND THEN
        PERFORM ledger.refuse(TG_NAME, format('account %s can have no policy', stray));
    END IF;
    RETURN NULL;
END $$;

CREATE OR REPLACE FUNCTION ledger.settle_schedules() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off SET enable_sort = off AS $$
DECLARE
    stray bigint;
BEGIN
    WITH steps AS (
        SELECT n.ledger_id, n.parent_id, n.transaction_id
        FROM new_rows n
        CROSS JOIN LATERAL (
            SELECT kind, status FROM ledger.transactions
            WHERE ledger_id = n.ledger_id AND id BETWEEN n.transaction_id AND n.transaction_id
            ORDER BY id LIMIT 1) t
        WHERE n.parent_id IS NOT NULL AND (t.kind = 3 OR t.kind = 11 AND t.status = 1)
    ), settled AS (
        UPDATE ledger.schedules s SET settled_by = n.transaction_id FROM steps n
        WHERE s.ledger_id = n.ledger_id AND s.transaction_id = n.parent_id
          AND coalesce(s.settled_by, 0) = 0
        RETURNING s.settled_by
    )
    SELECT transaction_id INTO stray FROM (
        SELECT transaction_id FROM steps EXCEPT SELECT settled_by FROM settled
    ) s LIMIT 1;
    IF FOUND THEN
        PERFORM ledger.refuse(TG_NAME, format(
            'transaction %s: its schedule is missing, or settled already', stray));
    END IF;
    RETURN NULL;
END $$;
