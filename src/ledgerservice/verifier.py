"""Proves the invariants over a whole database, and names what breaks them.

It believes nothing that a superuser could have written past the guards. All of it is read in one
snapshot, range of ids by range of ids, so that memory stays flat and progress can be shown.
"""

import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import Connection, Engine, TextClause, text

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


Bounds = dict[str, int]
Step = tuple[Check, Mapping[str, Any]]

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
        SELECT 'function ' || proname, 'it is not what the migrations made'
        FROM pg_proc
        WHERE pronamespace = 'ledger'::regnamespace AND position(prosrc IN :source) = 0
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
    Check(
        3,
        """
        SELECT 'account ' || e.account_id || ', ledger ' || e.ledger_id || ', seq ' || e.seq,
               'available ' || e.balance - e.held || ' is below the floor ' || a.floor
        FROM ledger.entries e JOIN ledger.accounts a
          ON a.ledger_id = e.ledger_id AND a.id = e.account_id
        WHERE e.ledger_id = :ledger AND e.account_id BETWEEN :low AND :high
          AND e.balance - e.held < a.floor
        """,
    ),
    Check(
        3,
        """
        SELECT 'account ' || id || ', ledger ' || ledger_id,
               'its floor is ' || coalesce(floor::text, 'missing') || ', though nobody granted that'
        FROM ledger.accounts
        WHERE ledger_id = :ledger AND id BETWEEN :low AND :high
          AND id > 0 AND floor IS DISTINCT FROM 0
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
                       bool_and(coalesce(e.amount = t.amount
                           * CASE WHEN e.account_id = t.account_id THEN 1
                                  WHEN e.account_id = t.counterparty_id THEN -1 END
                           * CASE t.kind WHEN 1 THEN 1 ELSE -1 END, false)) AS expected
                FROM ledger.entries e LEFT JOIN ledger.transactions t
                  ON t.ledger_id = e.ledger_id AND t.id = e.transaction_id
                WHERE e.ledger_id = :ledger AND e.transaction_id BETWEEN :low AND :high
                GROUP BY e.ledger_id, e.transaction_id, e.currency_number
            ) e GROUP BY e.ledger_id, e.transaction_id
        ) e ON e.ledger_id = t.ledger_id AND e.transaction_id = t.id
        WHERE t.id IS NULL
           OR (t.status = 2) = (e.transaction_id IS NOT NULL)
           OR t.status = 1 AND (e.total <> 0 OR e.other_moment OR e.rows <> 2
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
        FROM ledger.transactions t LEFT JOIN ledger.entries e
          ON e.ledger_id = t.ledger_id AND e.account_id = t.deciding_account_id
         AND e.seq = t.deciding_version
        WHERE t.ledger_id = :ledger AND t.id BETWEEN :low AND :high AND t.status = 2
          AND CASE WHEN t.deciding_version = 0 THEN t.deciding_available <> 0
                   ELSE t.deciding_available IS DISTINCT FROM e.balance - e.held END
        """,
    ),
]

_LEDGERS = text("SELECT ledger_id FROM ledger.ledgers ORDER BY ledger_id")
_END_OF_ACCOUNTS = text(
    "SELECT id FROM ledger.accounts WHERE ledger_id = :ledger AND id >= :low"
    " ORDER BY id OFFSET :size LIMIT 1"
)
_END_OF_TRANSACTIONS = text(
    "SELECT id FROM ledger.transactions WHERE ledger_id = :ledger AND id >= :low"
    " ORDER BY id OFFSET :size LIMIT 1"
)
SMALLEST, BIGGEST = -(2**63), 2**63 - 1

# What guards there must be is read from where they are made.
_SOURCE = "".join(
    file.read_text()
    for file in sorted((Path(__file__).parent / "migrations" / "versions").glob("*.sql"))
)
_TRIGGERS = re.findall(r"CREATE TRIGGER (\w+)[^;]*?EXECUTE FUNCTION ledger\.(\w+)", _SOURCE)
_ALWAYS = set(re.findall(r"ENABLE ALWAYS TRIGGER (\w+)", _SOURCE))
_GUARDS: dict[str, Any] = {
    "source": _SOURCE,
    "triggers": [name for name, _ in _TRIGGERS],
    "functions": [function for _, function in _TRIGGERS],
    "always": [name in _ALWAYS for name, _ in _TRIGGERS],
    "constraints": re.findall(r"CONSTRAINT (\w+)", _SOURCE),
}

Progress = Callable[[int, int], None]


def verify(engine: Engine, progress: Progress = lambda _done, _of: None) -> Iterator[Violation]:
    """Every violation in the database, as it is found.

    `progress` is called with the steps done and their number, after each step.
    """
    with engine.connect().execution_options(
        isolation_level="REPEATABLE READ", postgresql_readonly=True
    ) as connection:
        steps: list[Step] = [(check, _GUARDS) for check in WHOLE]
        for (ledger,) in connection.execute(_LEDGERS).all():
            for checks, end, size in (
                (BY_ACCOUNT, _END_OF_ACCOUNTS, ACCOUNTS_A_STEP),
                (BY_TRANSACTION, _END_OF_TRANSACTIONS, TRANSACTIONS_A_STEP),
            ):
                ranges = _ranges(connection, end, ledger, size)
                steps += [(check, bounds) for bounds in ranges for check in checks]
        for done, (check, values) in enumerate(steps, start=1):
            for where, what in connection.execute(text(check.query), values).yield_per(1_000):
                yield Violation(check.invariant, where, what)
            progress(done, len(steps))


def _ranges(connection: Connection, end: TextClause, ledger: int, size: int) -> list[Bounds]:
    """All ids there could be, in ranges that hold `size` rows each."""
    ranges: list[Bounds] = []
    low: int | None = SMALLEST
    while low is not None:
        values = {"ledger": ledger, "low": low}
        after = connection.scalar(end, {**values, "size": size})
        ranges.append({**values, "high": BIGGEST if after is None else after - 1})
        low = after
    return ranges
