-- All that the service may do. No right to write a balance, and none to change history.
GRANT USAGE ON SCHEMA ledger TO {role};
GRANT SELECT ON ALL TABLES IN SCHEMA ledger TO {role};
GRANT INSERT (name) ON ledger.ledgers TO {role};
GRANT INSERT (ledger_id, owner, currency, reference, idempotency_key)
    ON ledger.accounts TO {role};
GRANT INSERT (code, exponent, name) ON ledger.currencies TO {role};
GRANT UPDATE (row_lock) ON ledger.accounts TO {role};
GRANT INSERT (ledger_id, id, kind, status, account_id, counterparty_id, amount, recorded_at,
              deciding_account_id, deciding_version, deciding_available, renderer,
              idempotency_key, decline_reason)
    ON ledger.transactions TO {role};
GRANT INSERT ON ledger.entries, ledger.details, ledger.policies, ledger.dated_entries,
    ledger.account_details TO {role};
GRANT INSERT (ledger_id, transaction_id, account_id, counterparty_id, amount, expires_at,
              capture_at)
    ON ledger.holds TO {role};
GRANT INSERT (ledger_id, transaction_id, account_id, counterparty_id, amount, execute_at)
    ON ledger.schedules TO {role};
GRANT USAGE ON SEQUENCE ledger.account_id, ledger.transaction_id, ledger.currency_number,
    ledger.ledger_id TO {role};
GRANT SELECT ON SEQUENCE ledger.account_id, ledger.ledger_id TO {role};
