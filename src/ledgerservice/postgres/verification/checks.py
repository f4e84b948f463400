"""What `verify` asks of a database: queries, each of which returns a row for every violation.

The invariants are numbered as in DESIGN.md: 1 sums, 2 accounts and their last entries, 3 floors and
policies, 4 sequences and time, 5 immutability and what belongs together, 6 keys and their outcomes.
Kinds are those of requests.Kind.
"""

from typing import NamedTuple


class Check(NamedTuple):
    """A query that returns one row (where, what) for each violation."""

    invariant: int
    query: str


# Each is run once.
WHOLE = [
    Check(
        1,
        """
        SELECT 'ledger ' || ledger_id || ', currency ' || currency,
               'all balances together are ' || sum(balance) || ', not 0'
        FROM ledger.accounts GROUP BY ledger_id, currency HAVING sum(balance) <> 0
        """,
    ),
    Check(
        5,
        """
        SELECT 'trigger ' || name, 'the guard is missing, disabled or another function''s'
        FROM unnest((:triggers)::text[], (:functions)::text[], (:always)::boolean[])
            AS expected (name, function, always)
        WHERE NOT EXISTS (
            SELECT FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
            WHERE c.relnamespace = 'ledger'::regnamespace AND t.tgname = name
              AND t.tgfoid = to_regproc('ledger.' || function)
              AND (t.tgenabled = 'A' OR t.tgenabled = 'O' AND NOT always))
        """,
    ),
    Check(
        5,
        """
        SELECT 'function ' || name, 'it is not what the migrations made'
        FROM unnest((:bodies)::text[], (:defined)::text[]) AS expected (body, name)
        WHERE NOT EXISTS (
            SELECT FROM pg_proc
            WHERE pronamespace = 'ledger'::regnamespace AND proname = name AND prosrc = body)
        """,
    ),
    Check(
        3,
        """
        SELECT 'constraint ' || name, 'the guard is missing or not validated'
        FROM unnest((:constraints)::text[]) AS name
        WHERE NOT EXISTS (
            SELECT FROM pg_constraint
            WHERE connamespace = 'ledger'::regnamespace AND conname = name AND convalidated)
        UNION ALL
        SELECT 'key ' || name, 'the guard is missing, or not valid'
        FROM unnest((:keys)::text[]) AS name
        WHERE NOT EXISTS (
            SELECT FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid
            WHERE c.relnamespace = 'ledger'::regnamespace AND c.relname = name
              AND i.indisunique AND i.indisvalid)
        """,
    ),
    Check(
        5,
        """
        SELECT 'ledger ' || l.ledger_id || ', currency ' || c.code, 'it has no external account'
        FROM ledger.ledgers l CROSS JOIN ledger.currencies c
        WHERE NOT EXISTS (SELECT FROM ledger.accounts a
                          WHERE a.ledger_id = l.ledger_id AND a.id = -c.number)
        """,
    ),
    Check(
        1,
        """
        SELECT 'ledger ' || ledger_id, 'entries or transactions name it, but it does not exist'
        FROM (SELECT ledger_id FROM ledger.entries UNION SELECT ledger_id FROM ledger.transactions)
            AS named
        WHERE ledger_id NOT IN (SELECT ledger_id FROM ledger.ledgers)
        """,
    ),
]

