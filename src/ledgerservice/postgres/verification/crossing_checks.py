"""The queries of `verify` about transfers between parts; `checks` has the invariants' numbers.

Both halves are compared where both parts have their home: a statement reads both in one snapshot,
so they are compared as they were at one time. `across` compares those on different databases.
"""

from ledgerservice.domain.instructions import Origin

# The credit of a hold h, if its account is here.
_CREDIT = f"""
LEFT JOIN ledger.transactions c
  ON c.ledger_id = h.to_ledger_id AND c.account_id = h.to_account_id
 AND c.origin = {Origin.CROSSING:d}
 AND c.idempotency_key = 'x:' || h.ledger_id || ':' || h.transaction_id
"""

# What a part that has moved has left behind is not compared.
_AT_HOME = "NOT EXISTS (SELECT FROM ledger.fences f WHERE f.ledger_id = {} AND f.state <> 'home')"

# What ended says what the credit was. A hold is open as long as nothing ended it.
HALVES = f"""
SELECT 'transaction ' || h.transaction_id || ', ledger ' || h.ledger_id,
       CASE WHEN t.kind IS DISTINCT FROM {{CROSSING}}
            THEN 'its hold is that of no transfer to another part'
            WHEN c.id IS NULL THEN 'its hold was ended, and there is no credit'
            WHEN c.amount <> h.amount THEN format('its credit %s is of %s, not of %s', c.id,
                                                  c.amount, h.amount)
            ELSE format('its hold was ended by kind %s, and the status of its credit %s is %s',
                        e.kind, c.id, c.status) END
FROM (SELECT * FROM ledger.holds
      WHERE ledger_id = :ledger AND transaction_id BETWEEN :low AND :high
        AND to_ledger_id IS NOT NULL) h
LEFT JOIN ledger.transactions t ON t.ledger_id = h.ledger_id AND t.id = h.transaction_id
LEFT JOIN LATERAL (
    SELECT e.kind FROM ledger.details d
    JOIN ledger.transactions e ON e.ledger_id = d.ledger_id AND e.id = d.transaction_id
    WHERE d.ledger_id = h.ledger_id AND d.parent_id = h.transaction_id
      AND e.kind IN ({{CROSS_DEBIT}}, {{CROSS_RELEASE}})) e ON true
{_CREDIT}
WHERE t.kind IS DISTINCT FROM {{CROSSING}}
   OR EXISTS (SELECT FROM ledger.accounts a
              WHERE a.ledger_id = h.to_ledger_id AND a.id = h.to_account_id)
      AND {_AT_HOME.format("h.to_ledger_id")}
      AND (c.amount <> h.amount OR e.kind IS NOT NULL AND (
               c.id IS NULL OR (c.status = {{POSTED}}) <> (e.kind = {{CROSS_DEBIT}})))
"""

# A credit belongs to a hold of another part, for its account.
CREDITS = f"""
SELECT 'transaction ' || t.id || ', ledger ' || t.ledger_id,
       'it is the credit of no hold for its account'
FROM (SELECT *, split_part(idempotency_key, ':', 2)::integer AS from_ledger_id,
             split_part(idempotency_key, ':', 3)::bigint AS hold_id
      FROM ledger.transactions
      WHERE ledger_id = :ledger AND id BETWEEN :low AND :high AND kind = {{CROSS_CREDIT}}) t
LEFT JOIN ledger.holds h ON h.ledger_id = t.from_ledger_id AND h.transaction_id = t.hold_id
WHERE (h.to_ledger_id, h.to_account_id) IS DISTINCT FROM (t.ledger_id, t.account_id)
  AND EXISTS (SELECT FROM ledger.transactions o WHERE o.ledger_id = t.from_ledger_id)
  AND {_AT_HOME.format("t.from_ledger_id")}
"""

# The clearing accounts of a pair have the same id in both parts.
PAIRS = f"""
SELECT 'clearing account ' || p.id || ', ledger ' || p.parent_id,
       format('both balances together are %s, and %s has arrived for holds that are open', p.total,
              coalesce(o.amount, 0))
FROM (
    SELECT l.parent_id, a.id, sum(a.balance) AS total
    FROM ledger.accounts a JOIN ledger.ledgers l USING (ledger_id)
    WHERE a.id < -32768 AND {_AT_HOME.format("a.ledger_id")}
    GROUP BY l.parent_id, a.id HAVING count(*) = 2
) p
LEFT JOIN (
    SELECT l.parent_id, h.counterparty_id, sum(h.amount) AS amount
    FROM ledger.holds h JOIN ledger.ledgers l USING (ledger_id)
    {_CREDIT}
    WHERE h.remaining > 0 AND h.to_ledger_id IS NOT NULL AND c.status = {{POSTED}}
    GROUP BY l.parent_id, h.counterparty_id
) o ON o.parent_id = p.parent_id AND o.counterparty_id = p.id
WHERE p.total + coalesce(o.amount, 0) <> 0
"""

CLEARING = """
SELECT 'account ' || e.account_id || ', ledger ' || e.ledger_id || ', seq ' || e.seq,
       'only transfers between parts move a clearing account'
FROM ledger.entries e
LEFT JOIN ledger.transactions t ON t.ledger_id = e.ledger_id AND t.id = e.transaction_id
WHERE e.ledger_id = :ledger AND e.account_id BETWEEN :low AND least(:high, -32769)
  AND (t.kind IN ({CROSS_CREDIT}, {CROSS_DEBIT})) IS NOT TRUE
"""

PLACES = """
SELECT 'account ' || a.id || ', ledger ' || a.ledger_id,
       CASE WHEN l.shards IS NOT NULL THEN 'the ledger has parts, and no accounts of its own'
            ELSE 'its id is not one of its part' END
FROM ledger.accounts a
JOIN ledger.ledgers l ON l.ledger_id = a.ledger_id
LEFT JOIN ledger.ledgers p ON p.ledger_id = l.parent_id
WHERE a.ledger_id = :ledger AND a.id BETWEEN greatest(:low, 1) AND :high
  AND (l.shards IS NOT NULL OR mod(a.id, p.shards) <> l.part)
"""
