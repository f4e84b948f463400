"""The queries of `verify` about transactions; `checks` has the numbers of the invariants."""

from ledgerservice.postgres.verification.checks import Check
from ledgerservice.postgres.verification.crossing_checks import CREDITS, HALVES

# Each is run for every ledger's every range of transaction ids, :low to :high.
BY_TRANSACTION = [
    Check(
        1,
        """
        SELECT 'transaction ' || coalesce(t.id, e.transaction_id)
                   || ', ledger ' || coalesce(t.ledger_id, e.ledger_id),
               CASE WHEN t.id IS NULL THEN 'entries name it, but it does not exist'
                    WHEN t.status = {DECLINED} THEN 'it was declined, but has entries'
                    WHEN e.transaction_id IS NULL THEN 'it was posted, but has no entries'
                    WHEN e.total <> 0 THEN 'its entries sum to ' || e.total || ', not 0'
                    WHEN e.other_time THEN 'an entry was recorded at another time'
                    ELSE 'its entries are not those of its kind, amount and accounts' END
        FROM (
            SELECT * FROM ledger.transactions
            WHERE ledger_id = :ledger AND id BETWEEN :low AND :high
        ) t
        FULL JOIN (
            SELECT e.ledger_id, e.transaction_id, count(*) AS entries,
                   max(abs(total)) AS total,
                   bool_or(other_time) AS other_time, bool_and(expected) AS expected,
                   sum(rows) AS rows
            FROM (
                SELECT e.ledger_id, e.transaction_id, e.currency_number,
                       sum(e.amount) AS total, count(*) AS rows,
                       bool_or(e.recorded_at <> t.recorded_at) AS other_time,
                       bool_and(coalesce(CASE
                           WHEN t.kind <= {TRANSFER} THEN e.held_change = 0 AND e.amount = t.amount
                               * CASE WHEN e.account_id = t.account_id
                                       AND e.seq = t.account_seq THEN 1
                                      WHEN e.account_id = t.counterparty_id
                                       AND e.seq = t.counterparty_seq THEN -1 END
                               * CASE t.kind WHEN {DEPOSIT} THEN 1 ELSE -1 END
                           WHEN t.kind IN ({GENERAL}, {REVERSAL}) THEN e.held_change = 0
                           WHEN t.kind = {CROSS_CREDIT} THEN e.held_change = 0 AND
                               CASE WHEN e.account_id = t.account_id THEN e.amount = t.amount
                                    ELSE e.amount = -t.amount AND e.account_id < -32768 END
                           WHEN t.kind IN ({CAPTURE}, {CROSS_DEBIT}) THEN
                               CASE WHEN e.account_id = t.account_id
                                    THEN e.amount = -t.amount AND e.held_change <= e.amount
                                    ELSE e.amount = t.amount AND e.held_change = 0 END
                           ELSE e.account_id = t.account_id AND e.amount = 0 AND e.held_change =
                               CASE WHEN t.kind IN ({HOLD}, {CROSSING}) THEN t.amount
                                    WHEN t.kind IN ({RELEASE}, {CROSS_RELEASE}) THEN -t.amount
                                    ELSE 0 END
                           END, false)) AS expected
                FROM ledger.entries e LEFT JOIN ledger.transactions t
                  ON t.ledger_id = e.ledger_id AND t.id = e.transaction_id
                WHERE e.ledger_id = :ledger AND e.transaction_id BETWEEN :low AND :high
                GROUP BY e.ledger_id, e.transaction_id, e.currency_number
            ) e GROUP BY e.ledger_id, e.transaction_id
        ) e ON e.ledger_id = t.ledger_id AND e.transaction_id = t.id
        WHERE t.id IS NULL
           OR (t.status = {DECLINED}) = (e.transaction_id IS NOT NULL)
           OR t.status = {POSTED} AND (e.total <> 0 OR e.other_time
                                OR e.rows NOT BETWEEN
                                       CASE WHEN t.kind IN ({MOVING}) THEN 2 ELSE 1 END
                                   AND CASE WHEN t.kind IN ({GENERAL}, {REVERSAL}) THEN 501
                                            WHEN t.kind IN ({MOVING}) THEN 2 ELSE 1 END
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
        LEFT JOIN ledger.entries e
          ON e.ledger_id = t.ledger_id AND e.account_id = t.deciding_account_id
         AND e.seq = t.deciding_version
        WHERE t.ledger_id = :ledger AND t.id BETWEEN :low AND :high AND t.status = {DECLINED}
          AND (CASE WHEN t.deciding_version = 0 THEN t.deciding_available <> 0
                    ELSE t.deciding_available IS DISTINCT FROM e.balance - e.held END
               OR t.deciding_balance IS DISTINCT FROM coalesce(e.balance, 0))
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
              WHERE ledger_id = :ledger AND id BETWEEN :low AND :high AND has_details) t
        FULL JOIN (SELECT * FROM ledger.details
                   WHERE ledger_id = :ledger AND transaction_id BETWEEN :low AND :high) d
          ON d.ledger_id = t.ledger_id AND d.transaction_id = t.id
        LEFT JOIN ledger.transactions q ON q.ledger_id = d.ledger_id AND q.id = d.transaction_id
        LEFT JOIN ledger.transactions p ON p.ledger_id = d.ledger_id AND p.id = d.parent_id
        WHERE t.id IS NULL OR d.transaction_id IS NULL
           OR CASE WHEN d.parent_id IS NULL THEN t.kind IN ({ALWAYS_BUILDING})
                   ELSE (CASE t.kind {PARENT_KINDS} END) IS NOT TRUE END
           OR p.account_id <> t.account_id OR p.status <> {POSTED}
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
                     AND kind IN ({HOLD}, {CROSSING}) AND status = {POSTED}) t
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
         AND own.origin = {BY_SERVICE} AND own.idempotency_key = 'capture ' || h.transaction_id
        WHERE h.transaction_id IS NULL OR t.id IS NULL OR s.strange
           -- Earlier, if recorded_at had to be later than the clock.
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
                  ON t.ledger_id = d.ledger_id AND t.id = d.transaction_id
                 AND t.kind = {REVERSAL}
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
                     AND kind = {SCHEDULE} AND status = {POSTED}) t
          ON t.ledger_id = s.ledger_id AND t.id = s.transaction_id
        LEFT JOIN LATERAL (
            SELECT array_agg(c.id) AS ids,
                   bool_or(c.kind = {TRANSFER}
                           AND (c.amount <> s.amount OR c.recorded_at < s.execute_at
                                OR c.counterparty_id <> s.counterparty_id)) AS other
            FROM ledger.details d JOIN ledger.transactions c
              ON c.ledger_id = d.ledger_id AND c.id = d.transaction_id
            WHERE d.ledger_id = s.ledger_id AND d.parent_id = s.transaction_id
              AND (c.kind = {TRANSFER} OR c.status = {POSTED})) c ON true
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
               'its entries are not found by the time at which they take effect'
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
    Check(8, HALVES),
    Check(8, CREDITS),
]