# Each is run for every ledger's every range of account ids, :low to :high.
BY_ACCOUNT = [
    Check(
        4,
        """
        SELECT 'account ' || account_id || ', ledger ' || ledger_id || ', seq ' || seq,
               CASE WHEN seq <> place THEN 'its seq should be ' || place
                    WHEN balance <> before + amount THEN
                        'its balance ' || balance || ' is not ' || before || ' plus ' || amount
                    WHEN held <> held_before + held_change THEN
                        'its held ' || held || ' is not ' || held_before || ' plus ' || held_change
                    ELSE 'its recorded_at is before its predecessor''s' END
        FROM (
            SELECT ledger_id, account_id, seq, amount, held_change, balance, held, recorded_at,
                   row_number() OVER account AS place,
                   lag(balance, 1, 0::bigint) OVER account AS before,
                   lag(held, 1, 0::bigint) OVER account AS held_before,
                   lag(recorded_at) OVER account AS recorded_before
            FROM ledger.entries WHERE ledger_id = :ledger AND account_id BETWEEN :low AND :high
            WINDOW account AS (PARTITION BY ledger_id, account_id ORDER BY seq)
        ) e
        WHERE seq <> place OR balance <> before + amount OR held <> held_before + held_change
           OR recorded_at < recorded_before
        """,
    ),
    # Of accounts whose policy never changed: the floor is 0, and nothing else bounds them.
    Check(
        3,
        """
        SELECT 'account ' || e.account_id || ', ledger ' || e.ledger_id || ', seq ' || e.seq,
               'available ' || e.balance - e.held || ' is below the floor 0'
        FROM ledger.entries e
        WHERE e.ledger_id = :ledger AND e.account_id BETWEEN greatest(:low, 1) AND :high
          AND e.balance - e.held < 0
          AND NOT EXISTS (SELECT FROM ledger.policies p
                          WHERE p.ledger_id = e.ledger_id AND p.account_id = e.account_id)
        """,
    ),
    # Of the others: what a transaction did to the account together obeys the policy that was in
    # effect then. What takes available below the floor does it by a force that is written down;
    # what raises it may.
    Check(
        3,
        """
        SELECT 'account ' || e.account_id || ', ledger ' || e.ledger_id || ', seq ' || e.seq,
               CASE WHEN e.amount < e.held_change AND e.balance - e.held < e.floor
                         AND e.lowest IS DISTINCT FROM e.balance - e.held
                    THEN 'available ' || e.balance - e.held || ' is below the floor ' || e.floor
                    WHEN e.amount > 0 AND e.balance > e.ceiling
                    THEN 'balance ' || e.balance || ' is above the ceiling ' || e.ceiling
                    ELSE 'it is an entry that the account was frozen for' END
        FROM (
            SELECT e.*, coalesce(p.floor, 0) AS floor, p.ceiling,
                   coalesce(p.restricted, 0) AS restricted,
                   CASE WHEN p.transaction_id = e.transaction_id THEN p.lowest END AS lowest
            FROM (
                SELECT DISTINCT ON (account_id, transaction_id)
                       ledger_id, account_id, transaction_id, seq, balance, held,
                       sum(amount) OVER together AS amount,
                       sum(held_change) OVER together AS held_change,
                       bool_or(amount < 0 OR held_change > 0) OVER together AS debited,
                       bool_or(amount > 0) OVER together AS credited
                FROM (SELECT DISTINCT ledger_id, account_id FROM ledger.policies
                      WHERE ledger_id = :ledger AND account_id BETWEEN :low AND :high) a
                JOIN ledger.entries USING (ledger_id, account_id)
                WINDOW together AS (PARTITION BY account_id, transaction_id)
                ORDER BY account_id, transaction_id, seq DESC
            ) e
            LEFT JOIN LATERAL (
                SELECT * FROM ledger.policies p
                WHERE p.ledger_id = e.ledger_id AND p.account_id = e.account_id AND p.seq <= e.seq
                ORDER BY p.seq DESC LIMIT 1) p ON true
        ) e
        WHERE e.amount < e.held_change AND e.balance - e.held < e.floor
              AND e.lowest IS DISTINCT FROM e.balance - e.held
           OR e.amount > 0 AND e.balance > e.ceiling
           OR e.restricted & 5 > 0 AND e.debited
           OR e.restricted & 6 > 0 AND e.credited
        """,
    ),
    Check(
        3,
        """
        SELECT 'account ' || a.id || ', ledger ' || a.ledger_id,
               format('its floor is %s, its ceiling %s, its restriction %s, below_floor %s; its '
                      'last policy says %s, %s, %s', coalesce(a.floor::text, 'missing'),
                      a.ceiling, a.restricted, a.below_floor, coalesce(p.floor, 0), p.ceiling,
                      coalesce(p.restricted, 0))
        FROM ledger.accounts a
        LEFT JOIN LATERAL (
            SELECT * FROM ledger.policies p
            WHERE p.ledger_id = a.ledger_id AND p.account_id = a.id
            ORDER BY p.seq DESC LIMIT 1) p ON true
        WHERE a.ledger_id = :ledger AND a.id BETWEEN :low AND :high
          AND ((a.floor, a.ceiling, a.restricted) IS DISTINCT FROM
               (CASE WHEN a.id > 0 THEN coalesce(p.floor, 0) END, p.ceiling,
                coalesce(p.restricted, 0::smallint))
               OR (a.below_floor IS NULL) = coalesce(a.balance - a.held < a.floor, false)
               OR a.restricted >= 4 AND (a.balance <> 0 OR a.held <> 0))
        """,
    ),
    Check(
        3,
        """
        SELECT 'policy of account ' || p.account_id || ', ledger ' || p.ledger_id
                   || ', seq ' || p.seq,
               'there is no entry of its transaction there, or it is of another kind'
        FROM ledger.policies p
        LEFT JOIN ledger.entries e ON e.ledger_id = p.ledger_id
          AND e.account_id = p.account_id AND e.seq = p.seq
        LEFT JOIN ledger.transactions t
          ON t.ledger_id = p.ledger_id AND t.id = p.transaction_id
        WHERE p.ledger_id = :ledger AND p.account_id BETWEEN :low AND :high
          AND (e.transaction_id IS DISTINCT FROM p.transaction_id
               OR t.kind IS DISTINCT FROM CASE WHEN p.lowest IS NULL THEN 9 ELSE 8 END)
        """,
    ),
    Check(
        5,
        """
        SELECT 'account ' || d.account_id || ', ledger ' || d.ledger_id,
               'it has details, but is no account of a customer''s'
        FROM ledger.account_details d
        LEFT JOIN ledger.accounts a ON a.ledger_id = d.ledger_id AND a.id = d.account_id
        WHERE d.ledger_id = :ledger AND d.account_id BETWEEN :low AND :high
          AND (a.id IS NULL OR a.id < 0)
        """,
    ),
    Check(
        2,
        """
        SELECT 'account ' || a.id || ', ledger ' || a.ledger_id,
               'its held ' || a.held || ' is not the ' || h.remaining || ' of its holds'
        FROM (SELECT ledger_id, id, held FROM ledger.accounts
              WHERE ledger_id = :ledger AND id BETWEEN :low AND :high) a
        CROSS JOIN LATERAL (
            SELECT coalesce(sum(remaining), 0) AS remaining FROM ledger.holds h
            WHERE h.ledger_id = a.ledger_id AND h.account_id = a.id AND h.remaining > 0) h
        WHERE a.held <> h.remaining
        """,
    ),
    Check(
        2,
        """
        SELECT 'account ' || e.account_id || ', ledger ' || e.ledger_id || ', seq ' || e.seq,
               'the entry is not in the account''s currency'
        FROM ledger.entries e JOIN ledger.accounts a
          ON a.ledger_id = e.ledger_id AND a.id = e.account_id
        WHERE e.ledger_id = :ledger AND e.account_id BETWEEN :low AND :high
          AND e.currency_number <> a.currency_number
        """,
    ),
    Check(
        2,
        """
        SELECT 'account ' || coalesce(a.id, e.account_id)
                   || ', ledger ' || coalesce(a.ledger_id, e.ledger_id),
               CASE WHEN a.id IS NULL THEN 'it has entries, but does not exist'
                    ELSE format('it stands at balance %s, held %s, version %s; its last entry '
                                'says %s, %s, %s', a.balance, a.held, a.version,
                                coalesce(e.balance, 0), coalesce(e.held, 0), coalesce(e.seq, 0))
               END
        FROM (
            SELECT * FROM ledger.accounts WHERE ledger_id = :ledger AND id BETWEEN :low AND :high
        ) a
        FULL JOIN (
            SELECT DISTINCT ON (ledger_id, account_id) *
            FROM ledger.entries WHERE ledger_id = :ledger AND account_id BETWEEN :low AND :high
            ORDER BY ledger_id, account_id, seq DESC
        ) e ON e.ledger_id = a.ledger_id AND e.account_id = a.id
        WHERE (a.balance, a.held, a.version, a.currency_number) IS DISTINCT FROM
              (coalesce(e.balance, 0), coalesce(e.held, 0), coalesce(e.seq, 0),
               coalesce(e.currency_number, a.currency_number))
           OR a.last_recorded_at < e.recorded_at
        """,
    ),
    Check(
        6,
        """
        SELECT 'account ' || account_id || ', ledger ' || ledger_id,
               count(*) || ' transactions have the key ' || quote_literal(idempotency_key)
        FROM ledger.transactions WHERE ledger_id = :ledger AND account_id BETWEEN :low AND :high
        GROUP BY ledger_id, account_id, idempotency_key HAVING count(*) > 1
        """,
    ),
]

