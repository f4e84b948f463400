-- The whole ledger. A plain deposit, withdrawal or transfer is written as before; what is more
-- than that has a row in `details`, and by its kind one in `holds`, `policies` or `schedules`.

CREATE SEQUENCE ledger.ledger_id AS integer START 2;
ALTER TABLE ledger.ledgers ALTER COLUMN ledger_id SET DEFAULT nextval('ledger.ledger_id');
ALTER TABLE ledger.ledgers
    ADD CONSTRAINT ledgers_name CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$');
CREATE TRIGGER ledgers_permanent BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.ledgers
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('ledgers are permanent');
ALTER TABLE ledger.ledgers ENABLE ALWAYS TRIGGER ledgers_permanent;

-- An account's policy: decisions keep `available` at or above `floor` and `balance` at or below
-- `ceiling`. restricted is the sum of 1 (frozen for debits), 2 (for credits) and 4 (closed).
-- below_floor is how far available stands below the floor by a forced reversal or a floor that
-- was raised; NULL: it does not.
DROP TRIGGER accounts_derived ON ledger.accounts;
ALTER TABLE ledger.accounts
    DROP CONSTRAINT accounts_status,
    DROP COLUMN status,
    ADD COLUMN ceiling bigint,
    ADD COLUMN below_floor bigint,
    ADD COLUMN restricted smallint NOT NULL DEFAULT 0,
    DROP CONSTRAINT accounts_available_above_floor,
    ADD CONSTRAINT accounts_available_above_floor
        CHECK (balance - held >= least(floor, below_floor)),
    ADD CONSTRAINT accounts_restricted CHECK (restricted BETWEEN 0 AND 7),
    ADD CONSTRAINT accounts_external_has_no_policy
        CHECK (id > 0 OR num_nonnulls(ceiling, below_floor) = 0 AND restricted = 0);
CREATE TRIGGER accounts_derived
    BEFORE UPDATE OF ledger_id, id, balance, held, version, last_recorded_at, created_at,
                     currency_number, exponent, currency, reference, idempotency_key, owner,
                     floor, ceiling, below_floor, restricted
    ON ledger.accounts
    FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0)
    EXECUTE FUNCTION ledger.refuse_change('only the journal moves an account');

CREATE INDEX accounts_restricted ON ledger.accounts (ledger_id, id) WHERE restricted > 0;

-- Signs the cursors of lists, so that nobody makes them up.
CREATE TABLE ledger.secrets (
    name   text PRIMARY KEY,
    secret text NOT NULL
);
INSERT INTO ledger.secrets (name, secret)
VALUES ('cursors', gen_random_uuid()::text || gen_random_uuid()::text);

-- kind: 1 deposit, 2 withdrawal, 3 transfer, 4 general, 5 hold, 6 capture, 7 release, 8 reversal,
-- 9 policy, 10 schedule, 11 cancellation. Above 3 the entries say which accounts take part. What a
-- reversal moves back of an account may be many legs together, each of up to the largest amount.
ALTER TABLE ledger.transactions
    ALTER COLUMN counterparty_id DROP NOT NULL,
    DROP CONSTRAINT transactions_kind,
    DROP CONSTRAINT transactions_two_accounts,
    DROP CONSTRAINT transactions_amount,
    ADD CONSTRAINT transactions_kind CHECK (kind BETWEEN 1 AND 11),
    ADD CONSTRAINT transactions_two_accounts CHECK (
        CASE WHEN kind <= 3 THEN counterparty_id IS NOT NULL AND account_id <> counterparty_id
             ELSE counterparty_id IS NULL END),
    ADD CONSTRAINT transactions_amount CHECK (
        amount BETWEEN CASE WHEN kind IN (8, 9, 11) THEN 0 ELSE 1 END
                   AND CASE WHEN kind = 8 THEN 1000000000000000000 ELSE 1000000000000000 END);
