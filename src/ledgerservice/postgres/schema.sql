-- The database as it stands: tables, indexes, functions, triggers, each with its reason. A new
-- database runs this file. The name of the schema, "ledger" here, is a setting.
--
-- Amounts are whole minor units of a currency. ledger_id comes first in every key.
-- status: 1 posted, 2 declined.
-- kind: 1 deposit, 2 withdrawal, 3 transfer, 4 general (many legs), 5 hold, 6 capture, 7 release,
--     8 reversal, 9 policy, 10 schedule, 11 cancellation; of a transfer between two parts of a ledger
--     12 the hold, 13 the credit, 14 the debit, 15 the release.
-- origin, who made the request: 0 a caller, 1 the set-up of the database, 2 a caller without a key,
--     3 the service for an expired hold, 4 for a capture, 5 for the execution of a scheduled
--     transfer, 6 to carry on a transfer between two parts of a ledger. Keys of different origins are different keys.
-- principal_id: the principal who made the request; 0 means not known.
-- change_id: the position of a row in the order of changes, out of the sequence of transaction ids.

-- Transaction ids are handed out in blocks of 100, so that a batch takes few values from the
-- sequence. A row that is no transaction takes a whole block for its change_id.
CREATE SEQUENCE ledger.transaction_id INCREMENT BY 100;

-- An id for a row that is no transaction. The database transaction has its own number before it takes
-- an id, as everywhere: the feed waits for older numbers, and would not wait for one that comes later.
CREATE FUNCTION ledger.next_change_id() RETURNS bigint
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM pg_current_xact_id();
    RETURN nextval('ledger.transaction_id');
END $$;

-- Tables.

CREATE SEQUENCE ledger.ledger_id AS integer START 2;
-- A ledger with shards has that many parts, which are ledgers with parent_id and the number part, from
-- 0 on. It has no accounts of its own. Callers cannot name a part.
CREATE TABLE ledger.ledgers (
    ledger_id    integer     PRIMARY KEY DEFAULT nextval('ledger.ledger_id'),
    name         text        NOT NULL UNIQUE,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    change_id    bigint      NOT NULL DEFAULT ledger.next_change_id(),
    principal_id integer     NOT NULL DEFAULT 0,
    origin       smallint    NOT NULL DEFAULT 0,
    shards       smallint,
    parent_id    integer     REFERENCES ledger.ledgers,
    part         smallint,
    CONSTRAINT ledgers_name CHECK (
        name ~ CASE WHEN parent_id IS NULL THEN '^[a-z0-9][a-z0-9_-]{0,62}$'
                    ELSE '^[a-z0-9][a-z0-9_-]{0,62}[.][0-9]+$' END),
    CONSTRAINT ledgers_shards
        CHECK (shards IS NULL OR shards BETWEEN 2 AND 64 AND parent_id IS NULL),
    CONSTRAINT ledgers_part CHECK ((parent_id IS NULL) = (part IS NULL) AND part BETWEEN 0 AND 63),
    CONSTRAINT ledgers_part_key UNIQUE (parent_id, part)
);

-- The keys and references of the accounts of a ledger with parts, and the part that has each of them:
-- without it two parts could have the same one.
CREATE TABLE ledger.claims (
    ledger_id integer  NOT NULL REFERENCES ledger.ledgers,
    name      text     NOT NULL,
    part      smallint NOT NULL,
    PRIMARY KEY (ledger_id, name),
    CONSTRAINT claims_name CHECK (name ~ '^(key|reference) .'),
    CONSTRAINT claims_part CHECK (part BETWEEN 0 AND 63)
);

-- Currencies of ISO 4217 have its numbers, except USD and INR, which have 1 and 2; all others have
-- numbers from 1000 on. A currency is never changed: an amount would mean something else. ledger_id
-- is that of the only ledger that has it, NULL if all have it. Ledgers may have units of the same
-- code, but no ledger sees two.
CREATE SEQUENCE ledger.currency_number AS smallint MINVALUE 1000;
CREATE TABLE ledger.currencies (
    code         text     NOT NULL CHECK (code ~ '^[A-Z][A-Z0-9]{0,15}$'),
    number       smallint NOT NULL UNIQUE DEFAULT nextval('ledger.currency_number')
                          CHECK (number > 0),
    exponent     smallint NOT NULL CHECK (exponent BETWEEN 0 AND 12),
    name         text     NOT NULL,
    change_id    bigint   NOT NULL DEFAULT ledger.next_change_id(),
    principal_id integer  NOT NULL DEFAULT 0,
    origin       smallint NOT NULL DEFAULT 0,
    ledger_id    integer  REFERENCES ledger.ledgers,
    CONSTRAINT currencies_code_key UNIQUE NULLS NOT DISTINCT (code, ledger_id),
    CONSTRAINT currencies_number_code_key UNIQUE (number, code),
    CONSTRAINT currencies_name_length CHECK (length(name) BETWEEN 1 AND 255)
);

-- The id of an external account is the negative number of its currency; the ids of customer
-- accounts come from the sequence. A clearing account stands for what another part of the ledger owes
-- to this one, or has from it: its id is below -32768, and has the number of its currency as remainder
-- by that. It may go beyond the largest balance, because what has arrived must be taken. Number and exponent are copied from the currency, so that a
-- batch reads one table. An external account is part of its ledger's and currency's change.
--
-- Decisions keep available (balance - held) at or above floor, and balance at or below ceiling.
-- below_floor is how far available may stand below the floor after a forced reversal or a raised
-- floor; NULL if it does not. restricted is the sum of 1 (frozen for debits), 2 (frozen for
-- credits) and 4 (closed).
CREATE TABLE ledger.accounts (
    ledger_id        integer     NOT NULL REFERENCES ledger.ledgers,
    id               bigint      NOT NULL GENERATED BY DEFAULT AS IDENTITY
                                 (SEQUENCE NAME ledger.account_id),
    balance          bigint      NOT NULL DEFAULT 0,
    held             bigint      NOT NULL DEFAULT 0,
    version          bigint      NOT NULL DEFAULT 0,
    floor            bigint      DEFAULT 0,
    ceiling          bigint,
    below_floor      bigint,
    change_id        bigint,
    last_recorded_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    created_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    principal_id     integer     NOT NULL DEFAULT 0,
    currency_number  smallint    NOT NULL,
    exponent         smallint    NOT NULL,
    restricted       smallint    NOT NULL DEFAULT 0,
    origin           smallint    NOT NULL DEFAULT 0,
    row_lock         boolean     NOT NULL DEFAULT false,
    currency         text        NOT NULL,
    owner            text        NOT NULL,
    reference        text,
    idempotency_key  text,
    PRIMARY KEY (ledger_id, id),
    CONSTRAINT accounts_currency_fkey FOREIGN KEY (currency_number, currency)
        REFERENCES ledger.currencies (number, code),
    CONSTRAINT accounts_available_above_floor CHECK (balance - held >= least(floor, below_floor)),
    CONSTRAINT accounts_balance_limit
        CHECK (abs(balance) <= 1000000000000000000 OR id < -32768),
    CONSTRAINT accounts_held_not_negative CHECK (held >= 0),
    CONSTRAINT accounts_restricted CHECK (restricted BETWEEN 0 AND 7),
    CONSTRAINT accounts_external_has_no_floor CHECK ((id < 0) = (floor IS NULL) AND id <> 0),
    CONSTRAINT accounts_external_has_no_policy
        CHECK (id > 0 OR num_nonnulls(ceiling, below_floor) = 0 AND restricted = 0),
    CONSTRAINT accounts_external_id CHECK (id > 0 OR mod(-id, 32768) = currency_number),
    CONSTRAINT accounts_external_has_no_change CHECK ((id < 0) = (change_id IS NULL)),
    CONSTRAINT accounts_owner_length CHECK (length(owner) BETWEEN 1 AND 255),
    CONSTRAINT accounts_reference_length CHECK (length(reference) BETWEEN 1 AND 255)
) WITH (fillfactor = 70);
COMMENT ON COLUMN ledger.accounts.row_lock IS
    'Has no meaning: locking a row needs the right to update a column, and this one is harmless.';
-- A single account is found by the key of the table. While a ledger was new, another index that
-- begins with ledger_id could serve instead, and was read from end to end for each account of a
-- batch for as long as the plan was kept: 2,000 transfers took 10 s. So all others are partial, and
-- only a statement with their condition can enter them.
CREATE UNIQUE INDEX accounts_reference_key ON ledger.accounts (ledger_id, reference)
    WHERE reference IS NOT NULL;
CREATE UNIQUE INDEX accounts_idempotency_key ON ledger.accounts (ledger_id, origin, idempotency_key)
    WHERE idempotency_key IS NOT NULL;
CREATE INDEX accounts_owner ON ledger.accounts (ledger_id, owner, id) WHERE id > 0;
CREATE INDEX accounts_currency ON ledger.accounts (ledger_id, currency, id) WHERE id > 0;
CREATE INDEX accounts_created ON ledger.accounts (ledger_id, created_at, id) WHERE id > 0;
CREATE INDEX accounts_change ON ledger.accounts (ledger_id, change_id) WHERE id > 0;
CREATE INDEX accounts_restricted ON ledger.accounts (ledger_id, id) WHERE restricted > 0;

-- Metadata of accounts stands in a table of its own, because each transfer writes an account's row
-- anew.
CREATE TABLE ledger.account_details (
    ledger_id  integer NOT NULL,
    account_id bigint  NOT NULL,
    metadata   json    NOT NULL,
    PRIMARY KEY (ledger_id, account_id),
    CONSTRAINT account_details_metadata CHECK (json_typeof(metadata) = 'object')
);
CREATE INDEX account_details_by_metadata ON ledger.account_details
    USING gin ((metadata::jsonb) jsonb_path_ops);

