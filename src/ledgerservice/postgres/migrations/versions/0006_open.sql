-- Many may end at the same moment, or never: the id makes the order one that a page can end in.
DROP INDEX ledger.holds_open, ledger.schedules_account;
CREATE INDEX holds_open ON ledger.holds (ledger_id, account_id, ends_at, transaction_id)
    WHERE remaining > 0;
CREATE INDEX schedules_account ON ledger.schedules
    (ledger_id, account_id, execute_at, transaction_id)
    WHERE settled_by IS NULL;
