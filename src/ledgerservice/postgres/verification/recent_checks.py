"""The queries of `verify` about new transactions and the accounts that they touched.

Each is run for every ledger's range of transaction ids, :low to :high, and reads the rows of that
range and those that they refer to by key, however long the history is.
"""

from ledgerservice.postgres.verification.checks import OBEYS_POLICY, Check

_RANGE = "ledger_id = :ledger AND transaction_id BETWEEN :low AND :high"
_TOUCHED = f"(SELECT DISTINCT ledger_id, account_id FROM ledger.entries WHERE {_RANGE})"

BY_NEW_TRANSACTION = [
    Check(
        4,
        """
        SELECT 'account ' || e.account_id || ', ledger ' || e.ledger_id || ', seq ' || e.seq,
               CASE WHEN e.seq < 1 OR p.seq IS NULL AND e.seq > 1
                    THEN 'there is no entry before it'
                    WHEN e.balance <> coalesce(p.balance, 0) + e.amount
                    THEN format('its balance %s is not %s plus %s', e.balance,
                                coalesce(p.balance, 0), e.amount)
                    WHEN e.held <> coalesce(p.held, 0) + e.held_change
                    THEN format('its held %s is not %s plus %s', e.held, coalesce(p.held, 0),
                                e.held_change)
                    WHEN e.transaction_id < p.transaction_id
                    THEN 'its transaction ' || e.transaction_id || ' is before its predecessor''s'
                    WHEN e.currency_number <> p.currency_number
                    THEN 'it is in another currency than its predecessor'
                    ELSE 'its recorded_at is before its predecessor''s' END
        FROM ledger.entries e
        LEFT JOIN ledger.entries p
          ON p.ledger_id = e.ledger_id AND p.account_id = e.account_id AND p.seq = e.seq - 1
        WHERE e.ledger_id = :ledger AND e.transaction_id BETWEEN :low AND :high
          AND (e.seq < 1 OR p.seq IS NULL AND e.seq > 1
               OR e.balance <> coalesce(p.balance, 0) + e.amount
               OR e.held <> coalesce(p.held, 0) + e.held_change
               OR e.transaction_id < p.transaction_id OR e.recorded_at < p.recorded_at
               OR e.currency_number <> p.currency_number)
        """,
    ),
    Check(
        2,
        f"""
        SELECT 'account ' || t.account_id || ', ledger ' || t.ledger_id,
               CASE WHEN a.id IS NULL THEN 'it has entries, but does not exist'
                    ELSE format('it stands at balance %s, held %s, version %s; its last entry '
                                'says %s, %s, %s', a.balance, a.held, a.version, e.balance, e.held,
                                e.seq) END
        FROM {_TOUCHED} t
        LEFT JOIN ledger.accounts a ON a.ledger_id = t.ledger_id AND a.id = t.account_id
        CROSS JOIN LATERAL (
            SELECT * FROM ledger.entries e
            WHERE e.ledger_id = t.ledger_id AND e.account_id = t.account_id
            ORDER BY e.seq DESC LIMIT 1) e
        WHERE (a.balance, a.held, a.version, a.currency_number)
              IS DISTINCT FROM (e.balance, e.held, e.seq, e.currency_number)
           OR a.last_recorded_at < e.recorded_at
        """,
    ),
    Check(
        2,
        f"""
        SELECT 'account ' || a.id || ', ledger ' || a.ledger_id,
               'its held ' || a.held || ' is not the ' || h.remaining || ' of its holds'
        FROM {_TOUCHED} t
        JOIN ledger.accounts a ON a.ledger_id = t.ledger_id AND a.id = t.account_id
        CROSS JOIN LATERAL (
            SELECT coalesce(sum(remaining), 0) AS remaining FROM ledger.holds h
            WHERE h.ledger_id = a.ledger_id AND h.account_id = a.id AND h.remaining > 0) h
        WHERE a.held <> h.remaining
        """,
    ),
    Check(
        3,
        """
        SELECT 'account ' || e.account_id || ', ledger ' || e.ledger_id || ', seq ' || e.seq,
               'available ' || e.balance - e.held || ' is below the floor 0'
        FROM ledger.entries e
        WHERE e.ledger_id = :ledger AND e.transaction_id BETWEEN :low AND :high
          AND e.account_id > 0 AND e.balance - e.held < 0
          AND NOT EXISTS (SELECT FROM ledger.policies p
                          WHERE p.ledger_id = e.ledger_id AND p.account_id = e.account_id)
        """,
    ),
    Check(
        3,
        OBEYS_POLICY.replace(
            "THE_ENTRIES",
            f"""(SELECT * FROM ledger.entries n
                 WHERE {_RANGE} AND EXISTS (
                     SELECT FROM ledger.policies p
                     WHERE p.ledger_id = n.ledger_id AND p.account_id = n.account_id)) entries""",
        ),
    ),
]
