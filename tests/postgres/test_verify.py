"""`verify` finds whatever a superuser could break, and names it."""

from collections.abc import Callable

import pytest

from ledgerservice.postgres import verification as verifier
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.verification import verify
from tests.postgres.breaking import SOME, violations
from tests.postings import open_accounts, post


@pytest.fixture(scope="module")
def used_once(new_database: Callable[..., Database]) -> Database:
    database = new_database()
    open_accounts(database, "USD", "USD", "INR")
    post(database, *SOME)
    return database


@pytest.fixture
def used(new_database: Callable[..., Database], used_once: Database) -> Database:
    """Accounts 1 and 2 (USD) and 3 (INR) with some history; transaction 5 is a decline of 2's."""
    return new_database(used_once)


ENTRY = "INSERT INTO ledger.entries VALUES (1, 1, {}, now())"
NO_FLOOR = "ALTER TABLE ledger.accounts DROP CONSTRAINT accounts_available_above_floor"


# What is done past the guards, and what verify must say among else.
BROKEN = {
    "a balance": (
        ["UPDATE ledger.accounts SET balance = balance + 1 WHERE id = 1"],
        ["invariant 2: account 1, ledger 1", "invariant 1: ledger 1, currency USD"],
    ),
    "a held amount": (
        ["UPDATE ledger.accounts SET held = 1 WHERE id = 2"],
        ["invariant 2: account 2, ledger 1"],
    ),
    "a version": (
        ["UPDATE ledger.accounts SET version = version + 1 WHERE id = 3"],
        ["invariant 2: account 3, ledger 1"],
    ),
    "an external account's balance": (
        ["UPDATE ledger.accounts SET balance = balance - 1 WHERE id = -2"],
        ["invariant 2: account -2, ledger 1", "invariant 1: ledger 1, currency INR"],
    ),
    "an account's currency": (
        ["UPDATE ledger.accounts SET currency_number = 2 WHERE id = 2"],
        ["invariant 2: account 2, ledger 1"],
    ),
    "an entry's amount": (
        ["UPDATE ledger.entries SET amount = amount - 1 WHERE account_id = 1 AND seq = 2"],
        ["invariant 4: account 1, ledger 1, seq 2", "invariant 1: transaction 3, ledger 1"],
    ),
    "an entry's balance": (
        ["UPDATE ledger.entries SET balance = balance - 1 WHERE account_id = 1 AND seq = 2"],
        ["invariant 4: account 1, ledger 1, seq 2", "invariant 4: account 1, ledger 1, seq 3"],
    ),
    "an entry in the middle": (
        ["DELETE FROM ledger.entries WHERE account_id = 1 AND seq = 2"],
        ["invariant 4: account 1, ledger 1, seq 3", "invariant 1: transaction 3, ledger 1"],
    ),
    "a last entry": (
        ["DELETE FROM ledger.entries WHERE account_id = 1 AND seq = 3"],
        ["invariant 2: account 1, ledger 1", "invariant 1: transaction 4, ledger 1"],
    ),
    "an entry's transaction": (
        ["UPDATE ledger.entries SET transaction_id = 4 WHERE transaction_id = 3"],
        ["invariant 1: transaction 3, ledger 1", "invariant 1: transaction 4, ledger 1"],
    ),
    "an entry's held": (
        ["UPDATE ledger.entries SET held = 5 WHERE account_id = 1 AND seq = 2"],
        ["invariant 4: account 1, ledger 1, seq 2"],
    ),
    "a moment": (
        ["UPDATE ledger.entries SET recorded_at = '2020-01-01' WHERE account_id = 1 AND seq = 3"],
        ["invariant 4: account 1, ledger 1, seq 3", "invariant 1: transaction 4, ledger 1"],
    ),
    "the order of two transactions": (
        [
            f"UPDATE ledger.{table} SET {name} = {new} WHERE {name} = {old}"
            for old, new in ((3, 99), (4, 3), (99, 4))
            for table, name in (("transactions", "id"), ("entries", "transaction_id"))
        ],
        ["invariant 4: account 1, ledger 1, seq 3: its transaction 3 is before its predecessor's"],
    ),
    "a transaction": (
        ["DELETE FROM ledger.transactions WHERE id = 4"],
        ["invariant 1: transaction 4, ledger 1: entries name it"],
    ),
    "a transaction's entries": (
        ["DELETE FROM ledger.entries WHERE transaction_id = 6"],
        ["invariant 1: transaction 6, ledger 1: it was posted, but has no entries"],
    ),
    "a transaction's amount": (
        ["UPDATE ledger.transactions SET amount = amount + 1 WHERE id = 3"],
        ["invariant 1: transaction 3, ledger 1: its entries are not those of its kind"],
    ),
    "a transaction's counterparty": (
        ["UPDATE ledger.transactions SET counterparty_id = 3 WHERE id = 3"],
        ["invariant 1: transaction 3, ledger 1: its entries are not those of its kind"],
    ),
    "the seq of a transaction's entry": (
        ["UPDATE ledger.transactions SET account_seq = 3 WHERE id = 3"],
        ["invariant 1: transaction 3, ledger 1: its entries are not those of its kind"],
    ),
    "the balance that a decline was decided on": (
        ["UPDATE ledger.transactions SET deciding_balance = 1 WHERE id = 5"],
        ["invariant 6: transaction 5, ledger 1: it was declined on"],
    ),
    "a transaction's kind": (
        ["UPDATE ledger.transactions SET kind = 1 WHERE id = 3"],
        ["invariant 1: transaction 3, ledger 1: its entries are not those of its kind"],
    ),
    "a decline with entries": (
        [ENTRY.format("1, 4, 5, 0, 0, 5000, 0")],
        ["invariant 1: transaction 5, ledger 1: it was declined, but has entries"],
    ),
    "an unbalanced transaction": (
        [
            ENTRY.format("1, 4, 700, 5, 0, 5005, 0"),
            "UPDATE ledger.accounts SET balance = 5005, version = 4 WHERE id = 1",
            (
                "INSERT INTO ledger.transactions (ledger_id, kind, status, id, account_id,"
                " counterparty_id, amount, recorded_at, renderer, idempotency_key, account_seq,"
                " counterparty_seq) VALUES (1, 1, 1, 700, 1, -1, 5, now(), 1, 'x', 4, 9)"
            ),
        ],
        [
            "invariant 1: transaction 700, ledger 1: its entries sum to 5, not 0",
            "invariant 1: ledger 1, currency USD",
        ],
    ),
    "an overdraft in mid-history": (
        [
            NO_FLOOR,
            (
                "UPDATE ledger.entries SET amount = -11000, balance = -1000"
                " WHERE account_id = 1 AND seq = 2"
            ),
        ],
        ["invariant 3: account 1, ledger 1, seq 2: available -1000 is below the floor 0"],
    ),
    "an account that is not there": (
        [ENTRY.format("88, 1, 6, 5, 0, 5, 0")],
        ["invariant 2: account 88, ledger 1: it has entries, but does not exist"],
    ),
    "a key used twice": (
        [
            "ALTER TABLE ledger.transactions DROP CONSTRAINT transactions_idempotency_key",
            "UPDATE ledger.transactions SET idempotency_key = 't1' WHERE id = 4",
        ],
        ["invariant 6: account 1, ledger 1: 2 transactions have the key 't1'"],
    ),
    "a key of openings": (
        ["DROP INDEX ledger.accounts_reference_key"],
        ["invariant 3: key accounts_reference_key: the guard is missing"],
    ),
    "a constraint": ([NO_FLOOR], ["constraint accounts_available_above_floor"]),
    "a trigger that is off": (
        ["ALTER TABLE ledger.entries DISABLE TRIGGER entries_post"],
        ["invariant 5: trigger entries_post: the guard is missing, disabled or"],
    ),
    "a trigger that is for replicas only": (
        ["ALTER TABLE ledger.entries ENABLE REPLICA TRIGGER entries_post"],
        ["invariant 5: trigger entries_post"],
    ),
    "a trigger that a setting can turn off": (
        ["ALTER TABLE ledger.entries ENABLE TRIGGER entries_post"],
        ["invariant 5: trigger entries_post"],
    ),
    "a trigger that does nothing": (
        [
            (
                "CREATE OR REPLACE FUNCTION ledger.refuse_change() RETURNS trigger"
                " LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END'"
            )
        ],
        ["invariant 5: function refuse_change"],
    ),
    "a function that runs with its caller's rights": (
        ["ALTER FUNCTION ledger.post_entries() SECURITY INVOKER"],
        ["invariant 5: function post_entries: its text, owner, rights or settings"],
    ),
    "a function with another search path": (
        ["ALTER FUNCTION ledger.post_entries() SET search_path = public"],
        ["invariant 5: function post_entries: its text, owner, rights or settings"],
    ),
    "a function that everybody may execute": (
        ["GRANT EXECUTE ON FUNCTION ledger.apply_policies() TO PUBLIC"],
        ["invariant 5: function apply_policies: its text, owner, rights or settings"],
    ),
    "a function of somebody else": (
        [
            "CREATE FUNCTION ledger.extra() RETURNS int LANGUAGE sql AS 'SELECT 1'",
            (
                "CREATE TRIGGER extra BEFORE UPDATE ON ledger.accounts FOR EACH STATEMENT"
                " EXECUTE FUNCTION ledger.refuse_change('extra')"
            ),
            "CREATE RULE extra AS ON DELETE TO ledger.entries DO INSTEAD NOTHING",
            "CREATE POLICY extra ON ledger.accounts USING (true)",
            "CREATE CAST (integer AS json) WITH INOUT",
        ],
        [
            f"invariant 5: {what}: it is not part of the schema"
            for what in (
                "function extra",
                "trigger extra",
                "rule extra",
                "row security policy extra",
                "cast integer as json",
            )
        ],
    ),
    "any constraint": (
        ["ALTER TABLE ledger.transactions DROP CONSTRAINT transactions_amount"],
        ["constraint transactions_amount"],
    ),
    "a floor": (
        ["UPDATE ledger.accounts SET floor = -100 WHERE id = 2"],
        ["invariant 3: account 2, ledger 1: its floor is -100"],
    ),
    "the currency of a transaction's entries": (
        ["UPDATE ledger.entries SET currency_number = 2 WHERE transaction_id = 3"],
        ["invariant 2: account 1, ledger 1, seq 2", "invariant 2: account 2, ledger 1, seq 1"],
    ),
    "what a decline was decided on": (
        ["UPDATE ledger.transactions SET deciding_available = 99999 WHERE id = 5"],
        ["invariant 6: transaction 5, ledger 1: it was declined on available 99999"],
    ),
    "ids beyond all others": (
        [ENTRY.format(f"{2**63 - 1}, 1, {2**63 - 1}, 5, 0, 5, 0")],
        [f"account {2**63 - 1}, ledger 1: it has entries", f"transaction {2**63 - 1}"],
    ),
    "a ledger that is not there": (
        ["UPDATE ledger.entries SET ledger_id = 9 WHERE account_id = 3"],
        ["invariant 1: ledger 9: entries or transactions name it"],
    ),
    "a trigger that is gone": (
        ["DROP TRIGGER accounts_derived ON ledger.accounts"],
        ["invariant 5: trigger accounts_derived: the guard is missing,"],
    ),
}


