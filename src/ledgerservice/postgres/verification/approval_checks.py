"""The checks of `verify` on what was proposed, decided and carried out. They are run once each.

The transactions of a ledger, or of a part, on another shard are not in this database.
"""

APPROVED = """
        SELECT 'proposal ' || p.id || ', ledger ' || p.ledger_id,
               CASE WHEN x.proposal_id IS NULL THEN 'it is approved, and was not carried out'
                    WHEN d.given < p.approvals OR d.ended
                    THEN 'it was carried out without the approvals that it needs'
                    WHEN x.status IS NULL THEN 'its execution has no answer'
                    ELSE 'its execution has not the transaction that it says' END
        FROM ledger.proposals p
        CROSS JOIN LATERAL (
            SELECT count(*) FILTER (WHERE verdict = 'approve'
                                      AND decided_by NOT IN (0, p.proposed_by)) AS given,
                   coalesce(bool_or(verdict <> 'approve'), false) AS ended,
                   max(decided_at) AS last
            FROM ledger.decisions
            WHERE ledger_id = p.ledger_id AND proposal_id = p.id) d
        LEFT JOIN ledger.executions x ON x.ledger_id = p.ledger_id AND x.proposal_id = p.id
        LEFT JOIN LATERAL (
            SELECT t.* FROM (
                SELECT x.ledger_id
                UNION ALL
                SELECT ledger_id FROM ledger.ledgers WHERE parent_id = x.ledger_id) home
            JOIN ledger.transactions t
              ON t.ledger_id = home.ledger_id AND t.id = x.transaction_id) t ON true
        WHERE x.proposal_id IS NOT NULL AND (d.given < p.approvals OR d.ended)
           OR x.proposal_id IS NOT NULL AND x.status IS NULL
           OR x.status < 400 AND x.transaction_id IS NULL
           OR x.transaction_id IS NOT NULL
              AND (t.idempotency_key, t.origin, t.principal_id,
                   CASE WHEN t.kind = {CROSSING} THEN x.status < 400 ELSE t.status = {POSTED} END)
                  IS DISTINCT FROM (p.idempotency_key, 0::smallint, p.proposed_by, x.status < 400)
              AND NOT EXISTS (SELECT FROM ledger.homes h JOIN ledger.ledgers l USING (ledger_id)
                              WHERE p.ledger_id IN (l.ledger_id, l.parent_id)
                                AND h.shard <> 'main' AND (t.id IS NULL OR l.part IS NULL))
           OR x.proposal_id IS NULL AND d.given >= p.approvals AND NOT d.ended
              AND d.last < (SELECT recorded_at FROM ledger.transactions
                            WHERE ledger_id = p.ledger_id ORDER BY id DESC LIMIT 1)
                           - interval '1 hour'
        """
# Of deposits, withdrawals and transfers the body shows account and amount as they are recorded.
SAME_BYTES = """
        SELECT 'proposal ' || p.id || ', ledger ' || p.ledger_id,
               'its transaction ' || t.id || ' is not what was proposed'
        FROM ledger.executions x
        JOIN ledger.proposals p ON p.ledger_id = x.ledger_id AND p.id = x.proposal_id
        JOIN ledger.transactions t ON t.ledger_id = x.ledger_id AND t.id = x.transaction_id
        JOIN ledger.accounts a ON a.ledger_id = t.ledger_id AND a.id = t.account_id
        CROSS JOIN LATERAL (SELECT convert_from(p.body, 'UTF8')::json AS body) b
        WHERE t.kind IN ({DEPOSIT}, {WITHDRAWAL}, {TRANSFER})
          AND (t.account_id, t.amount::numeric) IS DISTINCT FROM
              (coalesce(b.body ->> 'account_id', b.body ->> 'from_account_id')::bigint,
               (b.body ->> 'amount')::numeric * (10 ^ a.exponent)::numeric)
        """