-- What GET /transactions filters by; by account it goes by the entries, and by the last of these.
-- Without the id, equal keys are stored once for a batch; a list sorts each moment's by itself.
CREATE INDEX transactions_time ON ledger.transactions (ledger_id, status, kind, recorded_at);
CREATE INDEX transactions_by_amount ON ledger.transactions (ledger_id, amount, recorded_at);
CREATE INDEX transactions_declined ON ledger.transactions (ledger_id, account_id, recorded_at)
    WHERE status = 2;

-- What a transaction has beyond its row; for those of renderer 2, always. parent_id is what it
-- captures, releases, reverses, executes or cancels; remaining what its hold has left after it;
-- digest is of the request, so that the key with another request is found out. metadata is kept as
-- it was given (json, not jsonb), so that every answer has it in the same bytes.
CREATE TABLE ledger.details (
    ledger_id        integer NOT NULL,
    transaction_id   bigint  NOT NULL,
    parent_id        bigint,
    remaining        bigint,
    deciding_balance bigint,
    effective_at     timestamptz,
    digest           bytea   NOT NULL,
    reference        text,
    description      text,
    metadata         json,
    exchange         json,
    PRIMARY KEY (ledger_id, transaction_id),
    CONSTRAINT details_digest CHECK (length(digest) = 32),
    CONSTRAINT details_reference CHECK (length(reference) BETWEEN 1 AND 255),
    CONSTRAINT details_description CHECK (length(description) BETWEEN 1 AND 1000),
    CONSTRAINT details_metadata CHECK (json_typeof(metadata) = 'object')
);
CREATE INDEX details_parent ON ledger.details (ledger_id, parent_id, transaction_id)
    WHERE parent_id IS NOT NULL;
CREATE INDEX details_reference ON ledger.details (ledger_id, reference, transaction_id)
    WHERE reference IS NOT NULL;
CREATE INDEX details_metadata ON ledger.details USING gin ((metadata::jsonb) jsonb_path_ops)
    WHERE metadata IS NOT NULL;

-- A hold, by the transaction that reserved it. remaining and captured are moved by the entries'
-- trigger; counterparty_id gets what is captured (an external account: it is withdrawn).
CREATE TABLE ledger.holds (
    ledger_id       integer NOT NULL,
    transaction_id  bigint  NOT NULL,
    account_id      bigint  NOT NULL,
    counterparty_id bigint  NOT NULL,
    amount          bigint  NOT NULL,
    remaining       bigint  NOT NULL DEFAULT 0,
    captured        bigint  NOT NULL DEFAULT 0,
    expires_at      timestamptz,
    capture_at      timestamptz,
    PRIMARY KEY (ledger_id, transaction_id),
    CONSTRAINT holds_amount CHECK (amount BETWEEN 1 AND 1000000000000000),
    CONSTRAINT holds_remaining CHECK (remaining >= 0 AND captured >= 0
                                      AND remaining + captured <= amount),
    CONSTRAINT holds_two_accounts CHECK (account_id > 0 AND account_id <> counterparty_id)
);
CREATE INDEX holds_open ON ledger.holds (ledger_id, account_id, expires_at) WHERE remaining > 0;
CREATE INDEX holds_due ON ledger.holds (least(expires_at, capture_at))
    WHERE remaining > 0 AND least(expires_at, capture_at) IS NOT NULL;

-- What an account's policy became with its entry of that seq, by whom and why. lowest: how far
-- below the floor this transaction takes the account, by force.
CREATE TABLE ledger.policies (
    ledger_id      integer  NOT NULL,
    transaction_id bigint   NOT NULL,
    account_id     bigint   NOT NULL,
    seq            bigint   NOT NULL,
    floor          bigint   NOT NULL,
    ceiling        bigint,
    lowest         bigint,
    restricted     smallint NOT NULL,
    actor          text,
    reason         text,
    PRIMARY KEY (ledger_id, account_id, seq),
    CONSTRAINT policies_transaction UNIQUE (ledger_id, transaction_id, account_id),
    CONSTRAINT policies_limits CHECK (abs(floor) <= 1000000000000000000 AND ceiling >= floor),
    CONSTRAINT policies_restricted CHECK (restricted BETWEEN 0 AND 7),
    CONSTRAINT policies_actor CHECK (length(actor) BETWEEN 1 AND 255),
    CONSTRAINT policies_reason CHECK (length(reason) BETWEEN 1 AND 1000)
);