-- Transactions and entries have no row-level foreign keys: these cost as much as everything else.
-- The trigger on entries checks what they would. Of a posted deposit, withdrawal or transfer the
-- row has both accounts and the seqs of their entries; of the other kinds the entries say which
-- accounts take part. A decline has the state of the account that decided it. A reversal of many
-- legs of one account may exceed the largest amount of a single movement.
CREATE TABLE ledger.transactions (
    ledger_id           integer     NOT NULL,
    kind                smallint    NOT NULL,
    status              smallint    NOT NULL,
    id                  bigint      NOT NULL,
    account_id          bigint      NOT NULL,
    counterparty_id     bigint,
    amount              bigint      NOT NULL,
    recorded_at         timestamptz NOT NULL,
    posted_by           xid8        NOT NULL DEFAULT pg_current_xact_id(),
    account_seq         bigint,
    counterparty_seq    bigint,
    deciding_account_id bigint,
    deciding_version    bigint,
    deciding_available  bigint,
    deciding_balance    bigint,
    principal_id        integer     NOT NULL DEFAULT 0,
    origin              smallint    NOT NULL DEFAULT 0,
    renderer            smallint    NOT NULL,
    has_details         boolean     NOT NULL DEFAULT false,
    idempotency_key     text        NOT NULL,
    decline_reason      text,
    PRIMARY KEY (ledger_id, id),
    CONSTRAINT transactions_idempotency_key
        UNIQUE (ledger_id, account_id, origin, idempotency_key),
    CONSTRAINT transactions_kind CHECK (
        CASE WHEN kind <= 11 THEN kind > 0
             ELSE kind <= 15 AND (kind > 12) = (origin = 6) AND (kind < 14 OR status = 1) END),
    CONSTRAINT transactions_two_accounts CHECK (
        CASE WHEN kind <= 3 THEN counterparty_id IS NOT NULL AND account_id <> counterparty_id
             ELSE counterparty_id IS NULL AND has_details END),
    CONSTRAINT transactions_amount CHECK (
        amount BETWEEN CASE WHEN kind IN (8, 9, 11) THEN 0 ELSE 1 END
                   AND CASE WHEN kind = 8 THEN 1000000000000000000 ELSE 1000000000000000 END),
    CONSTRAINT transactions_decline CHECK (
        CASE status
            WHEN 1 THEN num_nonnulls(decline_reason, deciding_account_id, deciding_version,
                                     deciding_available, deciding_balance) = 0
                        AND num_nonnulls(account_seq, counterparty_seq)
                            = CASE WHEN kind <= 3 THEN 2 ELSE 0 END
            WHEN 2 THEN num_nonnulls(decline_reason, deciding_account_id, deciding_version,
                                     deciding_available, deciding_balance) = 5
                        AND num_nonnulls(account_seq, counterparty_seq) = 0
            ELSE false
        END),
    CONSTRAINT transactions_key_length CHECK (length(idempotency_key) BETWEEN 1 AND 255)
);
COMMENT ON COLUMN ledger.transactions.posted_by IS
    'The database transaction that wrote the row: only the same one can add entries. A restored '
    'database counts them anew, so recorded_at must be of that transaction too.';
-- For lists by filter. By account a list follows the entries, and the last of these for declines.
-- Without the id, equal keys are stored once for a batch; a list sorts those of one time itself.
CREATE INDEX transactions_time ON ledger.transactions (ledger_id, status, kind, recorded_at);
CREATE INDEX transactions_by_amount ON ledger.transactions (ledger_id, amount, recorded_at);
CREATE INDEX transactions_declined ON ledger.transactions (ledger_id, account_id, recorded_at)
    WHERE status = 2;

CREATE TABLE ledger.entries (
    ledger_id       integer     NOT NULL,
    currency_number smallint    NOT NULL,
    account_id      bigint      NOT NULL,
    seq             bigint      NOT NULL,
    transaction_id  bigint      NOT NULL,
    amount          bigint      NOT NULL,
    held_change     bigint      NOT NULL,
    balance         bigint      NOT NULL,
    held            bigint      NOT NULL,
    recorded_at     timestamptz NOT NULL,
    PRIMARY KEY (ledger_id, account_id, seq)
);
CREATE INDEX entries_transaction ON ledger.entries (ledger_id, transaction_id);

-- The side rows of a transaction: its texts, and what builds on what. Plain movements have none.
-- parent_id is the transaction that it captures, releases, reverses, executes or cancels; remaining
-- is what its hold has left after it. digest is an HMAC of the request under salt: it detects a
-- repeated key with another request, and without the salt nobody can guess the texts from it.
-- metadata is kept as it was given (json, not jsonb), so that every answer has the same bytes.
-- request is there if the record does not show what the request said, such as the conditions of
-- legs: an export of the history takes it along, so that a repeat gets its answer in the copy.
CREATE TABLE ledger.details (
    ledger_id        integer NOT NULL,
    transaction_id   bigint  NOT NULL,
    parent_id        bigint,
    remaining        bigint,
    effective_at     timestamptz,
    digest           bytea   NOT NULL,
    salt             bytea,
    reference        text,
    description      text,
    metadata         json,
    exchange         json,
    request          json,
    PRIMARY KEY (ledger_id, transaction_id),
    CONSTRAINT details_digest CHECK (length(digest) = 32),
    CONSTRAINT details_salt CHECK (length(salt) = 16),
    CONSTRAINT details_reference CHECK (length(reference) BETWEEN 1 AND 255),
    CONSTRAINT details_description CHECK (length(description) BETWEEN 1 AND 1000),
    CONSTRAINT details_metadata CHECK (json_typeof(metadata) = 'object')
);
CREATE INDEX details_parent ON ledger.details (ledger_id, parent_id, transaction_id)
    WHERE parent_id IS NOT NULL;
CREATE INDEX details_reference ON ledger.details (ledger_id, reference, transaction_id)
    WHERE reference IS NOT NULL;
CREATE INDEX details_effective ON ledger.details (ledger_id, effective_at, transaction_id)
    WHERE effective_at IS NOT NULL;
CREATE INDEX details_metadata ON ledger.details USING gin ((metadata::jsonb) jsonb_path_ops)
    WHERE metadata IS NOT NULL;

-- A hold, by the transaction that placed it. The trigger on entries moves remaining and captured;
-- counterparty_id gets what is captured (an external account: it is withdrawn). The hold of a transfer
-- to another part of the ledger is for a clearing account, and then for to_account_id of to_ledger_id.
-- ends_at is the time from which the hold reserves nothing; NULL: never by itself, or not yet known.
-- A hold that the service must capture before it expires does not end before that was tried, so that
-- a capture is made as promised even if the service was down over both times.
CREATE TABLE ledger.holds (
    ledger_id        integer NOT NULL,
    transaction_id   bigint  NOT NULL,
    account_id       bigint  NOT NULL,
    counterparty_id  bigint  NOT NULL,
    amount           bigint  NOT NULL,
    remaining        bigint  NOT NULL DEFAULT 0,
    captured         bigint  NOT NULL DEFAULT 0,
    expires_at       timestamptz,
    capture_at       timestamptz,
    capture_tried_at timestamptz,
    ends_at          timestamptz GENERATED ALWAYS AS (
        CASE WHEN capture_at < expires_at THEN
            CASE WHEN capture_tried_at IS NOT NULL THEN greatest(expires_at, capture_tried_at) END
        ELSE expires_at END) STORED,
    to_ledger_id     integer,
    to_account_id    bigint,
    PRIMARY KEY (ledger_id, transaction_id),
    CONSTRAINT holds_amount CHECK (amount BETWEEN 1 AND 1000000000000000),
    CONSTRAINT holds_remaining CHECK (remaining >= 0 AND captured >= 0
                                      AND remaining + captured <= amount),
    CONSTRAINT holds_two_accounts CHECK (account_id > 0 AND account_id <> counterparty_id),
    CONSTRAINT holds_crossing CHECK (
        num_nonnulls(to_ledger_id, to_account_id)
            = CASE WHEN counterparty_id < -32768 THEN 2 ELSE 0 END
        AND (to_ledger_id IS NULL OR num_nonnulls(expires_at, capture_at) = 0))
);
-- Many holds may end at the same time, or never: with the id, a page can end anywhere.
CREATE INDEX holds_open ON ledger.holds (ledger_id, account_id, ends_at, transaction_id)
    WHERE remaining > 0;
CREATE INDEX holds_ending ON ledger.holds (ends_at) WHERE remaining > 0 AND ends_at IS NOT NULL;
CREATE INDEX holds_crossing_open ON ledger.holds (ledger_id, transaction_id)
    WHERE remaining > 0 AND to_ledger_id IS NOT NULL;
CREATE INDEX holds_to_capture ON ledger.holds (capture_at)
    WHERE remaining > 0 AND capture_at IS NOT NULL AND capture_tried_at IS NULL;

-- The policy of an account from its entry seq on, by whom and why. lowest is the available amount
-- after a forced reversal that left it below the floor.
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

-- A scheduled transfer, by the transaction that scheduled it. settled_by executed or cancelled it.
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
CREATE INDEX schedules_account ON ledger.schedules
    (ledger_id, account_id, execute_at, transaction_id) WHERE settled_by IS NULL;

-- The entries of transactions with an effective_at, by it. A balance as effective is the balance as
-- recorded, less what was recorded before and takes effect later, plus the reverse.
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

-- The epochs of the change feed. A row says where the journal was found: on which server and
-- timeline, in which database and table. A start or a reconnect that finds it elsewhere adds a row.
-- The epoch stays the same if nothing was lost, as when a synchronous standby was promoted, and is
-- the next one otherwise: ids are then handed out again, and positions of the epoch before mean
-- nothing beyond compare_from.
CREATE TABLE ledger.epochs (
    epoch             integer     NOT NULL,
    system_identifier bigint      NOT NULL,
    timeline          bigint      NOT NULL,
    database_id       bigint      NOT NULL,
    journal_id        bigint      NOT NULL,
    compare_from      bigint      NOT NULL,
    begun_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (epoch, system_identifier, timeline, database_id, journal_id)
);

