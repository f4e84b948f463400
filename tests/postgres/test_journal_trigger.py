"""What the journal's trigger refuses, and the constraints beside it."""

import psycopg
import pytest

from ledgerservice.domain.instructions import General, Leg, Reversal
from tests.databases import GUARDS_OFF, ROLE, connect, without_guards
from tests.postgres.rows import (
    ENTRY_COLUMNS,
    GOOD,
    REFUSED,
    T,
    balances,
    e,
    insert_transaction,
    write,
)
from tests.postings import deposit, open_accounts, post

BAD = {
    "does not sum to zero": [*T, e(900, 1, 2, -30, 70), e(900, 2, 1, 31, 31)],
    "sums to zero over two currencies": [
        *T, e(900, 1, 2, -30, 70), e(900, 3, 2, 30, 130, currency=2)],
    "a false currency": [*T, e(900, 1, 2, -30, 70), e(900, 3, 2, 30, 130)],
    "a false currency among right ones": [
        *T, ("t", 901, 1), e(900, 1, 2, -30, 70), e(900, 3, 2, 30, 130),
        e(901, 3, 3, -5, 125, currency=2), e(901, -2, 2, 5, -95, currency=2)],
    "an account that is not there": [*T, e(900, 1, 2, -30, 70), e(900, 99, 1, 30, 30)],
    "a seq that leaves a gap": [*T, e(900, 1, 3, -30, 70), e(900, 2, 1, 30, 30)],
    "a seq that is there already": [*T, e(900, 1, 1, -30, 70), e(900, 2, 1, 30, 30)],
    "a gap within the batch": [
        *T, e(900, 1, 2, -10, 90), e(900, 1, 4, -20, 70), e(900, 2, 1, 30, 30)],
    "a balance that does not continue": [*T, e(900, 1, 2, -30, 71), e(900, 2, 1, 30, 30)],
    "a false balance in between": [
        *T, e(900, 1, 2, -10, 90), e(900, 1, 3, -10, 85), e(900, 1, 4, -10, 70),
        e(900, 2, 1, 30, 30)],
    "a held amount in between": [
        *T, e(900, 1, 2, -10, 90), e(900, 1, 3, -10, 80, held=5), e(900, 1, 4, -10, 70),
        e(900, 2, 1, 30, 30)],
    "held that does not continue": [*T, e(900, 1, 2, -30, 70, held=1), e(900, 2, 1, 30, 30)],
    "held below zero": [
        *T, e(900, 1, 2, -30, 70, held=-1, held_change=-1), e(900, 2, 1, 30, 30)],
    "below the floor": [*T, e(900, 1, 2, -130, -30), e(900, 2, 1, 130, 130)],
    "below the floor in between": [
        *T, ("t", 901, 1),
        e(900, 2, 1, -5, -5), e(900, 1, 2, 5, 105), e(901, 2, 2, 5, 0), e(901, 1, 3, -5, 100)],
    "no transaction": [e(900, 1, 2, -30, 70), e(900, 2, 1, 30, 30)],
    "a declined transaction": [("t", 900, 2), e(900, 1, 2, -30, 70), e(900, 2, 1, 30, 30)],
    "an older transaction": [e(1, 1, 2, -30, 70), e(1, 2, 1, 30, 30)],
    "a moment that is not its transaction's": [
        *T, e(900, 1, 2, -30, 70, moment="now() + interval '2 s'"), e(900, 2, 1, 30, 30)],
    "a moment before its transaction's": [
        *T, e(900, 1, 2, -30, 70), e(900, 2, 1, 30, 30, moment="now() - interval '1 us'")],
    "a moment that runs backwards": [
        ("t", 900, 1, "now() - interval '1 hour'"),
        e(900, 1, 2, -30, 70, moment="now() - interval '1 hour'"),
        e(900, 2, 1, 30, 30, moment="now() - interval '1 hour'")],
}  # fmt: skip


PLAIN_BAD = {  # seqs of a transfer's row from account 1 to 2, and its entries
    "another seq of the account": ((3, 1), GOOD),
    "another seq of the counterparty": ((2, 2), GOOD),
    "the seqs the other way round": ((1, 2), GOOD),
    "another account": ((2, 2), [*T, e(900, 1, 2, -30, 70), e(900, -1, 2, 30, -70)]),
    "an entry too many": ((2, 1), [*GOOD, e(900, 1, 3, 0, 70)]),
}


@pytest.mark.parametrize("case", PLAIN_BAD.values(), ids=PLAIN_BAD.keys())
def test_entries_of_a_plain_movement_are_those_of_its_row(used, case):
    seqs, rows = case
    with connect(used, role=ROLE) as service:
        with pytest.raises(REFUSED, match="not those that it names"), service.transaction():
            write(service, rows, seqs)
        with service.transaction():  # what is right is taken, so it was not something else
            write(service, GOOD, (2, 1))
        assert balances(service)[:2] == [(1, 70, 2), (2, 30, 1)]


