"""The rules about money: a table of examples, and any batch against one-by-one execution."""

import itertools
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerservice.domain.accounts import Account, Opened, Opening
from ledgerservice.domain.amounts import MAX_BALANCE_MINOR, is_positive_amount, to_major, to_minor
from ledgerservice.domain.instructions import Group, Kind, Movement, Origin
from ledgerservice.domain.planner import MICROSECOND, Key, plan
from ledgerservice.domain.registration import answer_openings
from ledgerservice.domain.transactions import (
    DeclineReason,
    Failed,
    Recorded,
    Rejected,
    Rejection,
    Transaction,
)

NOW = datetime(2026, 1, 1, tzinfo=UTC)
SALTS = itertools.repeat(b"salt of 16 bytes")
USD, INR = 1, 2


def account(account_id: int, balance: int = 0, number: int = USD, held: int = 0) -> Account:
    code = {USD: "USD", INR: "INR"}[number]
    floor = 0 if account_id > 0 else None
    return Account(account_id, code, number, 2, balance, held, 7, floor, NOW)


def accounts(*customers: Account, external: int = 0) -> dict[int, Account]:
    outside = (account(-USD, external, USD), account(-INR, external, INR))
    return {a.id: a for a in (*customers, *outside)}


def deposit(to: int, amount: str, key: str = "k") -> Movement:
    return Movement(Kind.DEPOSIT, to, None, amount, key)


def withdraw(of: int, amount: str, key: str = "k") -> Movement:
    return Movement(Kind.WITHDRAWAL, of, None, amount, key)


def transfer(of: int, to: int, amount: str, key: str = "k") -> Movement:
    return Movement(Kind.TRANSFER, of, to, amount, key)


def verdict(outcome: object) -> str:
    """posted, replayed, or the code of a decline or rejection."""
    if isinstance(outcome, Rejected):
        return outcome.reason.value
    assert isinstance(outcome, Recorded)
    if outcome.replayed:
        return "replayed"
    refusal = outcome.transaction.refusal
    return "posted" if refusal is None else refusal.reason.value


FUNDED = accounts(account(1, 100), account(2), account(3, 100, INR), account(4, 100, held=60))
FULL = accounts(account(1, MAX_BALANCE_MINOR), account(2, 5), external=-MAX_BALANCE_MINOR)

CASES = {
    "a deposit": (FUNDED, [deposit(2, "1")], ["posted"]),
    "a withdrawal of everything": (FUNDED, [withdraw(1, "1.00")], ["posted"]),
    "a withdrawal of a minor unit too much": (
        FUNDED,
        [withdraw(1, "1.01")],
        ["insufficient_funds"],
    ),
    "held money is not available": (FUNDED, [withdraw(4, "0.41")], ["insufficient_funds"]),
    "what is not held is available": (FUNDED, [withdraw(4, "0.40")], ["posted"]),
    "a credit funds a later debit": (
        FUNDED,
        [deposit(2, "5"), transfer(2, 1, "5", "t")],
        ["posted", "posted"],
    ),
    "a credit does not fund an earlier debit": (
        FUNDED,
        [transfer(2, 1, "5", "t"), deposit(2, "5")],
        ["insufficient_funds", "posted"],
    ),
    "the same key twice": (FUNDED, [deposit(2, "1"), deposit(2, "1.0")], ["posted", "replayed"]),
    "a decline is replayed even when funded": (
        FUNDED,
        [withdraw(2, "1"), deposit(2, "9", "d"), withdraw(2, "1")],
        ["insufficient_funds", "posted", "replayed"],
    ),
    "a key with another amount": (
        FUNDED,
        [deposit(2, "1"), deposit(2, "2")],
        ["posted", "idempotency_key_reused"],
    ),
    "a key with another kind": (
        FUNDED,
        [deposit(1, "1"), withdraw(1, "1")],
        ["posted", "idempotency_key_reused"],
    ),
    "a key with another receiver": (
        accounts(account(1, 100), account(2), account(5)),
        [transfer(1, 2, "1"), transfer(1, 5, "1")],
        ["posted", "idempotency_key_reused"],
    ),
    "a seen key with too many decimals": (
        FUNDED,
        [deposit(2, "1"), deposit(2, "1.001")],
        ["posted", "idempotency_key_reused"],
    ),
    "a seen key comes before the receiver's existence": (
        FUNDED,
        [transfer(1, 2, "1"), transfer(1, 99, "1")],
        ["posted", "idempotency_key_reused"],
    ),
    "one key on two accounts": (FUNDED, [deposit(1, "1"), deposit(2, "1")], ["posted", "posted"]),
    "an unknown account": (FUNDED, [deposit(99, "1")], ["account_not_found"]),
    "an unknown receiver": (FUNDED, [transfer(1, 99, "1")], ["account_not_found"]),
    "an external account": (FUNDED, [deposit(-1, "1")], ["account_not_found"]),
    "an external receiver": (FUNDED, [transfer(1, -1, "1")], ["account_not_found"]),
    "two currencies": (FUNDED, [transfer(1, 3, "1")], ["currency_mismatch"]),
    "existence before currency": (FUNDED, [transfer(3, 99, "0.001")], ["account_not_found"]),
    "currency before precision": (FUNDED, [transfer(1, 3, "0.001")], ["currency_mismatch"]),
    "too many decimals": (FUNDED, [deposit(1, "0.001")], ["amount_precision"]),
    "the same account twice": (FUNDED, [transfer(1, 1, "1")], ["same_account"]),
    "the same amount in other digits": (
        FUNDED,
        [deposit(1, "1.5"), deposit(1, "1.500"), deposit(1, "1.501")],
        ["posted", "replayed", "idempotency_key_reused"],
    ),
    "the largest amount": (FUNDED, [deposit(1, "10000000000000.00")], ["posted"]),
    "a larger amount": (FUNDED, [deposit(1, "10000000000000.01")], ["amount_limit"]),
    "a balance past its limit": (FULL, [transfer(2, 1, "0.01")], ["balance_limit"]),
    "an external balance past its limit": (FULL, [deposit(2, "0.01")], ["balance_limit"]),
}