-- The audit log: who did what at the service, refusals included. event is unique: what is recorded
-- again after a lost connection is recorded once. source is the address of the client, or the command
-- line. Of refusals that are alike the later ones are counted in repeats. detail is a JSON object.
CREATE TABLE ledger.audit (
    id           bigint      PRIMARY KEY,
    recorded_at  timestamptz NOT NULL,
    event        text        NOT NULL,
    principal_id integer     NOT NULL DEFAULT 0,
    key_id       text,
    source       text        NOT NULL,
    request_id   text,
    action       text        NOT NULL,
    ledger_id    integer,
    subject      text,
    status       smallint    NOT NULL,
    code         text,
    repeats      integer     NOT NULL DEFAULT 1,
    detail       text,
    digest       bytea       NOT NULL,
    CONSTRAINT audit_repeats CHECK (repeats > 0),
    CONSTRAINT audit_detail CHECK (json_typeof(detail::json) = 'object')
);
CREATE UNIQUE INDEX audit_event ON ledger.audit (event);
CREATE INDEX audit_time ON ledger.audit (recorded_at, id);

-- Four eyes. A rule says which requests of a ledger others have to approve, and how many of them; bound
-- is in major units of the currency. A proposal has the bytes of such a request, and the id in its
-- path. scope_id is the account that its key belongs to; digest is the SHA-256 of what is proposed, so
-- that what is sent again is the same proposal. Nobody decides on what they have proposed, except that
-- they may withdraw it. What others have approved is carried out once, in the name of who proposed it:
-- the answer is kept, and transaction_id if something was recorded.
CREATE TABLE ledger.approval_rules (
    ledger_id integer  NOT NULL REFERENCES ledger.ledgers,
    rule      text     NOT NULL,
    currency  text     NOT NULL DEFAULT '',
    bound     text,
    approvals smallint NOT NULL DEFAULT 1,
    PRIMARY KEY (ledger_id, rule, currency),
    CONSTRAINT approval_rules_rule
        CHECK (rule IN ('force', 'close', 'unfreeze', 'floor', 'amount')),
    CONSTRAINT approval_rules_bound
        CHECK ((rule IN ('floor', 'amount')) = (bound IS NOT NULL AND currency <> '')),
    CONSTRAINT approval_rules_approvals CHECK (approvals BETWEEN 1 AND 9)
);
CREATE SEQUENCE ledger.proposal_id;
CREATE TABLE ledger.proposals (
    ledger_id       integer     NOT NULL REFERENCES ledger.ledgers,
    id              bigint      NOT NULL DEFAULT nextval('ledger.proposal_id'),
    proposed_by     integer     NOT NULL,
    proposed_at     timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at      timestamptz NOT NULL,
    rule            text        NOT NULL,
    approvals       smallint    NOT NULL,
    operation       text        NOT NULL,
    parent_id       bigint,
    scope_id        bigint      NOT NULL,
    idempotency_key text        NOT NULL,
    body            bytea       NOT NULL,
    digest          bytea       NOT NULL,
    PRIMARY KEY (ledger_id, id),
    CONSTRAINT proposals_key UNIQUE (ledger_id, scope_id, idempotency_key),
    CONSTRAINT proposals_proposer UNIQUE (ledger_id, id, proposed_by),
    CONSTRAINT proposals_by_somebody CHECK (proposed_by > 0),
    CONSTRAINT proposals_approvals CHECK (approvals BETWEEN 1 AND 9),
    CONSTRAINT proposals_digest CHECK (length(digest) = 32)
);
CREATE TABLE ledger.decisions (
    ledger_id   integer     NOT NULL,
    proposal_id bigint      NOT NULL,
    proposed_by integer     NOT NULL,
    decided_by  integer     NOT NULL,
    verdict     text        NOT NULL,
    reason      text        NOT NULL,
    decided_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (ledger_id, proposal_id, decided_by),
    CONSTRAINT decisions_proposal FOREIGN KEY (ledger_id, proposal_id, proposed_by)
        REFERENCES ledger.proposals (ledger_id, id, proposed_by),
    CONSTRAINT decisions_verdict CHECK (verdict IN ('approve', 'reject', 'withdraw')),
    CONSTRAINT decisions_by_another
        CHECK ((decided_by = proposed_by) = (verdict = 'withdraw') AND decided_by > 0),
    CONSTRAINT decisions_reason CHECK (length(reason) BETWEEN 1 AND 255)
);
CREATE TABLE ledger.executions (
    ledger_id      integer     NOT NULL,
    proposal_id    bigint      NOT NULL,
    executed_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    status         smallint,
    transaction_id bigint,
    answer         bytea,
    PRIMARY KEY (ledger_id, proposal_id),
    CONSTRAINT executions_proposal FOREIGN KEY (ledger_id, proposal_id)
        REFERENCES ledger.proposals (ledger_id, id)
);
-- What has all its approvals, and was not carried out yet: the few proposals that are looked for
-- every second. Triggers keep it.
CREATE TABLE ledger.executions_due (
    ledger_id   integer     NOT NULL,
    proposal_id bigint      NOT NULL,
    approved_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    PRIMARY KEY (ledger_id, proposal_id)
);

-- Signs the cursors of lists, so that nobody can make one up.
CREATE TABLE ledger.secrets (
    name   text PRIMARY KEY,
    secret text NOT NULL
);

-- Webhooks: endpoints that get the events of a ledger. types are separated by commas; NULL means all.
-- position is the id of the last event that was delivered, or that stands in webhook_failures, and
-- digest the SHA-256 of its body. dead_letters counts since the endpoint was last activated. Every
-- change by a caller raises revision; a process that delivers writes only at the revision it read.
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

-- What requests are signed with: whsec_ (HMAC) or whsk_ (Ed25519). They are kept as they are, because
-- a signature needs them; whoever can read this table can read the ledger too. NULL does not expire.
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

-- Events that an endpoint did not take: tried again at next_at; NULL is a dead letter.
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

-- The log of attempts, kept for some days. error is a class of errors; NULL if there was an answer.
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
CREATE INDEX webhook_deliveries_time ON ledger.webhook_deliveries (attempted_at);

-- Who may use the service: principals (services and people) and their keys. Only the owner of the
-- schema writes these tables, so that a fault of the service cannot make a key. While there is no key
-- at all, the service is open to the machine that it runs on.
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

-- Of a key only the SHA-256 is kept: its secret has 256 random bits, which nobody can guess. A key is
-- valid for a year at most; the further day is for a leap year. With a subject it is a certificate of a
-- client, by one of its names, and the digest is no key's. With a public key (Ed25519) it is valid in
-- requests only that this key has signed. Its limits hold in each process; where one is NULL the default
-- of the settings holds, and 0 is no limit.
CREATE TABLE ledger.api_keys (
    id           text        PRIMARY KEY,
    principal_id integer     NOT NULL REFERENCES ledger.principals,
    digest       bytea       NOT NULL UNIQUE,
    created_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    not_before   timestamptz NOT NULL DEFAULT clock_timestamp(),
    expires_at   timestamptz NOT NULL,
    revoked_at   timestamptz,
    subject      text,
    public_key   bytea,
    rate         double precision,
    burst        integer,
    queue_share  double precision,
    streams      integer,
    body_bytes_s bigint,
    CONSTRAINT api_keys_id CHECK (id ~ '^[a-z0-9]{12}$'),
    CONSTRAINT api_keys_digest CHECK (length(digest) = 32),
    CONSTRAINT api_keys_expiry CHECK (expires_at > not_before
                                      AND expires_at <= created_at + interval '8784 hours'),
    CONSTRAINT api_keys_public_key CHECK (length(public_key) = 32),
    CONSTRAINT api_keys_limits CHECK (rate >= 0 AND rate < 'infinity' AND burst >= 0
                                      AND queue_share >= 0 AND queue_share <= 1
                                      AND streams >= 0 AND body_bytes_s >= 0)
);
CREATE UNIQUE INDEX api_keys_subject ON ledger.api_keys (subject) WHERE revoked_at IS NULL;

-- What a principal may do on a ledger; NULL means all ledgers. scopes is a sum of bits, which
-- access/scopes.py names.
CREATE SEQUENCE ledger.grant_id;
CREATE TABLE ledger.grants (
    id           bigint  PRIMARY KEY DEFAULT nextval('ledger.grant_id'),
    principal_id integer NOT NULL REFERENCES ledger.principals,
    ledger_id    integer REFERENCES ledger.ledgers,
    scopes       bigint  NOT NULL,
    CONSTRAINT grants_scopes CHECK (scopes > 0)
);
CREATE INDEX grants_principal ON ledger.grants (principal_id);

-- What a principal may do with some accounts of a ledger: these accounts and all of an owner, if there
-- is one, are shown, and money is moved out of those of debit_from and into those of credit_to (NULL:
-- those that are shown), at most max_amounts, the texts of amounts by currency, at a time. They are not
-- in the table of grants, so that a process that does not know them gives nothing for them.
CREATE TABLE ledger.account_grants (
    id           bigint   PRIMARY KEY DEFAULT nextval('ledger.grant_id'),
    principal_id integer  NOT NULL REFERENCES ledger.principals,
    ledger_id    integer  NOT NULL REFERENCES ledger.ledgers,
    scopes       bigint   NOT NULL,
    owner        text,
    accounts     bigint[] NOT NULL,
    debit_from   bigint[],
    credit_to    bigint[],
    max_amounts  json,
    CONSTRAINT account_grants_scopes CHECK (scopes > 0),
    CONSTRAINT account_grants_max_amounts CHECK (json_typeof(max_amounts) = 'object')
);
CREATE INDEX account_grants_principal ON ledger.account_grants (principal_id);

-- People whose tokens an OpenID provider has signed. The service adds them, and nothing here gives a
-- right: what they may do is in their tokens. Ids are those of principals, so that one number names one
-- of both.
CREATE TABLE ledger.oidc_principals (
    id         integer     PRIMARY KEY DEFAULT nextval('ledger.principal_id'),
    issuer     text        NOT NULL,
    subject    text        NOT NULL,
    first_seen timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT oidc_principals_id CHECK (id > 0),
    CONSTRAINT oidc_principals_subject CHECK (length(subject) BETWEEN 1 AND 255)
);
CREATE UNIQUE INDEX oidc_principals_person ON ledger.oidc_principals (issuer, subject);