-- A transfer to come, by the transaction that asked for it; settled_by executed or cancelled it.
CREATE TABLE ledger.schedules (
    ledger_id       integer     NOT NULL,
    transaction_id  bigint      NOT NULL,
    account_id      bigint      NOT NULL,
    counterparty_id bigint      NOT NULL,
    amount          bigint      NOT NULL,
    execute_at      timestamptz NOT NULL,
    settled_by      bigint,
    PRIMARY KEY (ledger_id, transaction_id)
);
CREATE INDEX schedules_due ON ledger.schedules (execute_at) WHERE settled_by IS NULL;
CREATE INDEX schedules_account ON ledger.schedules (ledger_id, account_id, execute_at)
    WHERE settled_by IS NULL;

-- The entries of transactions with an effective_at, by it: a balance as effective is the one as
-- recorded, less what was recorded before and takes effect later, plus what is the other way.
CREATE TABLE ledger.dated_entries (
    ledger_id      integer     NOT NULL,
    account_id     bigint      NOT NULL,
    effective_at   timestamptz NOT NULL,
    seq            bigint      NOT NULL,
    transaction_id bigint      NOT NULL,
    amount         bigint      NOT NULL,
    recorded_at    timestamptz NOT NULL,
    PRIMARY KEY (ledger_id, account_id, effective_at, seq)
);

-- Nothing is added to an older transaction.
CREATE FUNCTION ledger.refuse_strays() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off SET cpu_operator_cost = 10 SET jit = off AS $$
DECLARE
    stray bigint;
BEGIN
    SELECT n.transaction_id INTO stray
    FROM new_rows n
    LEFT JOIN LATERAL (
        SELECT id, status, posted_by, recorded_at FROM ledger.transactions
        WHERE ledger_id = n.ledger_id AND id BETWEEN n.transaction_id AND n.transaction_id
        ORDER BY id LIMIT 1) t ON true
    WHERE t.id IS NULL
       OR t.posted_by <> pg_current_xact_id()
       OR t.recorded_at < transaction_timestamp()
       OR t.status <> 1 AND TG_TABLE_NAME <> 'details'
    LIMIT 1;
    IF FOUND THEN
        PERFORM ledger.refuse(TG_NAME, format(
            'transaction %s is missing, declined, or not of this database transaction', stray));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER details_stray AFTER INSERT ON ledger.details
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_strays();
CREATE TRIGGER holds_stray AFTER INSERT ON ledger.holds
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_strays();
CREATE TRIGGER policies_stray AFTER INSERT ON ledger.policies
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_strays();
CREATE TRIGGER schedules_stray AFTER INSERT ON ledger.schedules
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_strays();
CREATE TRIGGER dated_entries_stray AFTER INSERT ON ledger.dated_entries
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_strays();

-- A policy takes effect when it is written. below_floor is let down as far as the batch's entries,
-- which come after it, may need; their trigger takes it back where they did not.
CREATE FUNCTION ledger.apply_policies() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
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
        WHERE a.ledger_id = p.ledger_id AND a.id = p.account_id AND a.id > 0
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
CREATE TRIGGER policies_apply AFTER INSERT ON ledger.policies
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.apply_policies();

