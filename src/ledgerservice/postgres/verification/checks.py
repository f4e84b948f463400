"""The queries of `verify`: each returns a row for every violation.

The invariants: 1 sums, 2 accounts and their last entries, 3 floors and policies, 4 sequences and
time, 5 immutability and what belongs together, 6 keys and their outcomes, 8 the halves of transfers
between parts.
"""

from collections.abc import Iterable

from ledgerservice.domain.instructions import Frozen, Kind, Origin
from ledgerservice.domain.rules import RULES
from ledgerservice.domain.rules.reversals import REVERSIBLE
from ledgerservice.domain.transactions import Status
from ledgerservice.postgres.verification.approval_checks import APPROVED, SAME_BYTES
from ledgerservice.postgres.verification.crossing_checks import CLEARING, PAIRS, PLACES


def _listed(kinds: Iterable[Kind]) -> str:
    return ", ".join(f"{kind:d}" for kind in sorted(kinds))


_BUILDING = [rule for rule in RULES.values() if rule.parents]
_STANDING = {rule.kind for rule in RULES.values() if not rule.parents}

_VALUES: dict[str, object] = {
    **{kind.name: int(kind) for kind in Kind},
    **{status.name: int(status) for status in Status},
    "BY_SERVICE": int(Origin.CAPTURE),
    "MOVING": _listed(REVERSIBLE | {Kind.REVERSAL, Kind.CROSS_CREDIT, Kind.CROSS_DEBIT}),
    "ALWAYS_BUILDING": _listed(
        rule.kind for rule in _BUILDING if rule.kind > Kind.TRANSFER and rule.kind not in _STANDING
    ),
    "PARENT_KINDS": " ".join(
        f"WHEN {rule.kind:d} THEN p.kind IN ({_listed(rule.parents)})" for rule in _BUILDING
    ),
    "NO_DEBITS": int(Frozen.DEBITS | Frozen.CLOSED),
    "NO_CREDITS": int(Frozen.CREDITS | Frozen.CLOSED),
    "CLOSED": int(Frozen.CLOSED),
}


class Check:
    """A query that returns one row (where, what) for each violation.

    Names in braces in the query, such as kinds, are replaced by their stored values.
    """

    def __init__(self, invariant: int, query: str) -> None:
        self.invariant = invariant
        self.query = query.format(**_VALUES)


# What a transaction did to an account together obeys the policy that was in effect then. What takes
# available below the floor does it by a force that is written down; what raises it may.
OBEYS_POLICY = """
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
                FROM THE_ENTRIES
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
           OR e.restricted & {NO_DEBITS} > 0 AND e.debited
              AND (SELECT kind FROM ledger.transactions t
                   WHERE t.ledger_id = e.ledger_id AND t.id = e.transaction_id)
                  IS DISTINCT FROM {CROSS_DEBIT}
           OR e.restricted & {NO_CREDITS} > 0 AND e.credited
        """