-- The days on which a key was used. The service writes a row at most once a day and key.
CREATE TABLE ledger.key_uses (
    key_id text NOT NULL REFERENCES ledger.api_keys,
    day    date NOT NULL,
    PRIMARY KEY (key_id, day)
);

-- Shards: databases with this schema that have some of the ledgers. The database of DATABASE_URL is the
-- shard main and the directory: it has shards, homes and chunks, and all ledgers with their rights. A
-- ledger without a row in homes is on main. number is the order in which shards were added.
CREATE TABLE ledger.shards (
    name     text        PRIMARY KEY,
    number   smallint    NOT NULL UNIQUE,
    added_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT shards_name CHECK (name ~ '^[a-z0-9][a-z0-9_-]{0,62}$'),
    CONSTRAINT shards_main CHECK ((name = 'main') = (number = 0) AND number >= 0)
);

-- Where a ledger is. Each move raises generation; while a ledger moves, it is still on shard.
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

-- Which shard of which directory a database is, so that one that was named wrongly is not used.
CREATE TABLE ledger.identity (
    directory uuid NOT NULL,
    shard     text NOT NULL
);
CREATE UNIQUE INDEX identity_one ON ledger.identity ((true));

-- Ids are unique over shards. A chunk has the 2^36 ids from number * 2^36 on of a sequence, and belongs
-- to one shard for ever. Numbers rise with time, so that ids rise along a ledger that was moved too.
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

-- On a shard: ledgers that are on their way to it (removing: a copy of before is removed; then arriving) or
-- away from it (leaving), or have left it.
-- While a ledger's state is not home, triggers refuse what is written to it: see set_fences. generation
-- is that of the last step of a move here; a step of an older one is refused.
CREATE TABLE ledger.fences (
    ledger_id  integer PRIMARY KEY REFERENCES ledger.ledgers,
    generation integer NOT NULL,
    state      text    NOT NULL,
    CONSTRAINT fences_state
        CHECK (state IN ('arriving', 'home', 'leaving', 'left', 'removing'))
);

-- On a shard: the ids of a ledger above after_id, up to last_id, have come from another one, and are not
-- published here. epoch is that of the other one: a position of it up to last_id is valid here.
CREATE TABLE ledger.arrivals (
    ledger_id integer NOT NULL REFERENCES ledger.ledgers,
    after_id  bigint  NOT NULL,
    last_id   bigint  NOT NULL,
    epoch     integer NOT NULL,
    PRIMARY KEY (ledger_id, last_id)
);

-- Functions and triggers.
--
-- Plans are pinned by the SET clauses. A plan that was made while the tables were small, or for
-- another size of batch, stays in the connection's cache and would be ruinous. Every table is to be
-- entered by its key, once a row. The high cpu_operator_cost makes any other join order the dearer
-- one. An ORDER BY that only the right index can fulfil decides between indexes that look alike
-- while a table is small; without a sort there is no other plan.

-- A refusal by the database: ERRCODE 23514 (check_violation), as of a CHECK.
CREATE FUNCTION ledger.refuse(guard text, message text) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RAISE EXCEPTION USING ERRCODE = 'check_violation', CONSTRAINT = guard, MESSAGE = message;
END $$;

-- A trigger function refuses every table but its own. PostgreSQL checks the right to execute it only
-- at CREATE TRIGGER, and every role may create temporary tables: on one of those, a function that
-- runs with its owner's rights would write whatever it writes. Each compares TG_RELID itself: a
-- function call took 6 us more.
CREATE FUNCTION ledger.refuse_table(trigger_name text, relation oid) RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    PERFORM ledger.refuse(trigger_name, format('the function is not for table %s',
        relation::regclass));
END $$;

-- Loading: a ledger that moves to this database comes in row by row as it was elsewhere. While its state
-- in fences is arriving or removing, only the owner of the schema can write its rows (refuse_fenced), in a session
-- that names the ledger in the setting ledgerservice.loading. The other triggers let such rows pass. They
-- look only after a cheaper test has shown that a row is not one of the service's.
CREATE FUNCTION ledger.is_loading(ledger integer) RETURNS boolean
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    RETURN ledger::text = current_setting('ledgerservice.loading', true)
        AND EXISTS (SELECT FROM ledger.fences WHERE ledger_id = ledger
                    AND state IN ('arriving', 'removing'));
END $$;

-- What a fence does: LM001 is its own SQLSTATE. A copy may be removed while its ledger arrives. It runs with
-- the rights of whoever writes.
CREATE FUNCTION ledger.refuse_fenced() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    fenced integer := coalesce(NEW.ledger_id, OLD.ledger_id);
BEGIN
    IF fenced::text = current_setting('ledgerservice.loading', true)
       AND pg_has_role(current_user, (SELECT relowner FROM pg_class WHERE oid = TG_RELID), 'USAGE')
       AND ledger.is_loading(fenced) THEN
        RETURN NULL;
    END IF;
    RAISE EXCEPTION USING ERRCODE = 'LM001', CONSTRAINT = 'ledger_fenced',
        MESSAGE = format('ledger %s is moving to another database, or has moved', fenced);
END $$;

-- The triggers that there must be for the rows of fences. definition is NULL where there must be none, as
-- everywhere while no ledger moves, so that a fence costs nothing then. While a ledger leaves, nothing is
-- recorded in it; its webhooks are still delivered. They fire AFTER, because COPY puts rows in one by one where
-- a trigger fires BEFORE each. External accounts are opened everywhere, and the
-- directory has the units of all ledgers, so those are not refused.
CREATE FUNCTION ledger.fence_triggers()
RETURNS TABLE (relation regclass, name text, definition text)
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    WITH fenced AS (
        SELECT f.relation, f.operation, f.condition,
               (SELECT '{' || string_agg(ledger_id::text, ',' ORDER BY ledger_id) || '}'
                FROM ledger.fences WHERE state = ANY (f.states)) AS ledgers
        FROM (
            VALUES
            ('ledger.transactions'::regclass, 'INSERT', '{arriving,removing,leaving,left}'::text[],
             '(new.ledger_id = ANY (%L::integer[]))'),
            ('ledger.accounts', 'INSERT', '{arriving,removing,leaving,left}',
             '((new.ledger_id = ANY (%L::integer[])) AND (new.id > 0))'),
            ('ledger.currencies', 'INSERT', '{arriving,removing,leaving}',
             '(new.ledger_id = ANY (%L::integer[]))'),
            ('ledger.webhooks', 'INSERT', '{arriving,removing,left}', '(new.ledger_id = ANY (%L::integer[]))'),
            ('ledger.webhooks', 'UPDATE', '{arriving,removing,left}', '(new.ledger_id = ANY (%L::integer[]))'),
            ('ledger.webhooks', 'DELETE', '{arriving,removing,left}', '(old.ledger_id = ANY (%L::integer[]))'),
            ('ledger.webhook_secrets', 'INSERT', '{arriving,removing,left}',
             '(new.ledger_id = ANY (%L::integer[]))')
            UNION ALL
            SELECT 'ledger.entries'::regclass, 'INSERT', '{arriving,removing}',
                   '(new.ledger_id = ANY (%L::integer[]))'
            UNION ALL
            SELECT side, 'INSERT', '{arriving,removing}', '(new.ledger_id = ANY (%L::integer[]))'
            FROM unnest(ARRAY['ledger.details'::regclass, 'ledger.dated_entries'::regclass,
                              'ledger.holds'::regclass, 'ledger.policies'::regclass,
                              'ledger.schedules'::regclass,
                              'ledger.account_details'::regclass]) AS side
            UNION ALL
            SELECT kept, 'DELETE', '{arriving,removing}', NULL
            FROM unnest(ARRAY['ledger.transactions'::regclass, 'ledger.entries'::regclass,
                              'ledger.details'::regclass, 'ledger.dated_entries'::regclass,
                              'ledger.holds'::regclass, 'ledger.policies'::regclass,
                              'ledger.schedules'::regclass, 'ledger.accounts'::regclass,
                              'ledger.account_details'::regclass]) AS kept
        ) AS f (relation, operation, states, condition)
    )
    SELECT f.relation, 'fenced_' || lower(f.operation), CASE WHEN f.ledgers IS NOT NULL THEN
        format('CREATE TRIGGER fenced_%s AFTER %s ON %s FOR EACH ROW %sEXECUTE FUNCTION %s()',
               lower(f.operation), f.operation, f.relation,
               coalesce('WHEN (' || format(f.condition, f.ledgers) || ') ', ''),
               'ledger.refuse_fenced'::regproc) END
    FROM fenced f
$$;

-- Make the triggers what fences says. CREATE TRIGGER waits for whoever writes to the table, so nothing
-- older is in flight when a fence is there. Triggers that are right are not touched. To drop one would wait
-- for whoever reads, such as a backup: it is then disabled instead, and dropped another time. Two that set fences at
-- the same time would each leave out what the other one has added.
CREATE FUNCTION ledger.set_fences() RETURNS void
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    fence record;
BEGIN
    PERFORM pg_advisory_xact_lock(2020084);
    FOR fence IN
        SELECT f.relation, f.name, f.definition
        FROM ledger.fence_triggers() f
        LEFT JOIN pg_trigger t ON t.tgrelid = f.relation AND t.tgname = f.name
        WHERE pg_get_triggerdef(t.oid) IS DISTINCT FROM f.definition OR t.tgenabled <> 'A'
        ORDER BY f.relation <> 'ledger.transactions'::regclass, f.relation, f.name
    LOOP
        IF fence.definition IS NULL THEN
            BEGIN
                EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE NOWAIT', fence.relation);
                EXECUTE format('DROP TRIGGER %I ON %s', fence.name, fence.relation);
            EXCEPTION WHEN lock_not_available THEN
                EXECUTE format('ALTER TABLE %s DISABLE TRIGGER %I', fence.relation, fence.name);
            END;
        ELSE
            EXECUTE replace(fence.definition, 'CREATE TRIGGER', 'CREATE OR REPLACE TRIGGER');
            EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', fence.relation, fence.name);
        END IF;
    END LOOP;