def test_a_used_ledger_that_nobody_broke_has_no_violations(used):
    assert violations(used) == []


@pytest.mark.parametrize("small_steps", [False, True])
@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN.keys())
def test_verify_names_the_broken_invariant(used, case, small_steps, monkeypatch):
    if small_steps:  # so that the violation is in one of many ranges
        for name, size in ((verifier.ACCOUNTS, 2), (verifier.TRANSACTIONS, 3)):
            smaller = verifier.PARTS[name]._replace(size=size)
            monkeypatch.setitem(verifier.PARTS, name, smaller)
    statements, expected = case
    found = violations(used, *statements)
    for start in expected:
        assert any(start in line for line in found), (start, found)


PROPOSED = """
INSERT INTO ledger.proposals (ledger_id, id, proposed_by, expires_at, rule, approvals, operation,
                              scope_id, idempotency_key, body, digest)
VALUES (1, 1, 5, now() + interval '1 day', 'amount', 1, 'transfer', 1, 'k',
        '{"from_account_id": 1, "to_account_id": 2, "amount": "30"}', sha256('x'))
"""
DECIDED = (
    "INSERT INTO ledger.decisions"
    " (ledger_id, proposal_id, proposed_by, decided_by, verdict, reason, decided_at)"
    " VALUES (1, 1, 5, 6, 'approve', 'r', now() - interval '{}')"
)
CARRIED_OUT = [
    PROPOSED,
    DECIDED.format("1 minute"),
    (
        "INSERT INTO ledger.executions (ledger_id, proposal_id, status, transaction_id, answer)"
        " VALUES (1, 1, 200, 3, '{}')"
    ),
    "UPDATE ledger.transactions SET idempotency_key = 'k', principal_id = 5 WHERE id = 3",
]
UNAPPROVED = "it was carried out without the approvals that it needs"
ANOTHER = "its execution has not the transaction that it says"
APPROVALS: dict[str, tuple[list[str], str | None]] = {
    "as it should be": ([], None),
    "approved just now": (["DELETE FROM ledger.executions"], None),
    "approved long ago": (
        [
            "DELETE FROM ledger.executions",
            "UPDATE ledger.decisions SET decided_at = now() - interval '2 hours'",
        ],
        "it is approved, and was not carried out",
    ),
    "not approved": (["DELETE FROM ledger.decisions"], UNAPPROVED),
    "too few approvals": (["UPDATE ledger.proposals SET approvals = 2"], UNAPPROVED),
    "rejected": (["UPDATE ledger.decisions SET verdict = 'reject'"], UNAPPROVED),
    "no answer": (["UPDATE ledger.executions SET status = NULL"], "its execution has no answer"),
    "no transaction": (["UPDATE ledger.executions SET transaction_id = NULL"], ANOTHER),
    "a transaction that is not there": (
        ["UPDATE ledger.executions SET transaction_id = 77"],
        ANOTHER,
    ),
    "another key": (["UPDATE ledger.transactions SET idempotency_key = 'y' WHERE id = 3"], ANOTHER),
    "another principal": (
        ["UPDATE ledger.transactions SET principal_id = 6 WHERE id = 3"],
        ANOTHER,
    ),
    "another outcome": (["UPDATE ledger.executions SET status = 400"], ANOTHER),
    "another amount": (
        ['UPDATE ledger.proposals SET body = \'{"from_account_id": 1, "amount": 30.01}\''],
        "its transaction 3 is not what was proposed",
    ),
    "another account": (
        ['UPDATE ledger.proposals SET body = \'{"account_id": 2, "amount": 30.00}\''],
        "its transaction 3 is not what was proposed",
    ),
}


@pytest.mark.parametrize("case", APPROVALS)
def test_verify_judges_what_others_have_approved(used, case):
    statements, expected = APPROVALS[case]
    found = violations(used, *CARRIED_OUT, *statements)
    shown = [] if expected is None else [f"invariant 6: proposal 1, ledger 1: {expected}"]
    assert found == shown


def test_progress_is_reported_to_the_end(used):
    told = []
    list(verify(used.owner_engine(), lambda done, of: told.append((done, of))))
    assert [done for done, _ in told] == list(range(1, len(told) + 1))
    assert {of for _, of in told} == {len(told)}
