"""Any batch, cut anywhere, against the sequential model; and a linked group that fails against its
absence.
"""

from typing import Any

import msgspec
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerservice.api.movements.parsing import read_item
from ledgerservice.domain.instructions import Execution, Group, Origin
from ledgerservice.domain.transactions import Failed, Recorded, Rejected
from tests import examples
from tests.domain.rules.making import BOTH, CREDITS, DEBITS, INR, USD, account, world
from tests.domain.world import A_MINUTE, NOW
from tests.oracle.asking import asked
from tests.oracle.model import Asked, Name, SequentialLedger

CUSTOMERS = {1: "USD", 2: "USD", 3: "USD", 4: "INR", 5: "INR"}
EXTERNAL = {"USD": -USD, "INR": -INR}
RESTRICTED = {None: 0, "debits": DEBITS, "credits": CREDITS, "both": BOTH}


def instruction(model: SequentialLedger, made: Asked) -> Any:
    """An instruction as the API would read it."""
    if made["type"] == "EXECUTION":
        return Execution(made["schedule_id"], made["idempotency_key"], origin=Origin.EXECUTION)
    return read_item(msgspec.json.encode(model.sent(made)))


def facts_of(outcome: Recorded | Rejected) -> Any:
    """What a planner's outcome says."""
    if isinstance(outcome, Rejected):
        return outcome.reason.value, False
    found, refusal = outcome.transaction, outcome.transaction.refusal
    facts: dict[str, Any] = {"kind": found.kind.name, "amount": found.amount}
    facts["entries"] = sorted(
        (e.account_id, e.seq, e.amount, e.held_change, e.balance, e.held) for e in found.entries
    )
    if refusal is not None:
        decided = refusal.account_id, refusal.version, refusal.available
        facts["decided_on"] = decided + ((refusal.balance,) if found.extra else ())
    if refusal is None and found.extra is not None:
        facts["remaining"] = found.extra.remaining
        facts["parent"] = found.extra.parent_id
    return facts, outcome.replayed


def facts_in(model: SequentialLedger, record: dict[str, Any], *, detailed: bool) -> dict[str, Any]:
    """The same of a model's record."""
    facts = {"kind": record["kind"], "amount": record["amount"]}
    entries = []
    for name, version in record["entries"]:
        line = model.lines[name][version - 1]
        changes = line.change, line.held_change, line.balance, line.held
        entries.append((number_of(name), version, *changes))
    facts["entries"] = sorted(entries)
    if "decided_on" in record:
        name, version = record["decided_on"]
        state = record["decided_state"]
        facts["decided_on"] = number_of(name), version, state["balance"] - state["held"]
        facts["decided_on"] += (state["balance"],) if detailed else ()
    elif detailed:
        facts["remaining"] = record.get("remaining")
        facts["parent"] = record["parent"]
    return facts


def number_of(name: Name) -> int:
    return EXTERNAL[name] if isinstance(name, str) else name


_FIRST: list[Asked] = [
    {"type": "DEPOSIT", "account_id": 1, "amount": 100},
    {"type": "WITHDRAWAL", "account_id": 2, "amount": 50},
    {"type": "TRANSFER", "from_account_id": 1, "to_account_id": 2, "amount": 100},
    {
        "type": "TRANSACTION",
        "legs": [
            {"account_id": n, "amount": amount}
            for n, amount in ((1, -30), (3, 40), (3, -11), (2, 1), (4, -5), (5, 5))
        ],
    },
    {"type": "HOLD", "account_id": 1, "amount": 100, "to_account_id": 2},
    {"type": "HOLD", "account_id": 2, "amount": 99, "expires_at": NOW + 1.5 * A_MINUTE},
    {"type": "HOLD", "account_id": 4, "amount": 3, "to_account_id": 5},
    {"type": "TRANSFER", "from_account_id": 1, "to_account_id": 2, "amount": 99},
    {"type": "TRANSFER", "from_account_id": 5, "to_account_id": 4, "amount": 300},
]
SOMETHING_TO_BUILD_ON: list[Asked] = [
    {**one, "idempotency_key": f"first {number}"} for number, one in enumerate(_FIRST)
]
for _one in SOMETHING_TO_BUILD_ON[-2:]:
    _one["execute_at"] = NOW