END $$;

-- Opening an account sets everything that is derived, whatever the statement says. The service cannot
-- give a currency's number.
CREATE FUNCTION ledger.open_account() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    own ledger.ledgers;
    parts integer;
BEGIN
    IF TG_RELID <> 'ledger.accounts'::regclass THEN
        PERFORM ledger.refuse_table(TG_NAME, TG_RELID);
    END IF;
    IF NEW.currency_number IS NOT NULL AND ledger.is_loading(NEW.ledger_id) THEN
        RETURN NEW;
    END IF;
    SELECT c.number, c.exponent INTO NEW.currency_number, NEW.exponent
    FROM ledger.currencies c
    WHERE c.code = NEW.currency AND (c.ledger_id IS NULL OR c.ledger_id = NEW.ledger_id);
    IF NOT FOUND THEN
        PERFORM ledger.refuse('accounts_currency', format('no currency %s', NEW.currency));
    END IF;
    -- Of a part: the next id whose remainder is the number of the part.
    SELECT * INTO own FROM ledger.ledgers WHERE ledger_id = NEW.ledger_id;
    IF NEW.id > 0 AND own.shards IS NOT NULL THEN
        PERFORM ledger.refuse('accounts_part', format(
            'ledger %s has parts, and no accounts of its own', NEW.ledger_id));
    ELSIF NEW.id > 0 AND own.part IS NOT NULL THEN
        SELECT shards INTO parts FROM ledger.ledgers WHERE ledger_id = own.parent_id;
        WHILE NEW.id % parts <> own.part LOOP
            NEW.id := nextval('ledger.account_id');
        END LOOP;
    END IF;
    NEW.balance := 0;
    NEW.held := 0;
    NEW.version := 0;
    NEW.change_id := CASE WHEN NEW.id > 0 THEN ledger.next_change_id() END;
    NEW.created_at := clock_timestamp();
    NEW.last_recorded_at := NEW.created_at;
    RETURN NEW;
END $$;
CREATE TRIGGER accounts_open BEFORE INSERT ON ledger.accounts
    FOR EACH ROW EXECUTE FUNCTION ledger.open_account();

-- Every ledger has an external account for each of its currencies, as soon as both exist. Only the
-- new rows are combined: the hundredth ledger took 0.2 s when all were. The lock lets a ledger and a
-- currency that are added at the same time see each other. A currency of all ledgers and a unit of
-- one that has the same code cannot both be added; whoever comes second may try again, and finds it.
CREATE FUNCTION ledger.open_external_accounts() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_RELID NOT IN ('ledger.currencies'::regclass, 'ledger.ledgers'::regclass) THEN
        PERFORM ledger.refuse_table(TG_NAME, TG_RELID);
    END IF;
    PERFORM pg_advisory_xact_lock(2020067);
    IF TG_TABLE_NAME = 'ledgers' THEN
        INSERT INTO ledger.accounts (ledger_id, id, owner, currency, floor)
        SELECT l.ledger_id, -c.number, 'external', c.code, NULL
        FROM new_rows l CROSS JOIN ledger.currencies c
        WHERE c.ledger_id IS NULL
        ON CONFLICT DO NOTHING;
    ELSE
        IF EXISTS (SELECT FROM new_rows n JOIN ledger.currencies c ON c.code = n.code
                   WHERE (c.ledger_id IS NULL) <> (n.ledger_id IS NULL)) THEN
            RAISE EXCEPTION USING ERRCODE = 'serialization_failure',
                CONSTRAINT = 'currencies_code_key',
                MESSAGE = 'another ledger, or all ledgers, have a currency of this code';
        END IF;
        INSERT INTO ledger.accounts (ledger_id, id, owner, currency, floor)
        SELECT l.ledger_id, -c.number, 'external', c.code, NULL
        FROM ledger.ledgers l JOIN new_rows c ON c.ledger_id IS NULL OR c.ledger_id = l.ledger_id
        ON CONFLICT DO NOTHING;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER ledgers_external AFTER INSERT ON ledger.ledgers
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.open_external_accounts();
CREATE TRIGGER currencies_external AFTER INSERT ON ledger.currencies
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.open_external_accounts();

-- Opens the clearing accounts that do not exist yet. The service calls it in the database transaction
-- of a batch that needs them, before it locks.
CREATE FUNCTION ledger.open_clearing(ledger integer, ids bigint[]) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET jit = off AS $$
BEGIN
    IF EXISTS (SELECT FROM unnest(ids) AS id WHERE id >= -32768)
       OR NOT EXISTS (SELECT FROM ledger.ledgers l WHERE l.ledger_id = ledger AND part IS NOT NULL) THEN
        PERFORM ledger.refuse('accounts_clearing', format(
            'ledger %s is no part of another, or %s are no clearing accounts', ledger, ids));
    END IF;
    INSERT INTO ledger.accounts (ledger_id, id, owner, currency, floor)
    SELECT ledger, i.id, 'clearing', c.code, NULL
    FROM unnest(ids) AS i (id) JOIN ledger.currencies c ON c.number = -i.id % 32768
    WHERE NOT EXISTS (SELECT FROM ledger.accounts a WHERE a.ledger_id = ledger AND a.id = i.id)
    ORDER BY i.id
    ON CONFLICT DO NOTHING;
END $$;

-- The only way that a balance moves. It runs once a statement, over all entries that the statement
-- added, COPY included.
CREATE FUNCTION ledger.post_entries() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off SET enable_sort = off SET cpu_operator_cost = 10 SET jit = off AS $$
DECLARE
    stray bigint;
    missing bigint;
BEGIN
    IF TG_RELID <> 'ledger.entries'::regclass THEN
        PERFORM ledger.refuse_table(TG_NAME, TG_RELID);
    END IF;
    -- 1. The entries of a transaction sum to zero in each currency, and belong to a transaction that
    --    was posted by this database transaction. A plain movement's two entries are the ones that
    --    its row names.
    SELECT e.transaction_id INTO stray
    FROM (
        SELECT ledger_id, transaction_id, currency_number, sum(amount) AS total,
               count(*) AS entries,
               min(recorded_at) AS first_recorded_at, max(recorded_at) AS last_recorded_at,
               min(account_id) FILTER (WHERE amount > 0) AS credited_id,
               min(account_id) FILTER (WHERE amount < 0) AS debited_id,
               min(seq) FILTER (WHERE amount > 0) AS credited_seq,
               min(seq) FILTER (WHERE amount < 0) AS debited_seq
        FROM new_entries
        GROUP BY ledger_id, transaction_id, currency_number
    ) e
    LEFT JOIN LATERAL (
        SELECT id, status, kind, posted_by, recorded_at, account_id, counterparty_id, account_seq,
               counterparty_seq
        FROM ledger.transactions
        WHERE ledger_id = e.ledger_id AND id BETWEEN e.transaction_id AND e.transaction_id
        ORDER BY id LIMIT 1) t ON true
    WHERE e.total <> 0
       OR t.id IS NULL
       OR t.status <> 1
       OR t.posted_by <> pg_current_xact_id()
       OR t.recorded_at <> e.first_recorded_at
       OR t.recorded_at <> e.last_recorded_at
       OR t.recorded_at < transaction_timestamp()
       OR t.kind <= 3 AND (
              e.entries = 2
              AND CASE WHEN t.kind = 1
                       THEN e.credited_id = t.account_id AND e.credited_seq = t.account_seq
                            AND e.debited_id = t.counterparty_id
                            AND e.debited_seq = t.counterparty_seq
                       ELSE e.debited_id = t.account_id AND e.debited_seq = t.account_seq
                            AND e.credited_id = t.counterparty_id
                            AND e.credited_seq = t.counterparty_seq END) IS NOT TRUE
    LIMIT 1;
    IF FOUND THEN
        IF (SELECT bool_and(ledger.is_loading(n.ledger_id))
            FROM (SELECT DISTINCT ledger_id FROM new_entries) n) THEN
            RETURN NULL;
        END IF;
        PERFORM ledger.refuse('entries_transaction', format(
            'transaction %s: its entries do not sum to zero or are not those that it names, or it '
            'is missing, declined, or not of this database transaction and time', stray));
    END IF;

    -- 2. The entries of an account continue it: its currency, its version, each result its
    --    predecessor's plus the amount, never below the floor, and time never backwards.
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
        RETURNING a.id
    )
    SELECT (SELECT count(*) FROM moves) - (SELECT count(*) FROM moved) INTO missing;
    IF missing <> 0 THEN
        SELECT e.account_id INTO stray
        FROM (SELECT ledger_id, account_id, max(seq) AS last_seq
              FROM new_entries GROUP BY ledger_id, account_id) e
        LEFT JOIN ledger.accounts a ON a.ledger_id = e.ledger_id AND a.id = e.account_id
        WHERE a.version IS DISTINCT FROM e.last_seq
        LIMIT 1;
        PERFORM ledger.refuse('entries_account', format(
            'account %s: its new entries do not continue it (existence, currency, seq, results, '
            'floor, closing and time are checked)', stray));
    END IF;

    -- 3. A change of held belongs to a hold of the account; only the transaction that places a hold
    --    adds to it. That of a transfer between two parts of a ledger ends at once, by a debit or a
    --    release of the service.
    IF EXISTS (SELECT FROM new_entries WHERE held_change <> 0) THEN
        WITH steps AS MATERIALIZED (
            SELECT e.ledger_id, e.account_id, coalesce(d.parent_id, e.transaction_id) AS hold_id,
                   sum(e.held_change)::bigint AS held_change,
                   coalesce(sum(e.amount) FILTER (WHERE e.held_change < 0), 0)::bigint AS amount,
                   max(e.transaction_id) AS last_id, count(*) AS steps
            FROM new_entries e
            LEFT JOIN LATERAL (
                SELECT parent_id FROM ledger.details
                WHERE ledger_id = e.ledger_id AND transaction_id BETWEEN e.transaction_id
                                                                     AND e.transaction_id
                  AND e.held_change < 0
                ORDER BY transaction_id LIMIT 1) d ON true
            WHERE e.held_change <> 0
            GROUP BY 1, 2, 3
        ), moved AS (
            UPDATE ledger.holds h
            SET remaining = h.remaining + s.held_change, captured = h.captured - s.amount
            FROM steps s
            WHERE h.ledger_id = s.ledger_id AND h.transaction_id = s.hold_id
              AND h.account_id = s.account_id
              AND (h.to_ledger_id IS NULL OR s.steps = 1
                   AND h.remaining + s.held_change IN (0, h.amount)
                   AND (SELECT kind FROM ledger.transactions
                        WHERE ledger_id = s.ledger_id AND id BETWEEN s.last_id AND s.last_id
                        ORDER BY id LIMIT 1) IN (12, 14, 15))
            RETURNING h.ledger_id, h.account_id, h.transaction_id
        )
        SELECT hold_id INTO stray
        FROM (SELECT ledger_id, account_id, hold_id FROM steps
              EXCEPT SELECT ledger_id, account_id, transaction_id FROM moved) unmoved LIMIT 1;
        IF FOUND THEN
            PERFORM ledger.refuse('entries_hold', format(
                'hold %s does not exist on the account of an entry that changes it, or only the '
                'service may end it', stray));
        END IF;
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER entries_post AFTER INSERT ON ledger.entries
    REFERENCING NEW TABLE AS new_entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.post_entries();

