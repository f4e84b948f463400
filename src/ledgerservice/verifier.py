"""Proves the invariants over a whole database, and names what breaks them.

It believes nothing that a superuser could have written past the guards. All of it is read in one
snapshot, range of ids by range of ids, so that memory stays flat and progress can be shown.
"""

from collections.abc import Callable, Iterator
from typing import NamedTuple

from sqlalchemy import Connection, Engine, text

ACCOUNTS_A_STEP = 5_000
TRANSACTIONS_A_STEP = 50_000


class Violation(NamedTuple):
    """A broken invariant (1 to 6, as DESIGN.md numbers them) and the row that breaks it."""

    invariant: int
    where: str
    what: str

    def __str__(self) -> str:
        return f"invariant {self.invariant}: {self.where}: {self.what}"


class Check(NamedTuple):
    """A query that returns one row (where, what) for each violation."""

    invariant: int
    query: str


Step = tuple[Check, dict[str, int]]

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
        SELECT 'trigger ' || name, 'the guard is missing or disabled'
        FROM unnest(ARRAY['transactions_immutable', 'entries_immutable', 'accounts_permanent',
                          'accounts_derived', 'entries_post', 'accounts_open',
                          'currencies_permanent']) AS name
        WHERE NOT EXISTS (
            SELECT FROM pg_trigger t JOIN pg_class c ON c.oid = t.tgrelid
            WHERE c.relnamespace = 'ledger'::regnamespace AND t.tgname = name
              AND t.tgenabled <> 'D')
        """,
    ),
    Check(
        3,
        """
        SELECT 'constraint ' || name, 'the guard is missing or not validated'
        FROM unnest(ARRAY['accounts_available_above_floor', 'accounts_balance_limit',
                          'accounts_held_not_negative', 'transactions_decline',
                          'transactions_idempotency_key']) AS name
        WHERE NOT EXISTS (
            SELECT FROM pg_constraint
            WHERE connamespace = 'ledger'::regnamespace AND conname = name AND convalidated)
        """,
    ),
]

# Each is run for every range of account ids, :low to :high.
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
            FROM ledger.entries WHERE account_id BETWEEN :low AND :high
            WINDOW account AS (PARTITION BY ledger_id, account_id ORDER BY seq)
        ) e
        WHERE seq <> place OR balance <> before + amount OR held <> held_before + held_change
           OR recorded_at < recorded_before
        """,
    ),
    Check(
        3,
        """
        SELECT 'account ' || e.account_id || ', ledger ' || e.ledger_id || ', seq ' || e.seq,
               'available ' || e.balance - e.held || ' is below the floor ' || a.floor
        FROM ledger.entries e JOIN ledger.accounts a
          ON a.ledger_id = e.ledger_id AND a.id = e.account_id
        WHERE e.account_id BETWEEN :low AND :high AND e.balance - e.held < a.floor
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
        FROM (SELECT * FROM ledger.accounts WHERE id BETWEEN :low AND :high) a
        FULL JOIN (
            SELECT DISTINCT ON (ledger_id, account_id) *
            FROM ledger.entries WHERE account_id BETWEEN :low AND :high
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
        FROM ledger.transactions WHERE account_id BETWEEN :low AND :high
        GROUP BY ledger_id, account_id, idempotency_key HAVING count(*) > 1
        """,
    ),
]

# Each is run for every range of transaction ids, :low to :high.
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
        FROM (SELECT * FROM ledger.transactions WHERE id BETWEEN :low AND :high) t
        FULL JOIN (
            SELECT e.ledger_id, e.transaction_id, count(*) AS entries,
                   max(abs(total)) AS total,
                   bool_or(other_moment) AS other_moment, bool_and(expected) AS expected,
                   sum(rows) AS rows
            FROM (
                SELECT e.ledger_id, e.transaction_id, e.currency_number,
                       sum(e.amount) AS total, count(*) AS rows,
                       bool_or(e.recorded_at <> t.recorded_at) AS other_moment,
                       bool_and(coalesce(e.amount = t.amount
                           * CASE WHEN e.account_id = t.account_id THEN 1
                                  WHEN e.account_id = t.counterparty_id THEN -1 END
                           * CASE t.kind WHEN 1 THEN 1 ELSE -1 END, false)) AS expected
                FROM ledger.entries e LEFT JOIN ledger.transactions t
                  ON t.ledger_id = e.ledger_id AND t.id = e.transaction_id
                WHERE e.transaction_id BETWEEN :low AND :high
                GROUP BY e.ledger_id, e.transaction_id, e.currency_number
            ) e GROUP BY e.ledger_id, e.transaction_id
        ) e ON e.ledger_id = t.ledger_id AND e.transaction_id = t.id
        WHERE t.id IS NULL
           OR (t.status = 2) = (e.transaction_id IS NOT NULL)
           OR t.status = 1 AND (e.total <> 0 OR e.other_moment OR e.rows <> 2
                                OR e.expected IS NOT TRUE)
        """,
    ),
]

_ACCOUNT_RANGE = text(
    "SELECT least(min(a), min(e)), greatest(max(a), max(e)) FROM"
    " (SELECT min(id) AS a, NULL::bigint AS e FROM ledger.accounts"
    "  UNION ALL SELECT max(id), NULL FROM ledger.accounts"
    "  UNION ALL SELECT NULL, min(account_id) FROM ledger.entries"
    "  UNION ALL SELECT NULL, max(account_id) FROM ledger.entries) r"
)
_TRANSACTION_RANGE = text(
    "SELECT least(min(t), min(e)), greatest(max(t), max(e)) FROM"
    " (SELECT min(id) AS t, NULL::bigint AS e FROM ledger.transactions"
    "  UNION ALL SELECT max(id), NULL FROM ledger.transactions"
    "  UNION ALL SELECT NULL, min(transaction_id) FROM ledger.entries"
    "  UNION ALL SELECT NULL, max(transaction_id) FROM ledger.entries) r"
)

Progress = Callable[[int, int], None]


def verify(engine: Engine, progress: Progress = lambda _done, _of: None) -> Iterator[Violation]:
    """Every violation in the database, as it is found.

    `progress` is called with the steps done and their number, after each step.
    """
    with engine.connect().execution_options(
        isolation_level="REPEATABLE READ", postgresql_readonly=True
    ) as connection:
        steps: list[Step] = [(check, {}) for check in WHOLE]
        steps += _ranges(connection, BY_ACCOUNT, _ACCOUNT_RANGE, ACCOUNTS_A_STEP)
        steps += _ranges(connection, BY_TRANSACTION, _TRANSACTION_RANGE, TRANSACTIONS_A_STEP)
        for done, (check, bounds) in enumerate(steps, start=1):
            for where, what in connection.execute(text(check.query), bounds).yield_per(1_000):
                yield Violation(check.invariant, where, what)
            progress(done, len(steps))


def _ranges(connection: Connection, checks: list[Check], ends: object, size: int) -> list[Step]:
    low, high = connection.execute(ends).one()  # type: ignore[call-overload]
    if low is None:
        return []
    return [
        (check, {"low": start, "high": start + size - 1})
        for start in range(low, high + 1, size)
        for check in checks
    ]