@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_each_movement_gets_its_verdict(case):
    states, movements, expected = case
    decided = plan([Group(movements)], states, {}, NOW, itertools.count(1), salts=SALTS)
    assert [verdict(outcome) for outcome in decided.answers[0]] == expected
    recorded = [v for v in expected if v in {"posted", *DeclineReason}]
    assert len(decided.transactions) == len(recorded)
    assert all(v not in set(Rejection) for v in recorded)


def test_a_decline_tells_the_state_it_was_decided_on():
    decided = plan([Group([withdraw(4, "1")])], FUNDED, {}, NOW, itertools.count(1), salts=SALTS)
    answers: Any = decided.answers
    ((outcome,),) = answers
    refusal = outcome.transaction.refusal
    assert (refusal.account_id, refusal.version, refusal.available) == (4, 7, 40)


def test_time_never_runs_backwards_along_an_account():
    ahead = NOW + timedelta(seconds=3)
    late = Account(1, "USD", USD, 2, 5, 0, 7, 0, ahead)
    decided = plan(
        [Group([deposit(1, "1")])], accounts(late), {}, NOW, itertools.count(1), salts=SALTS
    )
    assert decided.recorded_at == ahead + MICROSECOND
    assert decided.transactions[0].recorded_at == ahead + MICROSECOND


# Any batch, cut anywhere, against the sequential model.


@dataclass
class Sequential:
    """The ledger, one movement at a time: ten lines that cannot be wrong in the same way."""

    balances: dict[int, int]
    seen: dict[tuple[int, str], tuple[tuple[object, ...], str]] = field(default_factory=dict)

    def move(self, m: Movement) -> str:
        amount = to_minor(m.amount, 2)
        assert amount is not None
        content = (m.kind, m.counterparty_id, amount)
        if m.account_id == m.counterparty_id:
            return "same_account"
        if (m.account_id, m.key) in self.seen:
            same = self.seen[m.account_id, m.key][0] == content
            return "replayed" if same else "idempotency_key_reused"
        other = -USD if m.counterparty_id is None else m.counterparty_id
        if m.account_id not in self.balances or other not in self.balances:
            return "account_not_found"
        amount = amount if m.kind is Kind.DEPOSIT else -amount
        verdict = "posted" if self.balances[m.account_id] + amount >= 0 else "insufficient_funds"
        if verdict == "posted":
            self.balances[m.account_id] += amount
            self.balances[other] -= amount
        self.seen[m.account_id, m.key] = (content, verdict)
        return verdict

    def post(self, group: Group) -> list[str] | tuple[int, str]:
        asked: Any = group.movements
        if not group.linked:
            return [self.move(m) for m in asked]
        trial = Sequential(dict(self.balances), dict(self.seen))
        found = [trial.move(m) for m in asked]
        for index, (m, verdict) in enumerate(zip(asked, found, strict=True)):
            declined = trial.seen.get((m.account_id, m.key), ((), ""))[1] != "posted"
            if declined or verdict not in ("posted", "replayed"):
                return index, verdict
        self.balances, self.seen = trial.balances, trial.seen
        return found


ids = st.integers(1, 4)
amounts = st.sampled_from(["0.01", "0.02", "0.03", "0.3", "1", "1.00"])
keys = st.sampled_from(["a", "b", "c", "d", "e", "f"])
movements = st.one_of(
    st.builds(deposit, ids, amounts, keys),
    st.builds(withdraw, ids, amounts, keys),
    st.builds(transfer, ids, ids, amounts, keys),
)


groups = st.builds(Group, st.lists(movements, max_size=6), st.booleans())


