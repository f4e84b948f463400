"""Random histories over HTTP, every answer compared with the sequential model's."""

import itertools
import os
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any
from urllib.parse import quote

import msgspec
import pytest
from hypothesis import assume, settings
from hypothesis import strategies as st
from hypothesis.stateful import (
    Bundle,
    RuleBasedStateMachine,
    initialize,
    precondition,
    rule,
    run_state_machine_as_test,
)
from sqlalchemy import text

from ledgerservice.domain.amounts import MAX_AMOUNT_MINOR, to_major
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.verification import verify
from tests import examples
from tests.databases import url_text
from tests.oracle.looking_back import LookingBack
from tests.oracle.model import EXPONENTS, Asked
from tests.oracle.over_http import FAR, OTHER_LEDGER, check_problem
from tests.processes import serving, sleep_until

EXAMPLES = examples(8)
STEPS = 30

# Few keys, so that they meet often; not all of them harmless in a path or a COPY.
keys = st.sampled_from(["k1", "k2", "k3", "a/b/", "\\N", '100% "sure"?', "#/keys/"])
amounts = st.integers(1, 500) | st.sampled_from([1, 50, 100, 5_000, 5_050, MAX_AMOUNT_MINOR])
places = st.integers(0, 200)
filters = st.fixed_dictionaries(
    {},
    optional={
        "kind": st.sampled_from(
            ["DEPOSIT", "TRANSFER", "GENERAL", "HOLD", "CAPTURE", "REVERSAL", "POLICY", "SCHEDULE"]
        ),
        "status": st.sampled_from(["posted", "declined"]),
        "reference": st.sampled_from("xy"),
        "metadata": st.sampled_from(
            ['{"a":{}}', '{"b":[1,null,true]}', '{"a":{"ü":"\\\\N"}}', "{}"]
        ),
    },
)
unknown_accounts = st.sampled_from([0, -1, -2, 10**12, 2**63 - 1])

_numbers = itertools.count(1)


