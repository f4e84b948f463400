"""A ledger of 120,000 transactions, half of them of account 1, and what is asked of it."""

from datetime import UTC, datetime, timedelta
from typing import Any

from ledgerservice.domain.instructions import Kind
from ledgerservice.domain.transactions import Status
from ledgerservice.postgres.queries.transaction_filters import NEWEST
from ledgerservice.postgres.queries.transaction_filters import TransactionFilter as Filter

ACCOUNTS, TRANSACTIONS = 2_000, 120_000
PAGE = 50

FILL = f"""
ALTER TABLE ledger.accounts DROP CONSTRAINT accounts_external_has_no_change;
INSERT INTO ledger.accounts (ledger_id, id, owner, currency, currency_number, exponent, reference,
                             version, restricted)
SELECT 1, a, CASE WHEN a > 400 THEN 'many' ELSE 'owner ' || a / 4 END, 'USD', 1, 2,
       'account ' || a, 0, (a % 500 = 0)::int
FROM generate_series(1, {ACCOUNTS}) a;
ALTER TABLE ledger.transactions DROP CONSTRAINT transactions_decline;
INSERT INTO ledger.transactions (ledger_id, id, kind, status, account_id, counterparty_id, amount,
    recorded_at, renderer, has_details, idempotency_key, decline_reason, deciding_account_id,
    deciding_version, deciding_available, deciding_balance)
SELECT 1, n, CASE WHEN n % 1000 = 7 THEN 1 ELSE 3 END, CASE WHEN n % 400 = 5 THEN 2 ELSE 1 END,
       CASE WHEN n % 2 = 0 THEN 1 ELSE 2 + n % 1900 END, 2000 - n % 50,
       CASE WHEN n % 3000 = 11 THEN 77777 + n ELSE 1 + n % 100 END,
       timestamptz '2026-01-01' + n / 20 * interval '1 s', 1, n % 10 = 0,
       'key ' || n, CASE WHEN n % 400 = 5 THEN 'insufficient_funds' END,
       CASE WHEN n % 400 = 5 THEN 2 END, CASE WHEN n % 400 = 5 THEN 0 END,
       CASE WHEN n % 400 = 5 THEN 0 END, CASE WHEN n % 400 = 5 THEN 0 END
FROM generate_series(1, {TRANSACTIONS}) n;
INSERT INTO ledger.entries (ledger_id, currency_number, account_id, seq, transaction_id, amount,
    held_change, balance, held, recorded_at)
SELECT 1, 1, account, row_number() OVER (PARTITION BY account ORDER BY id), id, amount, 0, 0,
       CASE WHEN account = 1 AND id > 2000 THEN 5 ELSE 0 END, recorded_at
FROM (SELECT id, account_id AS account, -amount AS amount, recorded_at FROM ledger.transactions
      WHERE status = 1
      UNION ALL SELECT id, counterparty_id, amount, recorded_at FROM ledger.transactions
      WHERE status = 1) legs;
UPDATE ledger.accounts a SET version = s.seq
FROM (SELECT account_id, max(seq) AS seq FROM ledger.entries GROUP BY 1) s
WHERE s.account_id = a.id;
INSERT INTO ledger.details (ledger_id, transaction_id, digest, parent_id, reference, metadata)
SELECT 1, id, sha256(id::text::bytea), id / 10, CASE WHEN id BETWEEN 2000 AND 30000 THEN 'payroll'
       WHEN id % 20 = 0 THEN 'often' ELSE 'ref ' || id END,
       json_build_object('order', id, 'often', 'yes', 'some', id % 50, 'campaign',
                         CASE WHEN id BETWEEN 2000 AND 30000 THEN '2019' END)
FROM ledger.transactions WHERE has_details;
INSERT INTO ledger.holds (ledger_id, transaction_id, account_id, counterparty_id, amount, remaining,
                          captured, expires_at)
SELECT 1, n, 1, -1, 5, 0, 0, timestamptz '2026-01-01 00:01' FROM generate_series(1, 12000) n;
INSERT INTO ledger.holds (ledger_id, transaction_id, account_id, counterparty_id, amount, remaining,
                          captured, expires_at)
SELECT 1, n, CASE WHEN n <= 24000 THEN 3 ELSE 4 + n % 1900 END, -1, 5, 5, 0,
       CASE n % 3 WHEN 1 THEN timestamptz '2099-01-01'
                  WHEN 2 THEN timestamptz '2099-01-01' + n * interval '1 s' END
FROM generate_series(12001, 36000) n;
INSERT INTO ledger.schedules (ledger_id, transaction_id, account_id, counterparty_id, amount,
                              execute_at, settled_by)
SELECT 1, n, CASE WHEN n < 48000 THEN 3 ELSE 4 + n % 1900 END, 2, 5,
       timestamptz '2099-01-01' + n / 6000 * interval '1 s',
       CASE WHEN n % 2 = 0 THEN n END
FROM generate_series(24001, 72000) n;
ANALYZE ledger.accounts, ledger.transactions, ledger.entries, ledger.details, ledger.holds,
    ledger.schedules;
"""