-- Side rows belong to a transaction of this database transaction. Only details may belong to a
-- decline.
CREATE FUNCTION ledger.refuse_strays() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off SET enable_sort = off SET cpu_operator_cost = 10 SET jit = off AS $$
DECLARE
    stray bigint;
BEGIN
    IF TG_RELID NOT IN ('ledger.dated_entries'::regclass, 'ledger.details'::regclass,
                        'ledger.holds'::regclass, 'ledger.policies'::regclass,
                        'ledger.schedules'::regclass) THEN
        PERFORM ledger.refuse_table(TG_NAME, TG_RELID);
    END IF;
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
        IF (SELECT bool_and(ledger.is_loading(n.ledger_id))
            FROM (SELECT DISTINCT ledger_id FROM new_rows) n) THEN
            RETURN NULL;
        END IF;
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

-- Account details belong to a customer account that was not used yet.
CREATE FUNCTION ledger.refuse_stray_account_details() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off SET jit = off AS $$
DECLARE
    stray bigint;
BEGIN
    IF TG_RELID <> 'ledger.account_details'::regclass THEN
        PERFORM ledger.refuse_table(TG_NAME, TG_RELID);
    END IF;
    SELECT n.account_id INTO stray
    FROM new_rows n
    LEFT JOIN ledger.accounts a ON a.ledger_id = n.ledger_id AND a.id = n.account_id
    WHERE a.id IS NULL OR a.id < 0 OR a.version > 0
    LIMIT 1;
    IF FOUND THEN
        IF (SELECT bool_and(ledger.is_loading(n.ledger_id))
            FROM (SELECT DISTINCT ledger_id FROM new_rows) n) THEN
            RETURN NULL;
        END IF;
        PERFORM ledger.refuse(TG_NAME, format(
            'account %s is missing, external, or has been used already', stray));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER account_details_stray AFTER INSERT ON ledger.account_details
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_stray_account_details();

-- A dated entry repeats an entry that exists, of a transaction with that effective_at.
CREATE FUNCTION ledger.refuse_stray_dates() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_hashjoin = off SET enable_mergejoin = off
SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
DECLARE
    stray bigint;
BEGIN
    IF TG_RELID <> 'ledger.dated_entries'::regclass THEN
        PERFORM ledger.refuse_table(TG_NAME, TG_RELID);
    END IF;
    SELECT n.transaction_id INTO stray
    FROM new_rows n
    LEFT JOIN LATERAL (
        SELECT transaction_id, amount, recorded_at FROM ledger.entries
        WHERE ledger_id = n.ledger_id AND account_id = n.account_id
          AND seq BETWEEN n.seq AND n.seq
        ORDER BY seq LIMIT 1) e ON true
    LEFT JOIN LATERAL (
        SELECT effective_at FROM ledger.details
        WHERE ledger_id = n.ledger_id AND transaction_id BETWEEN n.transaction_id
                                                             AND n.transaction_id
        ORDER BY transaction_id LIMIT 1) d ON true
    WHERE (e.transaction_id, e.amount, e.recorded_at, d.effective_at)
          IS DISTINCT FROM (n.transaction_id, n.amount, n.recorded_at, n.effective_at)
    LIMIT 1;
    IF FOUND THEN
        PERFORM ledger.refuse(TG_NAME, format('transaction %s has no such entry', stray));
    END IF;
    RETURN NULL;
END $$;
CREATE TRIGGER dated_entries_unmatched AFTER INSERT ON ledger.dated_entries
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_stray_dates();

-- The three functions below enter small tables in a loop over the few new rows, by their keys,
-- whatever the server believes of their sizes: a join could begin at either end. The condition of a
-- partial index (settled_by IS NULL) is written in other words, so that the index is not entered.

-- A policy takes effect when it is written, except on a closed account. below_floor is lowered as
-- far as the entries of the batch, which come after it, may need; their trigger takes it back.
CREATE FUNCTION ledger.apply_policies() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
    step record;
BEGIN
    IF TG_RELID <> 'ledger.policies'::regclass THEN
        PERFORM ledger.refuse_table(TG_NAME, TG_RELID);
    END IF;
    FOR step IN SELECT * FROM new_rows ORDER BY ledger_id, account_id, seq LOOP
        UPDATE ledger.accounts
        SET floor = step.floor, ceiling = step.ceiling, restricted = step.restricted,
            below_floor = least(floor, below_floor, step.floor, step.lowest)
        WHERE ledger_id = step.ledger_id AND id = step.account_id
          AND floor IS NOT NULL AND restricted < 4;
        IF NOT FOUND AND NOT ledger.is_loading(step.ledger_id) THEN
            PERFORM ledger.refuse(TG_NAME, format(
                'account %s can have no policy, or is closed', step.account_id));
        END IF;
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER policies_apply AFTER INSERT ON ledger.policies
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.apply_policies();

-- A policy belongs to an entry of its account, which is written after it.
CREATE FUNCTION ledger.refuse_policy_without_entry() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
BEGIN
    IF TG_RELID <> 'ledger.policies'::regclass THEN
        PERFORM ledger.refuse_table(TG_NAME, TG_RELID);
    END IF;
    PERFORM FROM ledger.entries
    WHERE ledger_id = NEW.ledger_id AND account_id = NEW.account_id AND seq = NEW.seq
      AND transaction_id = NEW.transaction_id;
    IF NOT FOUND THEN
        PERFORM ledger.refuse(TG_NAME, format(
            'transaction %s has a policy of account %s without an entry', NEW.transaction_id,
            NEW.account_id));
    END IF;
    RETURN NULL;
END $$;
CREATE CONSTRAINT TRIGGER policies_entry AFTER INSERT ON ledger.policies
    DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION ledger.refuse_policy_without_entry();

-- A schedule ends once: by its execution, posted or declined, or by a posted cancellation.
CREATE FUNCTION ledger.settle_schedules() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
DECLARE
    step record;
BEGIN
    IF TG_RELID <> 'ledger.details'::regclass THEN
        PERFORM ledger.refuse_table(TG_NAME, TG_RELID);
    END IF;
    FOR step IN
        SELECT n.ledger_id, n.parent_id, n.transaction_id
        FROM new_rows n
        CROSS JOIN LATERAL (
            SELECT kind, status FROM ledger.transactions
            WHERE ledger_id = n.ledger_id AND id BETWEEN n.transaction_id AND n.transaction_id
            ORDER BY id LIMIT 1) t
        WHERE n.parent_id IS NOT NULL AND (t.kind = 3 OR t.kind = 11 AND t.status = 1)
    LOOP
        UPDATE ledger.schedules SET settled_by = step.transaction_id
        WHERE ledger_id = step.ledger_id AND transaction_id = step.parent_id
          AND coalesce(settled_by, 0) = 0;
        IF NOT FOUND AND NOT ledger.is_loading(step.ledger_id) THEN
            PERFORM ledger.refuse(TG_NAME, format(
                'transaction %s: its schedule is missing, or settled already',
                step.transaction_id));
        END IF;
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER details_settle AFTER INSERT ON ledger.details
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.settle_schedules();

-- The service's own capture of a hold was tried; by the clock, if recorded_at had to be later.
CREATE FUNCTION ledger.note_captures() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET enable_sort = off SET jit = off AS $$
DECLARE
    step record;
BEGIN
    IF TG_RELID <> 'ledger.details'::regclass THEN
        PERFORM ledger.refuse_table(TG_NAME, TG_RELID);
    END IF;
    FOR step IN
        SELECT n.ledger_id, n.parent_id, t.recorded_at
        FROM new_rows n
        CROSS JOIN LATERAL (
            SELECT kind, origin, recorded_at FROM ledger.transactions
            WHERE ledger_id = n.ledger_id AND id BETWEEN n.transaction_id AND n.transaction_id
            ORDER BY id LIMIT 1) t
        WHERE n.parent_id IS NOT NULL AND t.kind = 6 AND t.origin = 4
    LOOP
        UPDATE ledger.holds SET capture_tried_at = least(step.recorded_at, clock_timestamp())
        WHERE ledger_id = step.ledger_id AND transaction_id = step.parent_id;
    END LOOP;
    RETURN NULL;
END $$;
CREATE TRIGGER details_captured AFTER INSERT ON ledger.details
    REFERENCING NEW TABLE AS new_rows
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.note_captures();