-- A schedule is settled once: by its execution, whatever became of that, or its cancellation.
CREATE FUNCTION ledger.settle_schedules() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    stray bigint;
BEGIN
    WITH steps AS (
        SELECT n.ledger_id, n.parent_id, n.transaction_id
        FROM new_rows n JOIN ledger.transactions t
          ON t.ledger_id = n.ledger_id AND t.id = n.transaction_id
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
CREATE TRIGGER details_settle AFTER INSERT ON ledger.details
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.settle_schedules();

CREATE FUNCTION ledger.open_hold() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    NEW.remaining := 0;
    NEW.captured := 0;
    RETURN NEW;
END $$;
CREATE TRIGGER holds_begin_empty BEFORE INSERT ON ledger.holds
    FOR EACH ROW EXECUTE FUNCTION ledger.open_hold();

CREATE TRIGGER details_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.details
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('details are immutable');
CREATE TRIGGER policies_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.policies
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('policies are immutable');
CREATE TRIGGER dated_entries_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.dated_entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('entries are immutable');
CREATE TRIGGER holds_permanent BEFORE DELETE OR TRUNCATE ON ledger.holds
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('holds are permanent');
CREATE TRIGGER holds_derived BEFORE UPDATE ON ledger.holds
    FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0)
    EXECUTE FUNCTION ledger.refuse_change('only the journal moves a hold');
CREATE TRIGGER schedules_permanent BEFORE DELETE OR TRUNCATE ON ledger.schedules
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('schedules are permanent');
CREATE TRIGGER schedules_derived BEFORE UPDATE ON ledger.schedules
    FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0)
    EXECUTE FUNCTION ledger.refuse_change('only the journal settles a schedule');
ALTER TABLE ledger.details ENABLE ALWAYS TRIGGER details_immutable;
ALTER TABLE ledger.policies ENABLE ALWAYS TRIGGER policies_immutable;
ALTER TABLE ledger.dated_entries ENABLE ALWAYS TRIGGER dated_entries_immutable;
ALTER TABLE ledger.holds ENABLE ALWAYS TRIGGER holds_permanent;
ALTER TABLE ledger.schedules ENABLE ALWAYS TRIGGER schedules_permanent;

-- As before (0001 has the reasons), and: a closed account stays empty, an account below its floor
-- goes no lower than below_floor, and a change of `held` is a hold's.
CREATE OR REPLACE FUNCTION ledger.post_entries() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off SET cpu_operator_cost = 10 SET jit = off AS $$
DECLARE
    stray bigint;
