"""Rows of the journal, inserted one by one past the write path."""

import psycopg

DENIED = psycopg.errors.InsufficientPrivilege
REFUSED = psycopg.errors.CheckViolation


# What the journal's trigger refuses. Each case is a list of rows that the service's role inserts
# in one database transaction: ("t", id, status) or ("e", transaction, account, seq, amount,
# balance, **changes). Account 1 stands at 100, version 1; 2 at 0, version 0; 3 (INR) at 100.

T = [("t", 900, 1)]


def e(transaction, account, seq, amount, balance, **changes):
    return ("e", transaction, account, seq, amount, balance, changes)


GOOD = [*T, e(900, 1, 2, -30, 70), e(900, 2, 1, 30, 30)]


def insert_transaction(connection, row, seqs=None):
    """A transfer from account 1 to 2 whose entries have these seqs; without, one of many legs."""
    _, number, status, *moment = row
    decline = "'balance_limit', 1, 1, 0, 0" if status == 2 else "NULL, NULL, NULL, NULL, NULL"
    kind, counterparty = (3, 2) if seqs else (4, "NULL")
    own_seq, other_seq = seqs or ("NULL", "NULL")
    connection.execute(
        "INSERT INTO ledger.transactions (ledger_id, id, kind, status, account_id,"
        " counterparty_id, amount, recorded_at, renderer, idempotency_key, account_seq,"
        " counterparty_seq, has_details, decline_reason, deciding_account_id, deciding_version,"
        " deciding_available, deciding_balance) VALUES"
        f" (1, {number}, {kind}, {status}, 1, {counterparty}, 30,"
        f" {moment[0] if moment else 'now()'}, 1, 'k{number}', {own_seq}, {other_seq},"
        f" {kind == 4}, {decline})"
    )


def entry_values(row) -> str:
    _, transaction, account, seq, amount, balance, changes = row
    facts = {"currency": 1, "held": 0, "held_change": 0, "moment": "now()"} | changes
    moment = facts["moment"]
    if transaction == 1:
        moment = "(SELECT recorded_at FROM ledger.transactions WHERE id = 1)"
    return (
        f"(1, {facts['currency']}, {account}, {seq}, {transaction}, {amount},"
        f" {facts['held_change']}, {balance}, {facts['held']}, {moment})"
    )


ENTRY_COLUMNS = (
    "ledger_id, currency_number, account_id, seq, transaction_id, amount, held_change, balance,"
    " held, recorded_at"
)


def write(connection, rows, seqs=None):
    for row in rows:
        if row[0] == "t":
            insert_transaction(connection, row, None if row[2] == 2 else seqs)
    entries = ", ".join(entry_values(row) for row in rows if row[0] == "e")
    connection.execute(f"INSERT INTO ledger.entries ({ENTRY_COLUMNS}) VALUES {entries}")


def balances(connection) -> list[tuple[int, int, int]]:
    return connection.execute(
        "SELECT id, balance, version FROM ledger.accounts WHERE id > 0 ORDER BY id"
    ).fetchall()