-- A hold begins empty; the trigger on entries fills it.
CREATE FUNCTION ledger.open_hold() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_RELID <> 'ledger.holds'::regclass THEN
        PERFORM ledger.refuse_table(TG_NAME, TG_RELID);
    END IF;
    IF (NEW.remaining <> 0 OR NEW.captured <> 0) AND ledger.is_loading(NEW.ledger_id) THEN
        RETURN NEW;
    END IF;
    NEW.remaining := 0;
    NEW.captured := 0;
    RETURN NEW;
END $$;
CREATE TRIGGER holds_begin_empty BEFORE INSERT ON ledger.holds
    FOR EACH ROW EXECUTE FUNCTION ledger.open_hold();

-- The last seq of an account that was recorded by a time, by binary search; 0 if there is none. Time
-- never runs backwards along an account, so this needs no further index.
CREATE FUNCTION ledger.version_at(ledger integer, account bigint, version bigint, as_of timestamptz)
RETURNS bigint
LANGUAGE plpgsql STABLE SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off SET enable_bitmapscan = off SET jit = off AS $$
DECLARE
    low bigint := 0;
    middle bigint;
BEGIN
    WHILE low < version LOOP
        middle := (low + version + 1) / 2;
        IF (SELECT recorded_at <= as_of FROM ledger.entries
            WHERE ledger_id = ledger AND account_id = account AND seq = middle) THEN
            low := middle;
        ELSE
            version := middle - 1;
        END IF;
    END LOOP;
    RETURN low;
END $$;

-- The audit log is a chain. A row's digest covers the row and the digest of the row before it, so a
-- row that was changed, removed or put between shows. One transaction at a time adds to it.
CREATE FUNCTION ledger.audit_digest(before bytea, r ledger.audit) RETURNS bytea
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT sha256(before || convert_to(json_build_array(
        r.id, extract(epoch FROM r.recorded_at), r.event, r.principal_id, r.key_id, r.source,
        r.request_id, r.action, r.ledger_id, r.subject, r.status, r.code, r.repeats,
        r.detail)::text, 'UTF8'))
$$;
CREATE FUNCTION ledger.chain_audit() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    last ledger.audit;
BEGIN
    IF TG_RELID <> 'ledger.audit'::regclass THEN
        PERFORM ledger.refuse_table(TG_NAME, TG_RELID);
    END IF;
    PERFORM pg_advisory_xact_lock(2020072);
    SELECT * INTO last FROM ledger.audit ORDER BY id DESC LIMIT 1;
    NEW.id := coalesce(last.id, 0) + 1;
    NEW.recorded_at := greatest(clock_timestamp(), last.recorded_at);
    NEW.digest := ledger.audit_digest(coalesce(last.digest, ''), NEW);
    RETURN NEW;
END $$;
CREATE TRIGGER audit_chain BEFORE INSERT ON ledger.audit
    FOR EACH ROW EXECUTE FUNCTION ledger.chain_audit();

-- A decision is on a proposal that is still open: in time, not ended by anybody, and without all the
-- approvals that it needs. Decisions on a proposal follow each other.
CREATE FUNCTION ledger.check_decision() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
DECLARE
    proposal ledger.proposals;
BEGIN
    IF TG_RELID <> 'ledger.decisions'::regclass THEN
        PERFORM ledger.refuse_table(TG_NAME, TG_RELID);
    END IF;
    SELECT * INTO proposal FROM ledger.proposals
    WHERE ledger_id = NEW.ledger_id AND id = NEW.proposal_id FOR NO KEY UPDATE;
    NEW.decided_at := clock_timestamp();
    IF NEW.decided_at >= proposal.expires_at
       OR (SELECT coalesce(bool_or(verdict <> 'approve'), false) OR count(*) >= proposal.approvals
           FROM ledger.decisions
           WHERE ledger_id = NEW.ledger_id AND proposal_id = NEW.proposal_id) THEN
        PERFORM ledger.refuse('decisions_open', format('proposal %s is not open', NEW.proposal_id));
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER decisions_open BEFORE INSERT ON ledger.decisions
    FOR EACH ROW EXECUTE FUNCTION ledger.check_decision();

-- Only what as many others have approved as its proposal needs is carried out.
CREATE FUNCTION ledger.check_execution() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_RELID <> 'ledger.executions'::regclass THEN
        PERFORM ledger.refuse_table(TG_NAME, TG_RELID);
    END IF;
    IF NOT EXISTS (
        SELECT FROM ledger.proposals p
        WHERE p.ledger_id = NEW.ledger_id AND p.id = NEW.proposal_id AND p.approvals <= (
            SELECT count(*) FILTER (WHERE d.verdict = 'approve' AND d.decided_by <> p.proposed_by)
            FROM ledger.decisions d
            WHERE d.ledger_id = p.ledger_id AND d.proposal_id = p.id
            HAVING bool_and(d.verdict = 'approve'))
    ) THEN
        PERFORM ledger.refuse('executions_approved',
            format('proposal %s is not approved', NEW.proposal_id));
    END IF;
    RETURN NEW;
END $$;
CREATE TRIGGER executions_approved BEFORE INSERT ON ledger.executions
    FOR EACH ROW EXECUTE FUNCTION ledger.check_execution();

-- The last approval makes a proposal due, and its answer settles it.
CREATE FUNCTION ledger.note_approval() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_RELID <> 'ledger.decisions'::regclass THEN
        PERFORM ledger.refuse_table(TG_NAME, TG_RELID);
    END IF;
    INSERT INTO ledger.executions_due (ledger_id, proposal_id)
    SELECT p.ledger_id, p.id FROM ledger.proposals p
    WHERE p.ledger_id = NEW.ledger_id AND p.id = NEW.proposal_id AND p.approvals = (
        SELECT count(*) FROM ledger.decisions d
        WHERE d.ledger_id = p.ledger_id AND d.proposal_id = p.id)
    ON CONFLICT DO NOTHING;
    RETURN NULL;
END $$;
CREATE TRIGGER decisions_due AFTER INSERT ON ledger.decisions
    FOR EACH ROW WHEN (NEW.verdict = 'approve') EXECUTE FUNCTION ledger.note_approval();

CREATE FUNCTION ledger.settle_execution() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF TG_RELID <> 'ledger.executions'::regclass THEN
        PERFORM ledger.refuse_table(TG_NAME, TG_RELID);
    END IF;
    DELETE FROM ledger.executions_due
    WHERE ledger_id = NEW.ledger_id AND proposal_id = NEW.proposal_id;
    RETURN NULL;
END $$;
CREATE TRIGGER executions_settled AFTER INSERT OR UPDATE ON ledger.executions
    FOR EACH ROW WHEN (NEW.status IS NOT NULL) EXECUTE FUNCTION ledger.settle_execution();

-- The home of a ledger that this database transaction has added. Others have theirs from the owner.
CREATE FUNCTION ledger.place_ledger(ledger integer, home text) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM ledger.ledgers
                   WHERE ledger_id = ledger AND xmin = pg_current_xact_id()::xid) THEN
        PERFORM ledger.refuse('homes_new', format('ledger %s is not new', ledger));
    END IF;
    INSERT INTO ledger.homes (ledger_id, shard) VALUES (ledger, home);
END $$;

-- Whether the caller of a function that runs with its owner's rights has these rights too.
CREATE FUNCTION ledger.is_owner_calling() RETURNS boolean
LANGUAGE sql STABLE SET search_path = pg_catalog, pg_temp AS $$
    SELECT pg_has_role(CASE current_setting('role') WHEN 'none' THEN session_user::text
                       ELSE current_setting('role') END, current_user, 'USAGE')
$$;

-- On the directory: a further chunk of a sequence, for a shard. Its number is above all others. A chunk
-- lasts for weeks; so that the service cannot waste them, it gets three a day for a shard.
CREATE FUNCTION ledger.lease_chunk(for_shard text, of_sequence text) RETURNS bigint
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = 2000 AS $$
DECLARE
    further bigint;
BEGIN
    IF NOT EXISTS (SELECT FROM ledger.identity WHERE shard = 'main') THEN
        PERFORM ledger.refuse('chunks_directory', 'this database is not the directory');
    END IF;
    PERFORM pg_advisory_xact_lock(2020083);
    SELECT max(c.number) + 1 INTO further FROM ledger.chunks c WHERE c.sequence = of_sequence;
    IF further IS NULL THEN
        PERFORM ledger.refuse('chunks_first', format('there are no chunks of %s', of_sequence));
    END IF;
    IF NOT ledger.is_owner_calling()
       AND 3 <= (SELECT count(*) FROM ledger.chunks c
                 WHERE c.sequence = of_sequence AND c.shard = for_shard
                   AND c.leased_at > clock_timestamp() - interval '1 day') THEN
        PERFORM ledger.refuse('chunks_rate', format('%s has had three chunks of %s in a day',
            for_shard, of_sequence));
    END IF;
    INSERT INTO ledger.chunks (sequence, number, shard) VALUES (of_sequence, further, for_shard);
    RETURN further;
END $$;

-- On a shard: the sequence goes on in a chunk, which is never below where it stands. What is left of
-- the chunk before is not used. main has the leases, and compares. A transaction takes 100 ids at a time.
-- The first ALTER locks the sequence, so that it stands still. It waits for whoever has taken an id and
-- has not committed, and others wait for it.
CREATE FUNCTION ledger.take_chunk(of_sequence text, number bigint) RETURNS void
LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp SET lock_timeout = 300 AS $$
DECLARE
    place text := (SELECT oid::regclass FROM pg_class
                   WHERE relnamespace = 'ledger'::regnamespace AND relname = of_sequence
                     AND relname IN ('transaction_id', 'account_id', 'webhook_id',
                                     'webhook_delivery_id'));
    here text := (SELECT shard FROM ledger.identity);
    first_id bigint := number << 36;
    last_id bigint := ((number + 1) << 36) - 100;
    present bigint;
