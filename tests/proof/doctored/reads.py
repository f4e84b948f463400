"""Reads of states that never were, or not at that time."""

from collections.abc import Callable

from msgspec.structs import replace

from tests.proof.doctored.doctor import Doctor, another_account
from tests.proof.history import Attempt, Request
from tests.proof.judging.evidence import CLOSED, OK, major, outcome


def _state(d: Doctor, number: int, version: int) -> dict[str, object]:
    """What a read of an account told at a version, had nothing expired."""
    row = d.rows(number)[version - 1]
    rows = {t.id: t for t in d.journal.transactions}
    policies = [
        policy
        for entry in d.rows(number)[:version]
        if (policy := rows[entry.transaction].policy) is not None
    ]
    floor, ceiling, restricted = (policies or [(0, None, 0)])[-1]
    return {
        "id": number,
        "version": version,
        "balance": major(row.balance),
        "held": major(row.held),
        "available": major(row.balance - row.held),
        "floor": major(floor),
        "ceiling": None if ceiling is None else major(ceiling),
        "frozen": [None, "debits", "credits", "both"][restricted & ~CLOSED],
        "closed": restricted & CLOSED > 0,
    }


def _views(d: Doctor, *views: dict[int, int]) -> None:
    """Reads of all accounts that took for ever, with these versions."""
    for view in views:
        body = [_state(d, a, v) for a, v in view.items()]
        attempt = Attempt("onlooker", 0, Request("accounts"), 10**15, 200, body)
        d.attempts.append(attempt)


def stale_read(d: Doctor) -> None:
    reading = d.reading("account")
    row = d.rows(reading.request.account)[0]
    reading.body = {**reading.body, "version": 1, "available": major(row.balance)}


def stale_history(d: Doctor) -> None:
    reading = d.reading("history")
    reading.body = reading.body[-1:]


def read_of_the_future(d: Doctor) -> None:
    row = d.rows(1)[-1]
    body = _state(d, 1, row.seq)
    d.attempts.append(Attempt("seer", 1, Request("account", 1), 2, 200, body))


def dirty_read(d: Doctor) -> None:
    reading = d.reading("account")
    reading.body = {**reading.body, "available": "777.77"}


def dirty_read_of_a_version(d: Doctor) -> None:
    reading = d.reading("account")
    reading.body = {**reading.body, "version": reading.body["version"] + 10_000}


def torn_history(d: Doctor) -> None:
    reading = d.one(lambda a: a.request.kind == "history" and len(a.body) > 5)
    reading.body = reading.body[:2] + reading.body[3:]


def torn_read(d: Doctor) -> None:
    """The debit of a transfer without its credit."""
    row = d.row(d.one(lambda a: a.request.kind == "transfer" and outcome(a) == OK))
    own, other = (e for e in d.journal.entries if e.transaction == row.id)
    _views(d, {own.account: own.seq, other.account: other.seq - 1})


def long_fork(d: Doctor) -> None:
    """Two who saw two independent writes in opposite orders."""
    one, two = d.rows(1)[10].seq, d.rows(2)[10].seq
    _views(d, {1: one, 2: two - 1}, {1: one - 1, 2: two})


def key_missing_after_its_answer(d: Doctor) -> None:
    attempt = d.write()
    assert attempt.completed_ns is not None
    at = attempt.completed_ns + 1
    body = {"code": "key_not_found"}
    request = Request("key", attempt.request.account, key=attempt.request.key)
    d.attempts.append(Attempt("asker", at, request, at + 1, 404, body))


def write_before_it_was_asked_for(d: Doctor) -> None:
    """Of two writes to one account the later one was completed before the earlier was invoked."""
    attempt = d.write()
    attempt.invoked_ns = 10**15
    attempt.completed_ns = 10**15 + 1


def read_of_held_money(d: Doctor) -> None:
    """A read says that what is held is available."""
    attempt = d.one(
        lambda a: (
            a.request.kind == "history"
            and outcome(a) == OK
            and a.body
            and a.body[0]["held"] > "0.0"
        )
    )
    first, *rest = attempt.body
    attempt.body = [{**first, "held": major(-1)}, *rest]


def read_of_a_balance_that_never_was(d: Doctor) -> None:
    reading = d.reading("account")
    reading.body = {**reading.body, "balance": "777.77", "held": "0.00"}


def read_of_another_account(d: Doctor) -> None:
    reading = d.reading("account")
    reading.request = replace(reading.request, account=another_account(reading.request.account))


def read_of_all_but_one(d: Doctor) -> None:
    reading = d.reading("accounts")
    reading.body = reading.body[1:]


def a_read_that_finds_no_account(d: Doctor) -> None:
    reading = d.reading("account")
    reading.status, reading.body = 404, {"code": "account_not_found"}


def a_key_that_tells_something_else(d: Doctor) -> None:
    reading = d.reading("key")
    reading.body = {**reading.body, "amount": "99.99"}


def a_key_that_was_taken_back(d: Doctor) -> None:
    """A read of a key tells of what is not in the journal."""
    reading = d.reading("key")
    reading.request = replace(reading.request, key="never kept")


def a_history_of_other_amounts(d: Doctor) -> None:
    reading = d.one(lambda a: a.request.kind == "history" and len(a.body) > 5)
    reading.body = [{**row, "amount": "77.77"} for row in reading.body]


def a_read_of_a_closed_account_that_is_open(d: Doctor) -> None:
    reading = d.reading("account")
    reading.body = {**reading.body, "closed": not reading.body["closed"]}


DOCTORED: dict[Callable[[Doctor], None], str] = {
    stale_read: "real_time",
    stale_history: "real_time",
    read_of_the_future: "real_time",
    dirty_read: "read_of_nothing",
    dirty_read_of_a_version: "read_of_nothing",
    torn_history: "history_torn",
    torn_read: "cycle",
    long_fork: "cycle",
    key_missing_after_its_answer: "real_time",
    write_before_it_was_asked_for: "real_time",
    read_of_held_money: "read_of_nothing",
    read_of_a_balance_that_never_was: "read_of_nothing",
    read_of_another_account: "read_of_nothing",
    read_of_all_but_one: "read_of_nothing",
    a_read_that_finds_no_account: "refusal_unjust",
    a_read_of_a_closed_account_that_is_open: "read_of_nothing",
    a_key_that_tells_something_else: "content_differs",
    a_key_that_was_taken_back: "lost",
    a_history_of_other_amounts: "read_of_nothing",
}