def at(n: int) -> Any:
    return datetime(2026, 1, 1, tzinfo=UTC) + timedelta(seconds=n // 20)


FILL_DATED = """
INSERT INTO ledger.dated_entries (ledger_id, account_id, effective_at, seq, transaction_id, amount,
                                  recorded_at)
SELECT 1, e.account_id, d.effective_at, e.seq, e.transaction_id, e.amount, e.recorded_at
FROM ledger.details d
JOIN ledger.entries e ON e.ledger_id = d.ledger_id AND e.transaction_id = d.transaction_id
WHERE d.effective_at IS NOT NULL;
ANALYZE ledger.transactions, ledger.details, ledger.dated_entries
"""
MIX = f"""
UPDATE ledger.details
SET effective_at = timestamptz '2026-01-01'
    + transaction_id * 7919 % {TRANSACTIONS} / 20 * interval '1 s'
WHERE transaction_id % 20 = 0;
{FILL_DATED}
"""
"""A twentieth takes effect at any time about the others' recording."""

IMPORT = f"""
INSERT INTO ledger.details (ledger_id, transaction_id, digest)
SELECT 1, id, sha256(id::text::bytea) FROM ledger.transactions
WHERE NOT has_details AND id <= {TRANSACTIONS - 2000};
UPDATE ledger.transactions SET has_details = true WHERE id <= {TRANSACTIONS - 2000};
UPDATE ledger.details
SET effective_at = timestamptz '1993-01-01' + transaction_id / 1000 * interval '1 day'
WHERE transaction_id <= {TRANSACTIONS - 2000};
{FILL_DATED}
"""
"""All but the last 2,000 were imported, and took effect from 1993 on, 1,000 on each day."""

PLACES = {
    "first page": NEWEST,
    "in the middle": (at(TRANSACTIONS // 2), 0),
    "last page": (at(300), 0),
}
COSTS = {
    "everything": Filter(),
    "a frequent kind": Filter(kind=Kind.TRANSFER),
    "a rare kind": Filter(kind=Kind.DEPOSIT),
    "a kind that there is not": Filter(kind=Kind.HOLD),
    "what was declined": Filter(status=Status.DECLINED),
    "a rare kind, declined": Filter(kind=Kind.DEPOSIT, status=Status.DECLINED),
    "a time long ago": Filter(since=at(1000), until=at(3000)),
    "a time with nothing": Filter(since=at(-9000), until=at(-1000)),
    "a busy account": Filter(account_id=1),
    "a quiet account": Filter(account_id=77),
    "an account that there is not": Filter(account_id=10**9),
    "a busy account's declines": Filter(account_id=2, status=Status.DECLINED),
    "a busy account long ago": Filter(account_id=1, since=at(1000), until=at(3000)),
    "a busy account for two seconds": Filter(account_id=1, since=at(1000), until=at(1040)),
    "a quiet account for long": Filter(account_id=77, since=at(1000), until=at(110_000)),
    "an owner for long": Filter(owner="owner 30", since=at(1000), until=at(110_000)),
    "an owner": Filter(owner="owner 0"),
    "a quiet owner": Filter(owner="owner 30"),
    "nobody": Filter(owner="nobody"),
    "a rare amount": Filter(currency="USD", min_amount=77777 + 3011, max_amount=77777 + 3011),
    "rare amounts": Filter(currency="USD", min_amount=77777),
    "a frequent amount": Filter(currency="USD", min_amount=50, max_amount=50),
    "a rare reference": Filter(reference="ref 10"),
    "a currency": Filter(currency="USD"),
    "an account and a rare reference": Filter(account_id=1, reference="ref 10"),
    "an owner and a rare reference": Filter(owner="owner 0", reference="ref 10"),
    "a rare reference and a frequent amount": Filter(
        reference="ref 10", currency="USD", min_amount=2
    ),
    "the owner of many accounts": Filter(owner="many"),
    "a rare kind of the owner of many accounts": Filter(owner="many", kind=Kind.DEPOSIT),
    "a quiet owner's frequent amount": Filter(
        owner="owner 30", currency="USD", min_amount=50, max_amount=50
    ),
    "a quiet account's kind that there is not": Filter(account_id=77, kind=Kind.HOLD),
    "a rare currency": Filter(currency="INR"),
}

# Where the right index has another order, or finds too many rows, the search takes some tries.
RACES = {
    "a reference of long ago": Filter(reference="payroll"),
    "metadata of long ago": Filter(metadata='{"campaign":"2019"}'),
    "a frequent reference": Filter(reference="often"),
    "rare metadata": Filter(metadata='{"order":500}'),
    "metadata of a part": Filter(metadata='{"some":0}'),
    "a busy account's rare metadata": Filter(account_id=1, metadata='{"order":500}'),
    "a busy account's rare kind": Filter(account_id=1, kind=Kind.DEPOSIT),
    "a busy account's frequent kind": Filter(account_id=1, kind=Kind.TRANSFER),
    "a busy account's rare amounts": Filter(account_id=1, currency="USD", min_amount=77777),
    "a frequent reference of a busy account": Filter(account_id=1, reference="often"),
    "frequent metadata": Filter(metadata='{"often":"yes"}'),
    "frequent amounts": Filter(currency="USD", min_amount=20, max_amount=90),
}


CHOICES: dict[str, list[Any]] = {
    "account_id": [1, 77, 399, 10**9],
    "owner": ["owner 0", "owner 30", "many", "nobody"],
    "kind": [Kind.DEPOSIT, Kind.TRANSFER, Kind.HOLD],
    "status": list(Status),
    "currency": ["USD", "INR"],
    "min_amount": [1, 50, 77777],
    "max_amount": [50, 90, 10**9],
    "since": [at(1000), at(100_000)],
    "until": [at(3000), at(110_000)],
    "reference": ["ref 10", "often", "payroll", "none"],
    "metadata": ['{"order":500}', '{"often":"yes"}', '{"campaign":"2019"}', '{"some":0}'],
}