BEGIN
    IF place IS NULL OR number NOT BETWEEN 0 AND 131071 THEN
        PERFORM ledger.refuse('chunks_number', format('no chunk %s of %s', number, of_sequence));
    END IF;
    IF here IS NULL THEN
        PERFORM ledger.refuse('chunks_shard', 'this database is no shard');
    END IF;
    IF here = 'main' AND NOT EXISTS (
        SELECT FROM ledger.chunks c
        WHERE c.sequence = of_sequence AND c.number = take_chunk.number AND c.shard = here
    ) THEN
        PERFORM ledger.refuse('chunks_lease', format('chunk %s of %s is not leased to main', number,
            of_sequence));
    END IF;
    EXECUTE format('ALTER SEQUENCE %s MAXVALUE %s', place, 1::bigint << 53);
    EXECUTE format('SELECT last_value FROM %s', place) INTO present;
    IF present > last_id THEN
        PERFORM ledger.refuse('chunks_rise', format('%s is beyond chunk %s', of_sequence, number));
    END IF;
    EXECUTE format('ALTER SEQUENCE %s MAXVALUE %s %s', place, last_id,
        CASE WHEN present < first_id THEN 'RESTART ' || first_id END);
END $$;

-- History is never changed, and only the triggers above write what is derived. ENABLE ALWAYS: these
-- guards hold in a session that applies replicated changes too.
CREATE FUNCTION ledger.refuse_change() RETURNS trigger
LANGUAGE plpgsql SET search_path = pg_catalog, pg_temp AS $$
BEGIN
    -- The copy of a ledger that arrives may be removed; the trigger fenced_delete judges each row.
    IF TG_OP = 'DELETE' AND current_setting('ledgerservice.loading', true) <> ''
       AND EXISTS (SELECT FROM pg_trigger
                   WHERE tgrelid = TG_RELID AND tgname = 'fenced_delete' AND tgenabled = 'A') THEN
        RETURN NULL;
    END IF;
    PERFORM ledger.refuse(TG_NAME, format('%s on %s.%s is refused: %s',
        TG_OP, TG_TABLE_SCHEMA, TG_TABLE_NAME, TG_ARGV[0]));
    RETURN NULL;
END $$;
CREATE TRIGGER transactions_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.transactions
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('transactions are immutable');
CREATE TRIGGER entries_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('entries are immutable');
CREATE TRIGGER details_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.details
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('details are immutable');
CREATE TRIGGER policies_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.policies
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('policies are immutable');
CREATE TRIGGER dated_entries_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.dated_entries
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('entries are immutable');
CREATE TRIGGER account_details_immutable BEFORE UPDATE OR DELETE OR TRUNCATE
    ON ledger.account_details
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('account details are immutable');
CREATE TRIGGER accounts_permanent BEFORE DELETE OR TRUNCATE ON ledger.accounts
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('accounts are permanent');
CREATE TRIGGER accounts_derived
    BEFORE UPDATE OF ledger_id, id, balance, held, version, last_recorded_at, created_at, change_id,
                     currency_number, exponent, currency, reference, idempotency_key, owner,
                     floor, ceiling, below_floor, restricted, origin, principal_id
    ON ledger.accounts
    FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0)
    EXECUTE FUNCTION ledger.refuse_change('only the journal moves an account');
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
CREATE TRIGGER currencies_permanent BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.currencies
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('currencies are permanent');
CREATE TRIGGER epochs_permanent BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.epochs
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('epochs are permanent');
CREATE TRIGGER proposals_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.proposals
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('proposals are immutable');
CREATE TRIGGER decisions_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.decisions
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('decisions are immutable');
CREATE TRIGGER executions_permanent BEFORE DELETE OR TRUNCATE ON ledger.executions
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('executions are immutable');
CREATE TRIGGER executions_immutable BEFORE UPDATE ON ledger.executions
    FOR EACH ROW WHEN (OLD.status IS NOT NULL)
    EXECUTE FUNCTION ledger.refuse_change('executions are immutable');
CREATE TRIGGER executions_due_derived BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE
    ON ledger.executions_due
    FOR EACH STATEMENT WHEN (pg_trigger_depth() = 0)
    EXECUTE FUNCTION ledger.refuse_change('only decisions and executions change it');
CREATE TRIGGER audit_immutable BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.audit
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('the audit log is immutable');
CREATE TRIGGER chunks_permanent BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.chunks
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('chunks are permanent');
CREATE TRIGGER identity_permanent BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.identity
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('the identity is permanent');
CREATE TRIGGER claims_permanent BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.claims
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('claims are permanent');
CREATE TRIGGER ledgers_permanent BEFORE UPDATE OR DELETE OR TRUNCATE ON ledger.ledgers
    FOR EACH STATEMENT EXECUTE FUNCTION ledger.refuse_change('ledgers are permanent');

-- All triggers fire whatever session_replication_role is: it is what migration services have set
-- to replica on a database, and the triggers that move the accounts would then be silent.
DO $$
DECLARE
    guard record;
BEGIN
    FOR guard IN
        SELECT tgrelid::regclass AS relation, tgname
        FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
        WHERE c.relnamespace = 'ledger'::regnamespace AND NOT tgisinternal
    LOOP
        EXECUTE format('ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', guard.relation, guard.tgname);
    END LOOP;
END $$;

-- First rows. The currencies of ISO 4217 are added after this. Their change ids, and the one of the
-- default ledger, are below 1000; the first id that is handed out is 1001.

INSERT INTO ledger.ledgers (ledger_id, name, change_id, origin) VALUES (1, 'default', 1, 1);
INSERT INTO ledger.secrets (name, secret)
VALUES ('cursors', gen_random_uuid()::text || gen_random_uuid()::text);
SELECT setval('ledger.transaction_id', 901);

-- Grants: applied after each migration, and when a start finds that the role has none, as in a
-- restored database. {role} is the service's role. It has no right to write a balance, and none
-- to change history. Nobody else may execute a function: CREATE FUNCTION gives that right to
-- everybody. The service's role needs version_at for reads, and the others where a trigger that
-- runs with its rights calls them.
GRANT USAGE ON SCHEMA ledger TO {role};
GRANT SELECT ON ALL TABLES IN SCHEMA ledger TO {role};
GRANT INSERT (name, principal_id, shards, parent_id, part) ON ledger.ledgers TO {role};
GRANT INSERT ON ledger.claims TO {role};
GRANT INSERT (code, exponent, name, principal_id, ledger_id) ON ledger.currencies TO {role};
GRANT INSERT (ledger_id, owner, currency, reference, origin, idempotency_key, principal_id)
    ON ledger.accounts TO {role};
GRANT UPDATE (row_lock) ON ledger.accounts TO {role};
GRANT INSERT (ledger_id, id, kind, status, account_id, counterparty_id, amount, recorded_at,
              account_seq, counterparty_seq, deciding_account_id, deciding_version,
              deciding_available, deciding_balance, origin, renderer, has_details,
              idempotency_key, decline_reason, principal_id)
    ON ledger.transactions TO {role};
GRANT INSERT ON ledger.entries, ledger.details, ledger.policies, ledger.dated_entries,
    ledger.account_details TO {role};
GRANT INSERT (ledger_id, transaction_id, account_id, counterparty_id, amount, expires_at,
              capture_at, to_ledger_id, to_account_id)
    ON ledger.holds TO {role};
GRANT INSERT (ledger_id, transaction_id, account_id, counterparty_id, amount, execute_at)
    ON ledger.schedules TO {role};
GRANT INSERT (epoch, system_identifier, timeline, database_id, journal_id, compare_from)
    ON ledger.epochs TO {role};
GRANT INSERT (ledger_id, url, types, account_id, epoch, position),
    UPDATE (url, types, state, reason, epoch, position, digest, dead_letters, revision),
    DELETE ON ledger.webhooks TO {role};
GRANT INSERT (ledger_id, webhook_id, number, secret), UPDATE (expires_at), DELETE
    ON ledger.webhook_secrets TO {role};
GRANT INSERT, UPDATE (attempts, failed_at, next_at), DELETE ON ledger.webhook_failures TO {role};
GRANT INSERT (ledger_id, webhook_id, epoch, event_id, attempt, attempted_at, status, error,
              duration_ms), DELETE
    ON ledger.webhook_deliveries TO {role};
GRANT INSERT (event, principal_id, key_id, source, request_id, action, ledger_id, subject, status,
              code, repeats, detail)
    ON ledger.audit TO {role};
GRANT INSERT (ledger_id, proposed_by, expires_at, rule, approvals, operation, parent_id, scope_id,
              idempotency_key, body, digest)
    ON ledger.proposals TO {role};
GRANT INSERT (ledger_id, proposal_id, proposed_by, decided_by, verdict, reason)
    ON ledger.decisions TO {role};
GRANT INSERT (ledger_id, proposal_id), UPDATE (status, transaction_id, answer)
    ON ledger.executions TO {role};
GRANT USAGE ON SEQUENCE ledger.proposal_id TO {role};
GRANT USAGE ON SEQUENCE ledger.webhook_id, ledger.webhook_delivery_id TO {role};
GRANT INSERT ON ledger.key_uses TO {role};
GRANT INSERT (issuer, subject) ON ledger.oidc_principals TO {role};
GRANT USAGE ON SEQUENCE ledger.principal_id TO {role};
GRANT USAGE ON SEQUENCE ledger.account_id, ledger.transaction_id, ledger.currency_number,
    ledger.ledger_id TO {role};
GRANT SELECT ON SEQUENCE ledger.account_id, ledger.transaction_id, ledger.ledger_id TO {role};
GRANT EXECUTE ON FUNCTION ledger.version_at, ledger.open_clearing, ledger.refuse, ledger.refuse_table,
    ledger.next_change_id, ledger.audit_digest, ledger.is_loading, ledger.fence_triggers TO {role};
-- A shard gets the ledgers and currencies of the directory with their ids and numbers.
GRANT INSERT (ledger_id) ON ledger.ledgers TO {role};
GRANT INSERT (number) ON ledger.currencies TO {role};
GRANT SELECT ON SEQUENCE ledger.webhook_id, ledger.webhook_delivery_id TO {role};
GRANT EXECUTE ON FUNCTION ledger.place_ledger, ledger.lease_chunk, ledger.take_chunk TO {role};