class LedgerOverHttp(LookingBack, RuleBasedStateMachine):
    """The rules by which histories are drawn."""

    accounts: "Bundle[int]" = Bundle("accounts")

    # Openings

    @initialize(target=accounts)
    def open_funded(self) -> int:
        account, _ = self.opened({"owner": "Alice", "currency": "USD"}, None)
        self.movement("DEPOSIT", account, None, 10_000, "funding")
        return account

    @initialize(target=accounts)
    def open_empty(self) -> int:
        return self.opened({"owner": "Bob", "currency": "USD"}, None)[0]

    @initialize(target=accounts)
    def open_elsewhere(self) -> int:
        """In another ledger, whose accounts are not there for this one."""
        account, _ = self.opened({"owner": "Eve", "currency": "USD"}, None, OTHER_LEDGER)
        self.movement("DEPOSIT", account, None, 300, "funding")
        return account

    @initialize(target=accounts)
    def open_with_something_to_build_on(self) -> int:
        """Two accounts of dollars and two of rupees, with one of each kind between them: one in,
        one out, and one and other.
        """
        opened = [("Grace", "USD"), ("Heidi", "USD"), ("Ravi", "INR"), ("Sita", "INR")]
        one, other, *rupees = (
            self.opened({"owner": owner, "currency": currency}, None)[0]
            for owner, currency in opened
        )
        own = {"account_id": one, "amount": 300}
        between = {"from_account_id": one, "to_account_id": other, "amount": 100}
        legs = [{"account_id": one, "amount": n} for n in (-30, -20, 10)]
        met = {"available_at_least": 180, "balance_at_least": 180, "version": 4}
        pairs = [(one, -20), (other, 20), (rupees[0], -30), (rupees[1], 30)]
        rate = {"sell": "USD", "buy": "INR", "rate": "1.505"}
        items: list[Asked] = [
            {"type": "DEPOSIT", **own, "reference": "x", "metadata": {"a": {}}},
            {"type": "WITHDRAWAL", **own, "amount": 20, "reference": "y", "metadata": {}},
            {"type": "TRANSFER", **between},
            {"type": "POLICY", "account_id": one, "floor": -10, "actor": "me", "reason": "so"},
            {
                "type": "TRANSACTION",
                "legs": [legs[0] | met, *legs[1:], {"account_id": other, "amount": 40}],
            },
            {"type": "HOLD", **own, "amount": 50},
            {"type": "HOLD", **own, "amount": 60, "to_account_id": other, "expires_at": FAR},
            {"type": "TRANSFER", **between, "execute_at": FAR},
            *({"type": "DEPOSIT", "account_id": account, "amount": 2_000} for account in rupees),
            {
                "type": "TRANSACTION",
                "legs": [{"account_id": account, "amount": n} for account, n in pairs],
                "exchange": rate,
            },
            {"type": "HOLD", **own, "amount": 50_000, "reference": "y"},  # declined
        ]
        self.post_batch("", [{**item, "idempotency_key": f"b{n}"} for n, item in enumerate(items)])
        return one

    @rule(
        target=accounts,
        owner=st.sampled_from(["Zoë", "Robert'); --", "\u202eecilA"]),
        currency=st.sampled_from(["INR", "INR", "JPY", "HOURS"]),
        funds=st.sampled_from([0, 300]),
    )
    def open_another(self, owner: str, currency: str, funds: int) -> int:
        account, _ = self.opened({"owner": owner, "currency": currency}, None)
        if funds:
            self.movement("DEPOSIT", account, None, funds, "funding")
        return account

    @rule(
        target=accounts,
        name=st.sampled_from(["reference", "key", "both"]),
        change=st.sampled_from(
            [
                {},
                {"owner": "Mallory"},
                {"currency": "INR"},
                {"metadata": {"b": 2}},
                {"metadata": None},
            ]
        ),
        ledger=st.sampled_from(["", OTHER_LEDGER]),
    )
    def open_twice(self, name: str, change: dict[str, Any], ledger: str) -> int:
        """Opened, then asked for again by its name: the same answer, or a refusal if changed."""
        body = {"owner": "Carol", "currency": "USD", "metadata": {"a": [1, None]}}
        if name != "key":
            body["reference"] = f"reference {next(_numbers)}"
        key = None if name == "reference" else f"opening {next(_numbers)}"
        account, content = self.opened(body, key, ledger)
        again = self.open({**body, **change}, key, ledger)
        if change:
            check_problem(again, "idempotency_key_reused" if key else "reference_taken")
        else:
            assert (again.status_code, again.content) == (201, content)
            assert again.headers["idempotency-replayed"] == "true"
        return account

    # Movements

    @rule(account=accounts, amount=amounts, key=keys, data=st.data())
    def deposit(self, account: int, amount: int, key: str, data: st.DataObject) -> None:
        self.movement("DEPOSIT", account, None, amount, key, speller(data))

    @rule(account=accounts, amount=amounts, key=keys, data=st.data())
    def withdraw(self, account: int, amount: int, key: str, data: st.DataObject) -> None:
        self.movement("WITHDRAWAL", account, None, amount, key, speller(data))

    @rule(account=accounts, other=accounts, amount=amounts, key=keys, data=st.data())
    def transfer(
        self, account: int, other: int, amount: int, key: str, data: st.DataObject
    ) -> None:
        self.movement("TRANSFER", account, other, amount, key, speller(data))

    @rule(account=accounts, other=accounts, sums=st.lists(st.integers(1, 900), max_size=12))
    def pass_on(self, account: int, other: int, sums: list[int]) -> None:
        """A run of deposits, each passed on in part, every one with a key of its own."""
        for sum_ in sums:
            key = f"run {len(self.answers)}"
            self.movement("DEPOSIT", account, None, sum_, key)
            if sum_ % 3 and account != other:
                self.movement("TRANSFER", account, other, sum_, f"{key} on")

    @rule(
        account=accounts,
        stranger=unknown_accounts,
        way=st.sampled_from(["DEPOSIT", "WITHDRAWAL", "to", "from", "too much"]),
        key=keys,
    )
    def ask_amiss(self, account: int, stranger: int, way: str, key: str) -> None:
        """An account that is not there or not a customer's, or an amount over the limit."""
        if way == "to":
            self.movement("TRANSFER", account, stranger, 100, key)
        elif way == "from":
            self.movement("TRANSFER", stranger, account, 100, key)
        elif way == "too much":
            self.movement("DEPOSIT", account, None, MAX_AMOUNT_MINOR + 1, key)
        else:
            self.movement(way, stranger, None, 100, key)

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def repeat(self, data: st.DataObject) -> None:
        self.do(self.recorded(data)["asked"], speller(data))

    @precondition(lambda self: self.answers)
    @rule(data=st.data(), change=st.sampled_from(["amount", "kind", "other", "detail"]))
    def reuse(self, data: st.DataObject, change: str) -> None:
        first = self.recorded(data, plain=change == "kind", other=change == "other")["asked"]
        changed = dict(first)
        if change == "amount":
            assume("amount" in first)
            changed["amount"] += 1
        elif change == "kind":
            of = first.get("account_id") or first["from_account_id"]
            kind = "WITHDRAWAL" if first["type"] == "DEPOSIT" else "DEPOSIT"
            key = first["idempotency_key"]
            changed = {"type": kind, "amount": 1, "account_id": of, "idempotency_key": key}
        elif change == "other":
            # By name: an amount may happen to be an account's id, in one run and not in the next.
            taken = {first["from_account_id"], first["to_account_id"]}
            others = [n for n in self.ledgers if n not in taken]
            changed["to_account_id"] = data.draw(st.sampled_from(others))
        else:
            assume(first["type"] != "POLICY")
            changed["reference"] = f"{first.get('reference', '')}!"
        assert self.do(changed, speller(data)) == "idempotency_key_reused"

    # All kinds

    @rule(data=st.data(), several=st.integers(3, 8))
    def ask(self, data: st.DataObject, several: int) -> None:
        for _ in range(several):
            self.do(self.asking(data, "").any(), speller(data))

    @rule(
        data=st.data(),
        kind=st.sampled_from(["EXCHANGE", "EXCHANGE", "TRANSACTION", "REVERSAL", "POLICY"]),
        several=st.integers(3, 6),
    )
    def ask_for(self, data: st.DataObject, kind: str, several: int) -> None:
        """What has so many parts that it is seldom right by chance, and drawn among all others."""
        for _ in range(several):
            self.do(self.asking(data, "").of(kind), speller(data))

    @rule(data=st.data())
    def ask_elsewhere(self, data: st.DataObject) -> None:
        """In the other ledger, also about what is of this one."""
        asking = self.asking(data, OTHER_LEDGER)
        if data.draw(st.booleans()):
            asking.customers = dict.fromkeys(self.ledgers, "USD")
            asking.parents = {**asking.parents, **self.kinds("")}
        self.do(asking.any(), ledger=OTHER_LEDGER)

    @rule(data=st.data())
    def rehearse(self, data: st.DataObject) -> None:
        """A dry run is answered like it would be; that it changes nothing, all else shows."""
        self.do(self.asking(data, "").any(), dry_run=True)

    @rule(
        data=st.data(),
        mode=st.sampled_from(["independent", "independent", "atomic"]),
        ledger=st.sampled_from(["", "", OTHER_LEDGER]),
        dry_run=st.booleans(),
    )
    def batch(self, data: st.DataObject, mode: str, ledger: str, dry_run: bool) -> None:
        asking = self.asking(data, ledger)
        items: list[Any] = [asking.any() for _ in range(data.draw(st.integers(1, 4)))]
        if mode == "independent":
            items[1:1] = [[asking.any() for _ in range(data.draw(st.integers(1, 3)))]]
        if dry_run:
            self.rehearse_batch(ledger, items, mode)
        self.post_batch(ledger, items, mode)

    # What is due

    @rule(
        account=accounts,
        amount=st.integers(1, 60),
        then=st.sampled_from(["withdraw", "capture", "refused", "nothing"]),
        soon=st.booleans(),
    )
    def expire(self, account: int, amount: int, then: str, soon: bool) -> None:
        """A hold that expires while something is asked of its account."""
        ledger = self.ledgers[account]
        expires_at = datetime.now(UTC) + timedelta(milliseconds=60)
        asked: Asked = {"type": "HOLD", "account_id": account, "amount": amount}
        asked |= {"expires_at": expires_at, "idempotency_key": f"brief {next(_numbers)}"}
        if self.do(asked) != "posted":
            return
        hold = self.answers[account, asked["idempotency_key"]][1]["hold_id"]
        for late in (False, True):
            if late and not soon:
                sleep_until(expires_at)
            key = f"brief {next(_numbers)}"
            if then == "withdraw":
                free = self.model(account).available(account)
                self.movement("WITHDRAWAL", account, None, max(1, free + 1 + late), key)
            elif then == "capture":
                step = {"type": "CAPTURE", "hold_id": hold, "amount": 1}
                self.do({**step, "idempotency_key": key}, ledger=ledger)
            elif then == "refused":
                self.movement("TRANSFER", account, -1, 1, key)
        sleep_until(expires_at)
        found = self.client.get(f"{ledger}/accounts/{account}").json()
        self.model(account).expire(datetime.now(UTC))
        self.check_figures(account, found)
        if self.model(account).holds[hold]["expired"]:
            self.settle(f"expiry {hold}", of=hold, ledger=ledger)

    @rule(account=accounts, other=st.none() | accounts, amount=st.integers(1, 200), data=st.data())
    def capture_on_time(
        self, account: int, other: int | None, amount: int, data: st.DataObject
    ) -> None:
        """A hold that the service captures, its time being over already."""
        asked: Asked = {"type": "HOLD", "account_id": account, "amount": amount}
        asked |= {"capture_at": datetime.now(UTC), "idempotency_key": f"due {next(_numbers)}"}
        if other is not None:
            asked["to_account_id"] = other
        if self.do(asked) == "posted":
            hold = self.answers[account, asked["idempotency_key"]][1]["hold_id"]
            self.settle(f"capture {hold}", of=hold, ledger=self.ledgers[account])

    @rule(account=accounts, other=accounts, amount=st.integers(1, 200))
    def execute_on_time(self, account: int, other: int, amount: int) -> None:
        """A scheduled transfer, its time being over already."""
        asked: Asked = {"type": "TRANSFER", "from_account_id": account, "to_account_id": other}
        asked |= {"amount": amount, "idempotency_key": f"due {next(_numbers)}"}
        asked["execute_at"] = datetime.now(UTC) - timedelta(days=1)
        if self.do(asked) == "posted":
            schedule = self.answers[account, asked["idempotency_key"]][1]["schedule_id"]
            self.settle(f"execution {schedule}", of=schedule, ledger=self.ledgers[account])

    # Reads

    @rule(account=accounts, limit=st.integers(1, 6))
    def read_account(self, account: int, limit: int) -> None:
        self.check_account(account, limit)

    @rule(account=accounts, places=st.tuples(places, places), limit=st.integers(2, 6))
    def read_then(self, account: int, places: tuple[int, int], limit: int) -> None:
        begin, end = sorted(self.an_edge(account, place) for place in places)
        self.check_then(account, begin)
        self.check_then(account, end)
        self.check_statement(account, begin, end, limit)

    @rule(
        account=st.none() | accounts,
        filters=filters,
        limit=st.integers(2, 9),
        ledger=st.sampled_from(["", OTHER_LEDGER]),
    )
    def list_transactions(
        self, account: int | None, filters: dict[str, Any], limit: int, ledger: str
    ) -> None:
        if account is not None:
            filters, ledger = {**filters, "account_id": account}, self.ledgers[account]
        self.check_list(ledger, filters, limit)

    @precondition(lambda self: any(model.holds for model in self.models.values()))
    @rule(data=st.data())
    def read_hold(self, data: st.DataObject) -> None:
        ledger, number = self.one_of(data, "holds")
        self.check_hold(ledger, number)

    @precondition(lambda self: any(model.schedules for model in self.models.values()))
    @rule(data=st.data())
    def read_schedule(self, data: st.DataObject) -> None:
        ledger, number = self.one_of(data, "schedules")
        schedule = self.models[ledger].schedules[number]
        found = self.client.get(f"{ledger}/schedules/{number}").json()
        exponent = self.models[ledger].exponent(schedule["account"])
        expected = {"id": number, "status": schedule["status"]}
        expected |= {"from_account_id": schedule["account"], "to_account_id": schedule["other"]}
        expected["amount"] = to_major(schedule["amount"], exponent)
        assert {name: found[name] for name in expected} == expected
        if schedule["status"] == "pending":
            assert found["settled_by"] is None
        else:
            assert self.models[ledger].numbered[found["settled_by"]]["parent"] == number

    @rule(currency=st.sampled_from(list(EXPONENTS)), ledger=st.sampled_from(["", OTHER_LEDGER]))
    def list_accounts(self, currency: str, ledger: str) -> None:
        found = self.pages(f"{ledger}/accounts/?currency={currency}&limit=1000", 1000)
        listed = [account["id"] for account in found]
        assert listed == sorted(set(listed))
        assert all(account > 0 for account in listed)
        for account, home in self.ledgers.items():
            own = self.model(account).accounts[account]["currency"] == currency and home == ledger
            assert (account in listed) is own

    @precondition(lambda self: self.answers)
    @rule(data=st.data())
    def look_up(self, data: st.DataObject) -> None:
        """A key's record is its transaction's, which is linked both ways."""
        record = self.recorded(data)
        account, key = record["account"], record["asked"]["idempotency_key"]
        ledger, model = self.ledgers[account], self.model(account)
        by_key = self.client.get(f"{ledger}/accounts/{account}/keys/{quote(key, safe='')}")
        by_id = self.client.get(f"{ledger}/transactions/{record['number']}")
        assert by_id.status_code == by_key.status_code == 200
        found = by_id.json()
        assert (found["account_id"], found["idempotency_key"]) == (account, key)
        declined = record["code"] != "posted"
        assert found["status"] == ("declined" if declined else "posted")
        assert found.get("code") == (record["code"] if declined else None)
        answer = self.answers[account, key][1]
        assert found["recorded_at"] == answer["recorded_at"]
        assert found["entries"] == ([] if declined else answer["entries"])
        self.check_record(model, record, found)
        if declined and record["kind"] == "TRANSFER":
            schedule = model.schedules.get(record["parent"])
            payee = record["asked"]["to_account_id"] if schedule is None else schedule["other"]
            assert found["counterparty_id"] == payee
        children = [
            r for r in model.records.values() if r["parent"] == record["number"] and r["entries"]
        ]
        name = "reversed_by" if any(r["kind"] == "REVERSAL" for r in children) else "steps"
        assert found.get(name, []) == [r["number"] for r in children]
        assert by_key.json() == {
            n: v for n, v in found.items() if n not in ("reversed_by", "steps")
        }
        elsewhere = OTHER_LEDGER if ledger == "" else ""
        away = self.client.get(f"{elsewhere}/transactions/{record['number']}")
        check_problem(away, "transaction_not_found")

    @rule(account=accounts, key=keys)
    def look_up_nothing(self, account: int, key: str) -> None:
        ledger = self.ledgers[account]
        if (account, key) not in self.answers:
            path = f"{ledger}/accounts/{account}/keys/{quote(key, safe='')}"
            check_problem(self.client.get(path), "key_not_found")
        elsewhere = OTHER_LEDGER if ledger == "" else ""
        for what in ("", "/history", "/policies"):
            response = self.client.get(f"{elsewhere}/accounts/{account}{what}")
            check_problem(response, "account_not_found")

    def teardown(self) -> None:
        """The books of both sides are the same, and `verify` finds nothing in them."""
        for account in self.ledgers:
            self.read_account(account, 5)
        for ledger in set(self.ledgers.values()):
            self.look_back(ledger)
        with self.engine.connect() as connection:
            sums = "SELECT sum(balance) FROM ledger.accounts GROUP BY ledger_id, currency"
            assert set(connection.scalars(text(sums))) <= {0}
        assert list(verify(self.engine)) == []