class Both:
    """The planner's world and the model, from the same beginning."""

    def __init__(self, balances: list[int]) -> None:
        self.model = SequentialLedger()
        opened = []
        for (number, code), balance in zip(CUSTOMERS.items(), balances, strict=True):
            self.model.open(number, code)
            self.model.accounts[number]["balance"] = balance
            self.model.accounts[code]["balance"] -= balance
            opened.append(account(number, balance, -EXTERNAL[code]))
        self.world = world(*opened)
        self.asked: list[Asked] = []
        self.post([(SOMETHING_TO_BUILD_ON, False)])

    def post(self, groups: list[tuple[list[Asked], bool]]) -> None:
        """A batch: by the planner at once, by the model one by one."""
        asked = [
            Group([instruction(self.model, one) for one in items], linked)
            for items, linked in groups
        ]
        planned = self.world.plan(asked)
        self.world.write(planned)
        self.model.expire(planned.recorded_at)
        for own in planned.transactions[: planned.service_initiated]:
            self.model.numbered[own.id] = self.model.records[own.account_id, own.key]
        for (items, linked), answer in zip(groups, planned.answers, strict=True):
            if not linked:
                assert not isinstance(answer, Failed)
                for one, outcome in zip(items, answer, strict=True):
                    self.same(one, outcome, self.model.do(one, id_of(outcome), planned.recorded_at))
                continue
            outcomes = [] if isinstance(answer, Failed) else answer
            numbers = list(map(id_of, outcomes)) or [None] * len(items)
            expected = self.model.do_linked(items, numbers, planned.recorded_at)
            if isinstance(answer, Failed):
                code = facts_of(answer.outcome)
                if isinstance(answer.outcome, Recorded):
                    refusal = answer.outcome.transaction.refusal
                    code = refusal.reason.value, answer.outcome.replayed
                assert (answer.index, code) == (expected[0], tuple(expected[1]))
                continue
            for one, outcome, found in zip(items, outcomes, expected, strict=True):
                self.same(one, outcome, found)

    def same(self, one: Asked, outcome: Recorded | Rejected, expected: Any) -> None:
        if isinstance(outcome, Rejected):
            assert (outcome.reason.value, False) == tuple(expected)
            return
        self.asked.append(one)
        record = self.model.records[self.model.scope(one), one["idempotency_key"]]
        assert expected.code == record["code"]
        detailed = outcome.transaction.extra is not None
        facts = facts_in(self.model, record, detailed=detailed)
        assert facts_of(outcome) == (facts, expected.replayed)

    def end(self) -> None:
        """Lock every account, so that what has expired is released; then all is the same."""
        self.post(
            [
                (
                    [
                        {"type": "DEPOSIT", "account_id": n, "amount": 1, "idempotency_key": "end"}
                        for n in CUSTOMERS
                    ],
                    False,
                )
            ]
        )
        for name, expected in self.model.accounts.items():
            found = self.world.accounts[number_of(name)]
            version = len(self.model.lines[name])
            assert (found.balance, found.held, found.version) == (
                expected["balance"], expected["held"], version,
            )  # fmt: skip
            restricted = RESTRICTED[expected["frozen"]] + 4 * expected["closed"]
            assert (found.floor, found.ceiling, found.restricted) == (
                expected["floor"], expected["ceiling"], restricted,
            )  # fmt: skip
        written = self.world.transactions.values()
        told = sorted(
            (p.account_id, p.seq, p.floor, p.ceiling, p.restricted, p.actor, p.reason, p.lowest)
            for t in written if t.extra for p in t.extra.policies
        )  # fmt: skip
        assert told == sorted(
            (name, p["version"], p["floor"], p["ceiling"],
             RESTRICTED[p["frozen"]] + 4 * p["closed"], p["actor"], p["reason"], p.get("forced_to"))
            for name, changes in self.model.policies.items() for p in changes
        )  # fmt: skip
        assert {n: h.remaining for n, h in self.world.holds().items()} == {
            number: kept["remaining"] for number, kept in self.model.holds.items()
        }
        assert {n for n in self.model.schedules if n is not None and not self.world.settled(n)} == {
            n for n, kept in self.model.schedules.items() if kept["status"] == "pending"
        }
        assert {(t.account_id, t.key) for t in written} == self.model.records.keys()


def id_of(outcome: Recorded | Rejected) -> int | None:
    return outcome.transaction.id if isinstance(outcome, Recorded) else None


def batch_of(data: st.DataObject, both: Both, most: int = 3) -> list[tuple[list[Asked], bool]]:
    """Groups that build on what was written before them, with repeats of what was asked before."""
    parents = {n: t.kind.name for n, t in both.world.transactions.items()}
    one = asked(both.model, CUSTOMERS, parents, both.world.now)
    if both.asked:
        one |= st.sampled_from(both.asked)
    group = st.tuples(st.lists(one, min_size=1, max_size=5), st.booleans())
    return data.draw(st.lists(group, min_size=1, max_size=most))


balances_of_all = st.lists(st.integers(100, 500), min_size=5, max_size=5)


@settings(max_examples=examples(40), deadline=None)
@given(balances_of_all, st.data())
def test_any_batch_is_decided_like_one_instruction_after_another(balances, data):
    both = Both(balances)
    for _ in range(data.draw(st.integers(1, 5))):
        both.post(batch_of(data, both))
        both.world.now += A_MINUTE
    both.end()


# A linked group that fails, against its absence.


@settings(max_examples=examples(40), deadline=None)
@given(balances_of_all, st.data())
def test_a_linked_group_that_fails_leaves_nothing(balances, data):
    both = Both(balances)
    for _ in range(data.draw(st.integers(0, 3))):
        both.post(batch_of(data, both))
        both.world.now += A_MINUTE
    parents = {n: t.kind.name for n, t in both.world.transactions.items()}
    doomed = data.draw(
        st.lists(asked(both.model, CUSTOMERS, parents, both.world.now), min_size=1, max_size=6)
    )
    impossible = {"type": "WITHDRAWAL", "account_id": 1, "amount": 10**9, "idempotency_key": "no"}
    doomed = [instruction(both.model, one) for one in (*doomed, impossible)]
    others = [
        Group([instruction(both.model, one) for one in items], linked)
        for items, linked in batch_of(data, both)
    ]
    failed = both.world.plan([Group(doomed, linked=True), *others])
    assert isinstance(failed.answers[0], Failed)
    without = both.world.plan(others)
    assert numberless(failed.answers[1:]) == numberless(without.answers)
    assert numberless(failed.transactions[failed.service_initiated :]) == numberless(
        without.transactions[without.service_initiated :]
    )


def numberless(found: Any) -> Any:
    """Without ids, and without the moments, which have a plan in common."""
    if isinstance(found, list | tuple):
        return [numberless(one) for one in found]
    if isinstance(found, msgspec.Struct):
        return {
            name: numberless(getattr(found, name))
            for name in found.__struct_fields__
            if name not in ("id", "transaction_id", "recorded_at")
        }
    return found