BEGIN
    SELECT e.transaction_id INTO stray
    FROM (
        SELECT ledger_id, transaction_id, currency_number, sum(amount) AS total,
               min(recorded_at) AS first_recorded_at, max(recorded_at) AS last_recorded_at
        FROM new_entries
        GROUP BY ledger_id, transaction_id, currency_number
    ) e
    LEFT JOIN LATERAL (
        SELECT id, status, posted_by, recorded_at FROM ledger.transactions
        WHERE ledger_id = e.ledger_id AND id BETWEEN e.transaction_id AND e.transaction_id
        ORDER BY id LIMIT 1) t ON true
    WHERE e.total <> 0
       OR t.id IS NULL
       OR t.status <> 1
       OR t.posted_by <> pg_current_xact_id()
       OR t.recorded_at <> e.first_recorded_at
       OR t.recorded_at <> e.last_recorded_at
       OR t.recorded_at < transaction_timestamp()
    LIMIT 1;
    IF FOUND THEN
        PERFORM ledger.refuse('entries_transaction', format(
            'transaction %s: its entries do not sum to zero, or it is missing, declined, or '
            'not of this database transaction and moment', stray));
    END IF;

    WITH steps AS (
        SELECT ledger_id, account_id, seq, currency_number, amount, held_change, balance, held,
               recorded_at,
               lag(balance) OVER account AS balance_before,
               lag(held) OVER account AS held_before
        FROM new_entries
        WINDOW account AS (PARTITION BY ledger_id, account_id ORDER BY seq)
    ), moves AS MATERIALIZED (
        SELECT ledger_id, account_id,
               min(seq) AS first_seq, max(seq) AS last_seq, count(*) AS entries,
               min(currency_number) AS currency_number,
               max(currency_number) AS other_currency_number,
               min(balance - held) AS lowest_available,
               min(recorded_at) AS first_recorded_at, max(recorded_at) AS last_recorded_at,
               min(balance - amount) FILTER (WHERE balance_before IS NULL) AS balance_before,
               min(held - held_change) FILTER (WHERE held_before IS NULL) AS held_before,
               sum(amount)::bigint AS amount, sum(held_change)::bigint AS held_change,
               coalesce(bool_and(balance = balance_before + amount
                                 AND held = held_before + held_change), true) AS continuous
        FROM steps
        GROUP BY ledger_id, account_id
    ), moved AS (
        UPDATE ledger.accounts a
        SET balance = a.balance + m.amount, held = a.held + m.held_change,
            version = m.last_seq, last_recorded_at = m.last_recorded_at,
            below_floor = CASE WHEN a.balance + m.amount - a.held - m.held_change < a.floor
                               THEN a.below_floor END
        FROM moves m
        WHERE a.ledger_id = m.ledger_id AND a.id = m.account_id
          AND a.currency_number = m.currency_number
          AND a.currency_number = m.other_currency_number
          AND a.version + 1 = m.first_seq
          AND m.last_seq - m.first_seq + 1 = m.entries
          AND a.balance = m.balance_before AND a.held = m.held_before AND m.continuous
          AND (a.floor IS NULL OR m.lowest_available >= least(a.floor, a.below_floor))
          AND (a.restricted < 4 OR a.balance + m.amount = 0 AND a.held + m.held_change = 0)
          AND a.last_recorded_at <= m.first_recorded_at
        RETURNING a.ledger_id, a.id
    )
    SELECT account_id INTO stray FROM (
        SELECT ledger_id, account_id FROM moves EXCEPT SELECT ledger_id, id FROM moved
    ) s LIMIT 1;
    IF FOUND THEN
        PERFORM ledger.refuse('entries_account', format(
            'account %s: its new entries do not continue it (existence, currency, seq, results, '
            'floor, closing and time are checked)', stray));
    END IF;

    IF EXISTS (SELECT FROM new_entries WHERE held_change <> 0) THEN
        WITH steps AS (
            SELECT e.ledger_id, e.account_id, coalesce(d.parent_id, e.transaction_id) AS hold_id,
                   sum(e.held_change)::bigint AS held_change,
                   sum(e.amount) FILTER (WHERE e.held_change < 0)::bigint AS amount
            FROM new_entries e
            LEFT JOIN LATERAL (
                SELECT parent_id FROM ledger.details
                WHERE ledger_id = e.ledger_id AND transaction_id BETWEEN e.transaction_id
                                                                     AND e.transaction_id
                ORDER BY transaction_id LIMIT 1) d ON true
            WHERE e.held_change <> 0
            GROUP BY 1, 2, 3
        ), moved AS (
            UPDATE ledger.holds h
            SET remaining = h.remaining + s.held_change,
                captured = h.captured - coalesce(s.amount, 0)
            FROM steps s
            WHERE h.ledger_id = s.ledger_id AND h.transaction_id = s.hold_id
              AND h.account_id = s.account_id
            RETURNING h.ledger_id, h.transaction_id, h.account_id
        )
        SELECT hold_id INTO stray FROM (
            SELECT ledger_id, hold_id, account_id FROM steps
            EXCEPT SELECT ledger_id, transaction_id, account_id FROM moved
        ) s LIMIT 1;
        IF FOUND THEN
            PERFORM ledger.refuse('entries_hold', format(
                'hold %s does not exist on the account of an entry that changes it', stray));
        END IF;
    END IF;
    RETURN NULL;
END $$;

-- The last seq of an account that was recorded by then, by binary search; 0: none was. Time never
-- runs backwards along an account, so this needs no further index.
CREATE FUNCTION ledger.version_at(ledger integer, account bigint, version bigint, moment timestamptz)
RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off AS $$
DECLARE
    low bigint := 0;
    middle bigint;
BEGIN
    WHILE low < version LOOP
        middle := (low + version + 1) / 2;
        IF (SELECT recorded_at <= moment FROM ledger.entries
            WHERE ledger_id = ledger AND account_id = account AND seq = middle) THEN
            low := middle;
        ELSE
            version := middle - 1;
        END IF;
    END LOOP;
    RETURN low;
END $$;