def spellings(minor: int, exponent: int) -> list[str]:
    """Every JSON literal of an amount: 50, 50.0, 50.00, and the same as text."""
    texts = [to_major(minor, exponent)]
    while "." in texts[-1] and texts[-1][-1] in "0.":
        texts.append(texts[-1][:-1].removesuffix("."))
    return [literal for text in texts for literal in (text, f'"{text}"')]


def speller(data: st.DataObject) -> Callable[[int, int], msgspec.Raw]:
    return lambda minor, exponent: msgspec.Raw(
        data.draw(st.sampled_from(spellings(minor, exponent))).encode()
    )


@pytest.fixture
def machine(new_database: Callable[..., Database]) -> Iterator[type[LedgerOverHttp]]:
    """The machine with a service and its database."""
    database = new_database()
    engine = database.owner_engine()
    with serving(DATABASE_URL=url_text(database), LEDGER_SWEEP_INTERVAL_S="0.02") as service:
        hours = {"code": "HOURS", "exponent": 3, "name": "Hours of work"}
        assert service.post("/currencies/", hours).status_code == 201
        assert service.post("/ledgers/", {"name": "other"}).status_code == 201
        yield type("Machine", (LedgerOverHttp,), {"client": service.client, "engine": engine})
    engine.dispose()


# A failing history is shrunk for up to five minutes.
@pytest.mark.timeout(900)
def test_the_service_agrees_with_the_sequential_model(machine: type[LedgerOverHttp]) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES,
            stateful_step_count=STEPS,
            deadline=None,
            derandomize="CI" in os.environ,
        ),
    )