@given(
    st.lists(st.lists(groups, max_size=4), max_size=5),
    st.lists(st.integers(0, 200), min_size=3, max_size=3),
)
def test_a_batch_is_decided_like_one_movement_after_another(batches, balances):
    opening = {i: account(i, balance) for i, balance in enumerate(balances, start=1)}
    states = accounts(*opening.values(), external=-sum(balances))
    model = Sequential({a.id: a.balance for a in states.values()})
    records: dict[Key, Transaction] = {}
    transaction_ids = itertools.count(1)
    for batch in batches:
        decided = plan(batch, states, records, NOW, transaction_ids, salts=SALTS)
        assert [verdicts(answer) for answer in decided.answers] == [model.post(g) for g in batch]
        records |= {(t.account_id, t.origin, t.key): t for t in decided.transactions}
        states = _written(states, decided)
    assert {a.id: a.balance for a in states.values() if a.id != -INR} == {
        i: b for i, b in model.balances.items() if i != -INR
    }
    assert {(account, key) for account, _, key in records} == model.seen.keys()


def verdicts(answer):
    """A list of verdicts, or the place and verdict of what failed a linked group."""
    if isinstance(answer, Failed):
        return answer.index, verdict(answer.outcome)
    return [verdict(outcome) for outcome in answer]


def _written(states, decided):
    """The accounts after the journal has written the plan; asserts the journal's own checks."""
    after = dict(states)
    for entry in decided.entries():
        before = after[entry.account_id]
        assert entry.seq == before.version + 1
        assert entry.balance == before.balance + entry.amount
        assert before.floor is None or entry.balance - entry.held >= before.floor
        after[entry.account_id] = Account(
            before.id, before.currency, before.currency_number, 2, entry.balance, entry.held,
            entry.seq, before.floor, decided.recorded_at,
        )  # fmt: skip
    for transaction in decided.transactions:
        assert sum(entry.amount for entry in transaction.entries) == 0
    return after


# Amounts.


@given(st.integers(1, 10**18), st.integers(0, 12))
def test_an_amount_survives_printing_and_parsing(minor, exponent):
    text = to_major(minor, exponent)
    if len(text.partition(".")[0]) <= 18:
        assert is_positive_amount(text)
    assert to_minor(text, exponent) == minor
    assert to_major(-minor, exponent) == f"-{text}"


@pytest.mark.parametrize(
    ("text", "positive"),
    [
        ("50", True), ("50.00", True), ("0.01", True), ("9" * 18, True),
        ("9" * 19, False), ("0", False), ("0.00", False), ("-1", False), ("+1", False),
        ("01", False), (".5", False), ("5.", False), ("1e3", False), ("1,000", False),
        ("1_000", False), (" 1", False), ("1\n", False), ("", False), ("NaN", False),
        ("\uff15\uff10", False), ("\u0661", False),
    ],
)  # fmt: skip
def test_an_amount_is_a_plain_positive_decimal(text, positive):
    assert is_positive_amount(text) is positive


# Openings.

ALICE = Opened(1, "Alice", "USD", 2, "r1", "k1", NOW)

OPENINGS = {
    "its key of another origin": (
        Opening("Alice", "USD", None, "k1", origin=Origin.UNKEYED),
        [],
        "currency_unknown",
    ),
    "a new account": (Opening("Alice", "USD", "r1", "k1"), [1], "opened"),
    "its key again": (Opening("Alice", "USD", "r1", "k1"), [], "replayed"),
    "its reference again": (
        Opening("Alice", "USD", "r1", "made up", origin=Origin.UNKEYED),
        [],
        "replayed",
    ),
    "its reference, another key": (Opening("Alice", "USD", "r1", "k9"), [], "reference_taken"),
    "its key with metadata": (
        Opening("Alice", "USD", "r1", "k1", metadata="{}"),
        [],
        "idempotency_key_reused",
    ),
    "its key for another": (Opening("Bob", "USD", "r1", "k1"), [], "idempotency_key_reused"),
    "its reference for another": (Opening("Bob", "USD", "r1", "k9"), [], "reference_taken"),
    "an unknown currency": (Opening("Bob", "XXX", None, "k9"), [], "currency_unknown"),
}


@pytest.mark.parametrize("case", OPENINGS.values(), ids=OPENINGS.keys())
def test_each_opening_gets_its_verdict(case):
    opening, fresh, expected = case
    (answer,) = answer_openings([opening], [ALICE], fresh)
    if isinstance(answer, Opened):
        assert expected == ("replayed" if answer.replayed else "opened")
    else:
        assert expected == answer.reason


def test_the_same_opening_twice_in_a_batch_opens_one_account():
    first, second = answer_openings([Opening("Alice", "USD", "r1", "k1")] * 2, [ALICE], [1])
    assert (first.replayed, second.replayed) == (False, True)
