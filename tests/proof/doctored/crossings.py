"""Transfers between parts that are half done, doubled, or not what was answered."""

from collections.abc import Callable

from msgspec.structs import replace

from tests.proof.doctored.market import IDS, Market
from tests.proof.history import CROSSING, Attempt
from tests.proof.journal import Account, Hold, Transaction
from tests.proof.judging.crossings import CLEARING
from tests.proof.parts import ids_of


def _step(m: Market, kind: str, of: int | None = None) -> Transaction:
    """A posted step, of that hold if one is given."""
    rows = [t for t in m.journal.transactions if t.kind == kind and t.reason is None]
    if of is None:
        return m.chance.choice(rows)
    return next(t for t in rows if str(of) in t.key.split(":"))


def _hold(m: Market, end: Transaction) -> Hold:
    return next(hold for hold in m.journal.holds if hold.id == end.parent)


def _answered(m: Market, kind: str = CROSSING) -> Attempt:
    """The attempt of a transfer that has crossed, or a read of one."""
    return m.chance.choice(
        [a for a in m.attempts if a.request.kind == kind and "debited_by" in a.body]
    )


def _take_back(m: Market, row: Transaction) -> None:
    m.journal.transactions.remove(row)
    for entry in [e for e in m.journal.entries if e.transaction == row.id]:
        m.journal.entries.remove(entry)


def _do_again(m: Market, row: Transaction, key: str) -> None:
    """The same once more, rightly but for the key."""
    number = max(t.id for t in m.journal.transactions) + 1
    m.journal.transactions.append(replace(row, id=number, key=key))
    for entry in [e for e in m.journal.entries if e.transaction == row.id]:
        account = m.accounts[entry.account]
        account.balance += entry.amount
        account.held += entry.held_change
        account.version += 1
        state = {"seq": account.version, "balance": account.balance, "held": account.held}
        m.journal.entries.append(replace(entry, transaction=number, **state))


def credited_again(m: Market) -> None:
    credit = _step(m, "cross_credit")
    _do_again(m, credit, f"{credit.key}:again")


def debited_again(m: Market) -> None:
    end = _step(m, "cross_debit")
    _do_again(m, end, end.key)


def left_open(m: Market) -> None:
    end = _step(m, "cross_debit")
    _hold(m, end).remaining = end.amount
    _take_back(m, end)


def captured_though_declined(m: Market) -> None:
    _step(m, "cross_release").kind = "cross_debit"


def released_though_credited(m: Market) -> None:
    _step(m, "cross_debit").kind = "cross_release"


def captured_and_not_credited(m: Market) -> None:
    end = _step(m, "cross_debit")
    _take_back(m, _step(m, "cross_credit", end.parent))


def credited_for_nothing(m: Market) -> None:
    _step(m, "cross_credit").key = f"x:{IDS[0]}:999999"


def ended_for_nothing(m: Market) -> None:
    _step(m, "cross_release").parent = None


def credited_with_another_key(m: Market) -> None:
    credit = _step(m, "cross_credit")
    credit.key += ":1"


def credited_another_account(m: Market) -> None:
    hold = m.chance.choice(m.journal.holds)
    assert hold.to_account is not None
    hold.to_account += len(IDS)


def credited_another_amount(m: Market) -> None:
    _step(m, "cross_credit").amount += 1


def credited_for_another(m: Market) -> None:
    _step(m, "cross_credit").principal = 9


def debited_without_its_texts(m: Market) -> None:
    _step(m, "cross_debit").detail = ("", "", "", "")


def held_for_another_part(m: Market) -> None:
    hold = m.chance.choice(m.journal.holds)
    hold.to_ledger = IDS[hold.account % len(IDS)]


def cleared_over_another_account(m: Market) -> None:
    hold = _hold(m, _step(m, "cross_debit"))
    hold.other += CLEARING


def _beside(m: Market) -> list[Account]:
    """The external and clearing accounts."""
    return [account for account in m.journal.accounts if account.id < 0]


def clearing_accounts_that_differ(m: Market) -> None:
    """The part balances, but its clearing account is not that of the other part."""
    clearing = next(a for a in _beside(m) if ids_of(a.id)[1] < CLEARING)
    part, _ = ids_of(clearing.id)
    external = next(a for a in _beside(m) if ids_of(a.id) == (part, -1))
    clearing.balance += 5
    external.balance -= 5


def a_part_that_does_not_balance(m: Market) -> None:
    first, second, _ = (a for a in _beside(m) if ids_of(a.id)[1] == -1)
    first.balance += 5
    second.balance -= 5


def read_otherwise_than_answered(m: Market) -> None:
    read = _answered(m, "transaction")
    read.body = {**read.body, "recorded_at": "later"}


def read_as_open(m: Market) -> None:
    read = _answered(m, "transaction")
    read.body = {**read.body, "entries": read.body["entries"][:1]}


def answered_with_another_half(m: Market) -> None:
    attempt = _answered(m)
    attempt.body = {**attempt.body, "credited_by": attempt.body["credited_by"] + 1}


def answered_with_one_half(m: Market) -> None:
    attempt = _answered(m)
    attempt.body = {**attempt.body, "entries": attempt.body["entries"][:1]}


def answered_before_the_end(m: Market) -> None:
    """The deposit before the end was sent when the transfer was answered."""
    attempt = _answered(m)
    before = attempt.body["debited_by"] - 1
    deposit = next(a for a in m.attempts if a.body["transaction_id"] == before)
    assert attempt.completed_ns is not None
    deposit.invoked_ns = attempt.completed_ns + 1
    deposit.completed_ns = attempt.completed_ns + 2


DOCTORED: dict[Callable[[Market], None], str] = {
    credited_again: "crossed_twice",
    debited_again: "crossed_twice",
    left_open: "crossing_open",
    captured_though_declined: "half_done",
    released_though_credited: "half_done",
    captured_and_not_credited: "half_done",
    credited_for_nothing: "step_unfounded",
    ended_for_nothing: "step_unfounded",
    credited_with_another_key: "step_differs",
    credited_another_account: "step_differs",
    credited_another_amount: "step_differs",
    credited_for_another: "step_differs",
    debited_without_its_texts: "step_differs",
    held_for_another_part: "step_differs",
    cleared_over_another_account: "content_broken",
    clearing_accounts_that_differ: "clearing_differs",
    a_part_that_does_not_balance: "part_not_zero",
    read_otherwise_than_answered: "read_differs",
    read_as_open: "read_differs",
    answered_with_another_half: "content_differs",
    answered_with_one_half: "content_differs",
    answered_before_the_end: "real_time",
}
