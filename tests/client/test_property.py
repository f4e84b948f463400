"""Random calls get from the client what the same plain requests get from another ledger."""

import asyncio
import itertools
from typing import Any

import httpx
import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerservice.client import AsyncClient, ClientError, Posted
from tests.processes import RunningService

pytestmark = pytest.mark.processes

_numbers = itertools.count(1)
ACCOUNTS = 3
VOLATILE = {"transaction_id", "hold_id", "reverses", "recorded_at", "schedule_id"}

accounts = st.integers(0, ACCOUNTS)  # the last one does not exist
amounts = st.sampled_from(["1", "2.50", "40", "0.001", "-1", "0", "x", "10000000000000"])
texts = st.one_of(st.none(), st.text('aé"\\ 😀', max_size=5))
keys = st.sampled_from([f"k{n}" for n in range(6)] + ["", "é", 'q"\\'])
earlier = st.integers(0, 12)  # the transaction of an earlier call
money = st.one_of(
    st.tuples(st.just("deposit"), accounts, amounts, texts, keys),
    st.tuples(st.just("withdraw"), accounts, amounts, texts, keys),
    st.tuples(st.just("transfer"), accounts, accounts, amounts, texts, keys),
    st.tuples(st.just("hold"), accounts, amounts, texts, keys),
    st.tuples(st.just("capture"), earlier, st.one_of(st.none(), amounts), texts, keys),
    st.tuples(st.just("release"), earlier, st.one_of(st.none(), amounts), texts, keys),
    st.tuples(st.just("reverse"), earlier, st.one_of(st.none(), amounts), texts, keys),
    st.tuples(st.just("post"), accounts, accounts, amounts, texts, keys),
)


class Twin:
    """A ledger, its accounts, and the ids of the transactions that calls have made."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.accounts: list[int] = []
        self.made: list[int] = []

    def account(self, place: int) -> int:
        return [*self.accounts, 10**9][place]

    def earlier(self, place: int) -> int:
        return self.made[place % len(self.made)] if self.made else 10**9

    def fields(self, call: tuple[Any, ...]) -> tuple[dict[str, Any], dict[str, Any]]:
        """The fields of a call by their names in a body, and its key and description."""
        kind, *values, description, key = call
        options = {"key": key} if description is None else {"key": key, "description": description}
        if kind == "transfer":
            named = zip(("from_account_id", "to_account_id"), values, strict=False)
            ids = {name: self.account(place) for name, place in named}
            return ids | {"amount": values[2]}, options
        if kind == "post":
            first, second, amount = values
            other = amount[1:] if amount.startswith("-") else f"-{amount}"
            pairs = ((first, amount), (second, other))
            legs = [{"account_id": self.account(one), "amount": text} for one, text in pairs]
            return {"legs": legs}, options
        place, amount = values
        if kind in ("deposit", "withdraw", "hold"):
            return {"account_id": self.account(place), "amount": amount}, options
        name = "transaction_id" if kind == "reverse" else "hold_id"
        return {name: self.earlier(place), "amount": amount}, options

    def seen(self, answer: dict[str, Any]) -> dict[str, Any]:
        """An answer without what differs between ledgers. Accounts are shown by their places."""
        if "transaction_id" in answer and answer["transaction_id"] not in self.made:
            self.made.append(answer["transaction_id"])
        places = {number: place for place, number in enumerate(self.accounts)}

        def shown(value: Any, name: str = "") -> Any:
            if isinstance(value, dict):
                kept = {n: v for n, v in value.items() if n not in VOLATILE}
                return {n: shown(v, n) for n, v in kept.items() if v is not None}
            if isinstance(value, list):
                return [shown(one, name) for one in value]
            is_account = name in ("account_id", "counterparty_id") and value in places
            # An external account has another id on each ledger.
            return (
                f"account {places[value]}" if is_account else value if name != "account_id" else 0
            )

        return shown(answer)


PATHS = {
    "deposit": "/deposit/",
    "withdraw": "/withdraw/",
    "transfer": "/transfer/",
    "post": "/transactions/",
    "hold": "/holds/",
    "capture": "/holds/{hold_id}/capture",
    "release": "/holds/{hold_id}/release",
    "reverse": "/transactions/{transaction_id}/reverse",
}


def plain(service: RunningService, twin: Twin, call: tuple[Any, ...]) -> dict[str, Any]:
    fields, options = twin.fields(call)
    path = PATHS[call[0]].format_map(fields)
    body = {n: v for n, v in fields.items() if v is not None and f"{{{n}}}" not in PATHS[call[0]]}
    body |= {"idempotency_key": options.pop("key"), **options}
    answer = service.client.post(f"/ledgers/{twin.name}{path}", json=body)
    return twin.seen(answer.json())


async def called(client: AsyncClient, twin: Twin, call: tuple[Any, ...]) -> dict[str, Any]:
    fields, options = twin.fields(call)
    try:
        posted: Posted = await getattr(client, call[0])(*fields.values(), **options)
    except ClientError as error:
        return twin.seen(error.facts)
    return twin.seen(msgspec.to_builtins(posted))


@settings(max_examples=40)
@given(calls=st.lists(money, max_size=12))
def test_random_calls_get_what_plain_requests_get(service, calls):
    number = next(_numbers)
    one, other = Twin(f"client-{number}"), Twin(f"plain-{number}")
    for twin in (one, other):
        service.post("/ledgers/", {"name": twin.name})
        for place in range(ACCOUNTS):
            body = {"owner": f"o{place}", "currency": "USD"}
            opened = service.post(f"/ledgers/{twin.name}/accounts/", body)
            twin.accounts.append(opened.json()["id"])
    expected = [plain(service, other, call) for call in calls]

    async def run() -> list[dict[str, Any]]:
        async with AsyncClient(service.base, ledger=one.name) as client:
            return [await called(client, one, call) for call in calls]

    assert asyncio.run(run()) == expected
    for place in range(ACCOUNTS):
        states = [state(service, twin, place) for twin in (one, other)]
        assert states[0] == states[1]


def state(service: RunningService, twin: Twin, place: int) -> Any:
    answer: httpx.Response = service.get(f"/ledgers/{twin.name}/accounts/{twin.account(place)}")
    names = ("balance", "held", "available", "version")
    return tuple(answer.json()[name] for name in names)