# Each is run once, and reads the catalogue and a few rows.
CATALOGUE = [
    Check(
        5,
        """
        SELECT 'trigger ' || name, 'the guard is missing, disabled or another function''s'
        FROM unnest((:triggers)::text[], (:functions)::text[]) AS expected (name, function)
        WHERE NOT EXISTS (
            SELECT FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
            WHERE c.relnamespace = 'ledger'::regnamespace AND t.tgname = name
              AND t.tgfoid = to_regproc((:schema)::text || '.' || function)
              AND t.tgenabled = 'A')
        """,
    ),
    Check(
        5,
        """
        SELECT 'function ' || name,
               'its text, owner, rights or settings are not those of the schema'
        FROM unnest((:bodies)::text[], (:defined)::text[], (:definer)::boolean[],
                    (:options)::text[]) AS expected (body, name, definer, options)
        WHERE NOT EXISTS (
            SELECT FROM pg_proc p
            WHERE pronamespace = 'ledger'::regnamespace AND proname = name AND prosrc = body
              AND prosecdef = definer AND array_to_string(proconfig, ';') = options
              AND proowner = (SELECT relowner FROM pg_class
                              WHERE oid = to_regclass((:schema)::text || '.entries'))
              AND NOT EXISTS (SELECT FROM aclexplode(coalesce(proacl, acldefault('f', proowner)))
                              WHERE grantee = 0))
        """,
    ),
    Check(
        5,
        """
        SELECT what || ' ' || name, 'it is not part of the schema'
        FROM (
            SELECT 'function' AS what, proname AS name FROM pg_proc
            WHERE pronamespace = 'ledger'::regnamespace AND proname <> ALL ((:defined)::text[])
            UNION ALL
            SELECT 'trigger', tgname FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
            WHERE c.relnamespace = 'ledger'::regnamespace AND NOT tgisinternal
              AND tgname <> ALL ((:triggers)::text[])
              AND NOT EXISTS (
                  SELECT FROM ledger.fence_triggers() f
                  WHERE f.relation = t.tgrelid AND f.name = t.tgname
                    AND (f.definition = pg_get_triggerdef(t.oid)
                         OR f.definition IS NULL AND t.tgenabled = 'D'))
            UNION ALL
            SELECT 'rule', rulename FROM pg_rewrite r JOIN pg_class c ON c.oid = r.ev_class
            WHERE c.relnamespace = 'ledger'::regnamespace
            UNION ALL
            SELECT 'row security policy', polname FROM pg_policy p
            JOIN pg_class c ON c.oid = p.polrelid WHERE c.relnamespace = 'ledger'::regnamespace
            UNION ALL
            SELECT 'cast', castsource::regtype || ' as ' || casttarget::regtype FROM pg_cast
            WHERE oid >= 16384
        ) strange
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
        FROM ledger.ledgers l
        JOIN ledger.currencies c ON c.ledger_id IS NULL OR c.ledger_id = l.ledger_id
        WHERE NOT EXISTS (SELECT FROM ledger.accounts a
                          WHERE a.ledger_id = l.ledger_id AND a.id = -c.number)
          AND NOT EXISTS (SELECT FROM ledger.fences f
                          WHERE f.ledger_id = l.ledger_id
                            AND f.state IN ('arriving', 'left', 'removing'))
        """,
    ),
    Check(
        5,
        """
        SELECT 'trigger ' || f.name || ' on ' || f.relation,
               'the fence of a ledger that moves, or has moved, is missing or not as it must be'
        FROM ledger.fence_triggers() f
        WHERE f.definition IS NOT NULL AND NOT EXISTS (
            SELECT FROM pg_trigger t
            WHERE t.tgrelid = f.relation AND t.tgname = f.name AND t.tgenabled = 'A'
              AND pg_get_triggerdef(t.oid) = f.definition)
        """,
    ),
]
# Each is run once, and reads every proposal.
APPROVALS = [Check(6, APPROVED), Check(6, SAME_BYTES)]
# Each is run once, and reads every account or every entry.
BOOKS = [
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
        SELECT 'audit record ' || id,
               CASE WHEN id <> id_before + 1 THEN 'its predecessor is missing'
                    WHEN recorded_at < recorded_before THEN 'it is before its predecessor'
                    ELSE 'it does not continue the chain' END
        FROM (
            SELECT id, recorded_at, digest, lag(id, 1, 0::bigint) OVER chain AS id_before,
                   lag(recorded_at) OVER chain AS recorded_before,
                   ledger.audit_digest(lag(digest, 1, ''::bytea) OVER chain, a) AS expected
            FROM ledger.audit a WINDOW chain AS (ORDER BY id)
        ) a
        WHERE id <> id_before + 1 OR recorded_at < recorded_before OR digest <> expected
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
# It is run once, and reads the clearing accounts and the open holds.
CROSSINGS = [Check(8, PAIRS)]
WHOLE = [*CATALOGUE, *BOOKS, *APPROVALS, *CROSSINGS]

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
                    WHEN transaction_id < transaction_before THEN
                        'its transaction ' || transaction_id || ' is before its predecessor''s'
                    ELSE 'its recorded_at is before its predecessor''s' END
        FROM (
            SELECT ledger_id, account_id, seq, amount, held_change, balance, held, recorded_at,
                   row_number() OVER account AS place,
                   lag(balance, 1, 0::bigint) OVER account AS before,
                   lag(held, 1, 0::bigint) OVER account AS held_before,
                   lag(recorded_at) OVER account AS recorded_before, transaction_id,
                   lag(transaction_id) OVER account AS transaction_before
            FROM ledger.entries WHERE ledger_id = :ledger AND account_id BETWEEN :low AND :high
            WINDOW account AS (PARTITION BY ledger_id, account_id ORDER BY seq)
        ) e
        WHERE seq <> place OR balance <> before + amount OR held <> held_before + held_change
           OR recorded_at < recorded_before OR transaction_id < transaction_before
        """,
    ),
    # Of accounts whose policy never changed: the floor is 0, and nothing else bounds them. The next
    # check is for the others.
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
    Check(
        3,
        OBEYS_POLICY.replace(
            "THE_ENTRIES",
            """(SELECT DISTINCT ledger_id, account_id FROM ledger.policies
                WHERE ledger_id = :ledger AND account_id BETWEEN :low AND :high) a
               JOIN ledger.entries USING (ledger_id, account_id)""",
        ),
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
               OR a.restricted >= {CLOSED} AND (a.balance <> 0 OR a.held <> 0))
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
               OR t.kind IS DISTINCT FROM
                  CASE WHEN p.lowest IS NULL THEN {POLICY} ELSE {REVERSAL} END)
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
        GROUP BY ledger_id, account_id, origin, idempotency_key HAVING count(*) > 1
        """,
    ),
    Check(8, CLEARING),
    Check(8, PLACES),
]