def test_a_reversal_of_more_than_one_amount_may_be_is_written(database):
    """Three legs of the largest amount are reversed together."""
    largest = "10000000000000"
    legs = (*[Leg(1, f"-{largest}")] * 3, *[Leg(2, largest)] * 3)
    open_accounts(database, "USD", "USD")
    post(
        database,
        [deposit(1, int(largest), f"funding {n}") for n in range(3)],  # 1, 2, 3
        [General(legs, "general")],  # 4
        [Reversal(4, "reversal")],
    )
    with connect(database) as connection:
        query = "SELECT amount FROM ledger.transactions WHERE idempotency_key = 'reversal'"
        assert connection.execute(query).fetchall() == [(3 * 10**15,)]


@pytest.mark.parametrize("rows", BAD.values(), ids=BAD.keys())
def test_the_journal_refuses(used, rows):
    refused = (REFUSED, psycopg.errors.UniqueViolation)
    with connect(used, role=ROLE) as service:
        with pytest.raises(refused), service.transaction():
            write(service, rows)
        with service.transaction():  # what is right is taken, so it was not something else
            write(service, GOOD)
        assert balances(service)[:2] == [(1, 70, 2), (2, 30, 1)]


def test_a_savepoint_changes_nothing(used):
    with connect(used, role=ROLE) as service:
        with pytest.raises(REFUSED), service.transaction(), service.transaction():
            write(service, BAD["an older transaction"])
        with service.transaction(), service.transaction():
            write(service, GOOD)
        assert balances(service)[0] == (1, 70, 2)


def test_copy_is_checked_too(used):
    copy = f"COPY ledger.entries ({ENTRY_COLUMNS}) FROM STDIN"
    with connect(used, role=ROLE) as service:
        with pytest.raises(REFUSED), service.transaction():  # noqa: PT012
            insert_transaction(service, T[0])
            [(now,)] = service.execute("SELECT now()").fetchall()
            with service.cursor().copy(copy) as rows:
                rows.write(f"1\t1\t1\t2\t900\t-30\t0\t71\t0\t{now.isoformat()}\n")
                rows.write(f"1\t1\t2\t1\t900\t30\t0\t30\t0\t{now.isoformat()}\n")
        assert balances(service)[0] == (1, 100, 1)


def test_a_key_is_used_once(used):
    with connect(used, role=ROLE) as service, pytest.raises(psycopg.errors.UniqueViolation):
        service.execute(
            "INSERT INTO ledger.transactions (ledger_id, id, kind, status, account_id,"
            " counterparty_id, amount, recorded_at, renderer, idempotency_key, account_seq,"
            " counterparty_seq) VALUES (1, 905, 1, 1, 1, -1, 5, now(), 1, 'funding', 2, 2)"
        )


@pytest.mark.parametrize(
    "change",
    ["amount = 0", "amount = -5", "amount = 1000000000000001", "kind = 9", "status = 3",
     "counterparty_id = account_id", "status = 2", "decline_reason = 'x'", "idempotency_key = ''",
     "account_seq = NULL", "kind = 4"],
)  # fmt: skip
def test_a_transaction_row_makes_sense(used, change):
    column, value = change.split(" = ")
    facts = {"ledger_id": "1", "id": "905", "kind": "1", "status": "1", "account_id": "1",
             "counterparty_id": "-1", "amount": "5", "recorded_at": "now()", "renderer": "1",
             "idempotency_key": "'new'", "account_seq": "2",
             "counterparty_seq": "2"} | {column: value.replace("account_id", "1")}  # fmt: skip
    with connect(used, role=ROLE) as service, pytest.raises(REFUSED):
        service.execute(
            f"INSERT INTO ledger.transactions ({', '.join(facts)})"
            f" VALUES ({', '.join(facts.values())})"
        )


def test_a_restored_transaction_takes_no_entries_though_the_counting_begins_anew(used):
    """A new cluster reaches the number of the database transaction that wrote it once more."""
    with connect(used) as owner, owner.transaction(force_rollback=True):
        with without_guards(owner):
            owner.execute("UPDATE ledger.transactions SET posted_by = pg_current_xact_id()")
        with pytest.raises(REFUSED, match="not of this database transaction"):
            owner.execute(
                "INSERT INTO ledger.entries SELECT ledger_id, currency_number, account_id, seq + 2,"
                " transaction_id, 0, 0, balance, held, recorded_at"
                " FROM ledger.entries WHERE transaction_id = 1"
            )


def test_the_floor_holds_without_the_journal_s_trigger_too(database):
    open_accounts(database, "USD")
    with connect(database) as owner:
        owner.execute(GUARDS_OFF)
        with pytest.raises(REFUSED, match="available_above_floor"):
            owner.execute("UPDATE ledger.accounts SET balance = -1 WHERE id = 1")