# Each is run for every ledger's every range of transaction ids, :low to :high.
BY_TRANSACTION = [
    Check(
        1,
        """
        SELECT 'transaction ' || coalesce(t.id, e.transaction_id)
                   || ', ledger ' || coalesce(t.ledger_id, e.ledger_id),
               CASE WHEN t.id IS NULL THEN 'entries name it, but it does not exist'
                    WHEN t.status = 2 THEN 'it was declined, but has entries'
                    WHEN e.transaction_id IS NULL THEN 'it was posted, but has no entries'
                    WHEN e.total <> 0 THEN 'its entries sum to ' || e.total || ', not 0'
                    WHEN e.other_moment THEN 'an entry was recorded at another moment'
                    ELSE 'its entries are not those of its kind, amount and accounts' END
        FROM (
            SELECT * FROM ledger.transactions
            WHERE ledger_id = :ledger AND id BETWEEN :low AND :high
        ) t
        FULL JOIN (
            SELECT e.ledger_id, e.transaction_id, count(*) AS entries,
                   max(abs(total)) AS total,
                   bool_or(other_moment) AS other_moment, bool_and(expected) AS expected,
                   sum(rows) AS rows
            FROM (
                SELECT e.ledger_id, e.transaction_id, e.currency_number,
                       sum(e.amount) AS total, count(*) AS rows,
                       bool_or(e.recorded_at <> t.recorded_at) AS other_moment,
                       bool_and(coalesce(CASE
                           WHEN t.kind <= 3 THEN e.held_change = 0 AND e.amount = t.amount
                               * CASE WHEN e.account_id = t.account_id THEN 1
                                      WHEN e.account_id = t.counterparty_id THEN -1 END
                               * CASE t.kind WHEN 1 THEN 1 ELSE -1 END
                           WHEN t.kind IN (4, 8) THEN e.held_change = 0
                           WHEN t.kind = 6 THEN
                               CASE WHEN e.account_id = t.account_id
                                    THEN e.amount = -t.amount AND e.held_change <= e.amount
                                    ELSE e.amount = t.amount AND e.held_change = 0 END
                           ELSE e.account_id = t.account_id AND e.amount = 0 AND e.held_change =
                               CASE t.kind WHEN 5 THEN t.amount WHEN 7 THEN -t.amount ELSE 0 END
                           END, false)) AS expected
                FROM ledger.entries e LEFT JOIN ledger.transactions t
                  ON t.ledger_id = e.ledger_id AND t.id = e.transaction_id
                WHERE e.ledger_id = :ledger AND e.transaction_id BETWEEN :low AND :high
                GROUP BY e.ledger_id, e.transaction_id, e.currency_number
            ) e GROUP BY e.ledger_id, e.transaction_id
        ) e ON e.ledger_id = t.ledger_id AND e.transaction_id = t.id
        WHERE t.id IS NULL
           OR (t.status = 2) = (e.transaction_id IS NOT NULL)
           OR t.status = 1 AND (e.total <> 0 OR e.other_moment
                                OR e.rows NOT BETWEEN CASE WHEN t.kind IN (1, 2, 3, 4, 6, 8)
                                                           THEN 2 ELSE 1 END
                                              AND CASE WHEN t.kind IN (4, 8) THEN 501
                                                       WHEN t.kind IN (1, 2, 3, 6) THEN 2
                                                       ELSE 1 END
                                OR e.expected IS NOT TRUE)
        """,
    ),
    Check(
        6,
        """
        SELECT 'transaction ' || t.id || ', ledger ' || t.ledger_id,
               format('it was declined on available %s at version %s, where account %s had %s',
                      t.deciding_available, t.deciding_version, t.deciding_account_id,
                      coalesce((e.balance - e.held)::text, 'no entry'))
        FROM ledger.transactions t
        LEFT JOIN ledger.details d ON d.ledger_id = t.ledger_id AND d.transaction_id = t.id
        LEFT JOIN ledger.entries e
          ON e.ledger_id = t.ledger_id AND e.account_id = t.deciding_account_id
         AND e.seq = t.deciding_version
        WHERE t.ledger_id = :ledger AND t.id BETWEEN :low AND :high AND t.status = 2
          AND (CASE WHEN t.deciding_version = 0 THEN t.deciding_available <> 0
                    ELSE t.deciding_available IS DISTINCT FROM e.balance - e.held END
               OR d.deciding_balance <> coalesce(e.balance, 0))
        """,
    ),
    # What is more than a plain movement has details, and these say what it builds on.
    Check(
        5,
        """
        SELECT 'transaction ' || coalesce(t.id, d.transaction_id)
                   || ', ledger ' || coalesce(t.ledger_id, d.ledger_id),
               CASE WHEN d.transaction_id IS NULL THEN 'its details are missing'
                    WHEN t.id IS NULL AND q.id IS NULL
                    THEN 'it has details, but does not exist'
                    WHEN t.id IS NULL THEN 'it is plain, but has details'
                    ELSE 'what it builds on is missing, or of another kind or account' END
        FROM (SELECT * FROM ledger.transactions
              WHERE ledger_id = :ledger AND id BETWEEN :low AND :high AND renderer <> 1) t
        FULL JOIN (SELECT * FROM ledger.details
                   WHERE ledger_id = :ledger AND transaction_id BETWEEN :low AND :high) d
          ON d.ledger_id = t.ledger_id AND d.transaction_id = t.id
        LEFT JOIN ledger.transactions q ON q.ledger_id = d.ledger_id AND q.id = d.transaction_id
        LEFT JOIN ledger.transactions p ON p.ledger_id = d.ledger_id AND p.id = d.parent_id
        WHERE t.id IS NULL OR d.transaction_id IS NULL
           OR CASE WHEN t.kind IN (6, 7) THEN p.kind IS DISTINCT FROM 5
                   WHEN t.kind = 8 THEN coalesce(p.kind NOT IN (1, 2, 3, 4, 6), true)
                   WHEN t.kind = 11 THEN p.kind IS DISTINCT FROM 10
                   WHEN t.kind = 3 AND d.parent_id IS NOT NULL THEN
                       p.kind IS DISTINCT FROM 10
                   ELSE d.parent_id IS NOT NULL END
           OR p.account_id <> t.account_id OR p.status <> 1
        """,
    ),
    Check(
        2,
        """
        SELECT 'hold ' || coalesce(h.transaction_id, t.id)
                   || ', ledger ' || coalesce(h.ledger_id, t.ledger_id),
               CASE WHEN h.transaction_id IS NULL THEN 'its terms are missing'
                    WHEN t.id IS NULL THEN 'no transaction reserved it'
                    WHEN h.capture_tried_at IS DISTINCT FROM own.recorded_at
                     AND (h.capture_tried_at < own.recorded_at) IS NOT TRUE
                    THEN 'it does not say when the service tried to capture it'
                    ELSE format('remaining %s and captured %s of %s are not the %s and %s of its '
                                'entries, or its accounts are not theirs', h.remaining,
                                h.captured, h.amount, s.remaining, s.captured) END
        FROM (SELECT * FROM ledger.holds
              WHERE ledger_id = :ledger AND transaction_id BETWEEN :low AND :high) h
        FULL JOIN (SELECT * FROM ledger.transactions
                   WHERE ledger_id = :ledger AND id BETWEEN :low AND :high
                     AND kind = 5 AND status = 1) t
          ON t.ledger_id = h.ledger_id AND t.id = h.transaction_id
        LEFT JOIN LATERAL (
            SELECT sum(e.held_change) AS remaining,
                   coalesce(-sum(e.amount) FILTER (WHERE e.account_id = h.account_id), 0)
                       AS captured,
                   bool_or(e.account_id NOT IN (h.account_id, h.counterparty_id)) AS strange
            FROM (SELECT h.transaction_id AS id
                  UNION ALL
                  SELECT transaction_id FROM ledger.details d
                  WHERE d.ledger_id = h.ledger_id AND d.parent_id = h.transaction_id) step
            JOIN ledger.entries e
              ON e.ledger_id = h.ledger_id AND e.transaction_id = step.id) s ON true
        LEFT JOIN ledger.transactions own
          ON own.ledger_id = h.ledger_id AND own.account_id = h.account_id
         AND own.idempotency_key = chr(183) || 'capture ' || h.transaction_id
        WHERE h.transaction_id IS NULL OR t.id IS NULL OR s.strange
           -- Earlier, where the moment had to be later than the clock.
           OR h.capture_tried_at IS DISTINCT FROM own.recorded_at
              AND (h.capture_tried_at < own.recorded_at) IS NOT TRUE
           OR (h.remaining, h.captured, h.account_id, h.amount)
              IS DISTINCT FROM (s.remaining, s.captured, t.account_id, t.amount)
        """,
    ),
    Check(
        1,
        """
        SELECT 'transaction ' || parent_id || ', ledger ' || ledger_id,
               format('its reversals move %s on account %s, where it moved %s itself',
                      reversed, account_id, amount)
        FROM (
            SELECT r.ledger_id, r.parent_id, r.account_id, r.reversed,
                   (SELECT sum(e.amount) FROM ledger.entries e
                    WHERE e.ledger_id = r.ledger_id AND e.transaction_id = r.parent_id
                      AND e.account_id = r.account_id) AS amount
            FROM (
                SELECT d.ledger_id, d.parent_id, e.account_id, sum(e.amount) AS reversed
                FROM ledger.details d
                JOIN ledger.transactions t
                  ON t.ledger_id = d.ledger_id AND t.id = d.transaction_id AND t.kind = 8
                JOIN ledger.entries e
                  ON e.ledger_id = d.ledger_id AND e.transaction_id = d.transaction_id
                WHERE d.ledger_id = :ledger AND d.parent_id BETWEEN :low AND :high
                GROUP BY d.ledger_id, d.parent_id, e.account_id
            ) r
        ) s
        WHERE amount IS NULL OR reversed * sign(amount) > 0 OR abs(reversed) > abs(amount)
        """,
    ),
    Check(
        5,
        """
        SELECT 'schedule ' || coalesce(s.transaction_id, t.id)
                   || ', ledger ' || coalesce(s.ledger_id, t.ledger_id),
               format('it is settled by %s, where %s did', s.settled_by, c.ids)
        FROM (SELECT * FROM ledger.schedules
              WHERE ledger_id = :ledger AND transaction_id BETWEEN :low AND :high) s
        FULL JOIN (SELECT * FROM ledger.transactions
                   WHERE ledger_id = :ledger AND id BETWEEN :low AND :high
                     AND kind = 10 AND status = 1) t
          ON t.ledger_id = s.ledger_id AND t.id = s.transaction_id
        LEFT JOIN LATERAL (
            SELECT array_agg(c.id) AS ids,
                   bool_or(c.kind = 3 AND (c.amount <> s.amount OR c.recorded_at < s.execute_at
                                           OR c.counterparty_id <> s.counterparty_id)) AS other
            FROM ledger.details d JOIN ledger.transactions c
              ON c.ledger_id = d.ledger_id AND c.id = d.transaction_id
            WHERE d.ledger_id = s.ledger_id AND d.parent_id = s.transaction_id
              AND (c.kind = 3 OR c.status = 1)) c ON true
        WHERE s.transaction_id IS NULL OR t.id IS NULL OR c.other
           OR (s.account_id, s.amount) <> (t.account_id, t.amount)
           OR c.ids IS DISTINCT FROM CASE WHEN s.settled_by IS NOT NULL
                                          THEN ARRAY[s.settled_by] END
        """,
    ),
    Check(
        5,
        """
        SELECT 'transaction ' || coalesce(d.transaction_id, e.transaction_id)
                   || ', ledger ' || coalesce(d.ledger_id, e.ledger_id),
               'its entries are not found by the moment at which they take effect'
        FROM (
            SELECT e.ledger_id, e.account_id, d.effective_at, e.seq, e.transaction_id, e.amount,
                   e.recorded_at
            FROM ledger.details d JOIN ledger.entries e
              ON e.ledger_id = d.ledger_id AND e.transaction_id = d.transaction_id
            WHERE d.ledger_id = :ledger AND d.transaction_id BETWEEN :low AND :high
              AND d.effective_at IS NOT NULL AND e.amount <> 0
        ) d
        FULL JOIN (SELECT * FROM ledger.dated_entries
                   WHERE ledger_id = :ledger AND transaction_id BETWEEN :low AND :high) e
          ON e.ledger_id = d.ledger_id AND e.account_id = d.account_id AND e.seq = d.seq
         AND e.effective_at = d.effective_at AND e.transaction_id = d.transaction_id
         AND e.amount = d.amount AND e.recorded_at = d.recorded_at
        WHERE d.transaction_id IS NULL OR e.transaction_id IS NULL
        """,
    ),
]
