-- A table's row is looked up by the one index that has the order that is asked for. Without a sort
-- there is no other plan; with one, an index that happened to be lower when the plan was made, and
-- begins with ledger_id too, was read from end to end for each row, for as long as the plan was kept.
ALTER FUNCTION ledger.post_entries() SET enable_sort = off;
ALTER FUNCTION ledger.refuse_strays() SET enable_sort = off;

-- As before, with their look-ups pinned in this way.
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
          AND s.settled_by IS NULL
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

CREATE OR REPLACE FUNCTION ledger.note_captures() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off SET enable_sort = off AS $$
BEGIN
    UPDATE ledger.holds h SET capture_tried_at = t.recorded_at
    FROM new_rows n
    CROSS JOIN LATERAL (
        SELECT kind, idempotency_key, recorded_at FROM ledger.transactions
        WHERE ledger_id = n.ledger_id AND id BETWEEN n.transaction_id AND n.transaction_id
        ORDER BY id LIMIT 1) t
    WHERE n.parent_id IS NOT NULL AND t.kind = 6
      AND t.idempotency_key = chr(183) || 'capture ' || n.parent_id
      AND h.ledger_id = n.ledger_id AND h.transaction_id = n.parent_id;
    RETURN NULL;
END $$;
