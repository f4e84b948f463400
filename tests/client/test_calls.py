"""Each call of the client, against a running service."""

import asyncio
import inspect
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any

import msgspec
import pytest

from ledgerservice.access.signatures import public_key_of
from ledgerservice.client import (
    AsyncClient,
    Client,
    ClientClosed,
    Conflict,
    Declined,
    Invalid,
    KeyMisused,
    Leg,
    NotFound,
    Unauthenticated,
    answers,
)
from ledgerservice.client.items import amount_text
from ledgerservice.client.pages import Pages
from ledgerservice.postgres.connections import Database
from tests.access.made import make_key
from tests.access.signing import new_key
from tests.databases import url_text
from tests.processes import RunningService, serving

pytestmark = pytest.mark.processes

OTHER_EVENTS = 12_000
"""More than the service looks through for one answer that is not waited for."""


@dataclass
class Book:
    client: AsyncClient
    alice: int
    bob: int


def in_book(service: RunningService, use: Callable[[Book], Any], **options: Any) -> Any:
    """Calls `use` with a client and two accounts, the first of which has 100 dollars."""

    async def run() -> Any:
        async with AsyncClient(service.base, **options) as client:
            alice = (await client.open_account("Alice", "USD")).id
            bob = (await client.open_account("Bob", "USD", metadata={"vip": True})).id
            await client.deposit(alice, 100)
            return await use(Book(client, alice, bob))

    return asyncio.run(run())


def test_money_moves_by_every_call(service):
    async def use(book: Book) -> None:
        client, alice, bob = book.client, book.alice, book.bob
        soon = datetime.now(UTC) + timedelta(days=1)
        moved = await client.transfer(alice, bob, "10.50", description="rent", metadata={"n": 1})
        assert (moved.transaction_type, moved.amount) == ("TRANSFER", Decimal("10.50"))
        assert (moved.sender_new_balance, moved.metadata) == (Decimal("89.50"), {"n": 1})
        assert [entry.account_id for entry in moved.entries] == [alice, bob]
        taken = await client.withdraw(alice, Decimal("9.5"), effective_at=soon)
        assert (taken.new_balance, taken.effective_at) == (Decimal(80), soon)
        held = await client.hold(alice, 30, to_account_id=bob, expires_at=soon)
        assert (held.expires_at, held.remaining) == (soon, Decimal(30))
        assert [one.id async for one in client.holds(alice)] == [held.transaction_id]
        assert (await client.capture(held.transaction_id, 10)).remaining == 20
        assert (await client.release(held.transaction_id, 5)).remaining == 15
        assert (await client.capture(held.transaction_id, 3, final=True)).remaining == 0
        hold = await client.get_hold(held.transaction_id)
        assert (hold.status, hold.captured, hold.released) == ("captured", Decimal(13), Decimal(17))
        legs: list[Leg] = [
            {"account_id": alice, "amount": -2},
            {"account_id": bob, "amount": "2.00"},
        ]
        general = await client.post(legs, reference="split")
        assert (general.transaction_type, general.reference) == ("GENERAL", "split")
        back = await client.reverse(general.transaction_id)
        assert back.reverses == general.transaction_id
        planned = await client.transfer(alice, bob, 1, execute_at=soon)
        await client.cancel(planned.transaction_id)
        account = await client.account(alice)
        assert (account.balance, account.held, account.available) == (
            Decimal(67),
            Decimal(0),
            Decimal(67),
        )
        then = await client.account(alice, as_of=moved.recorded_at)
        assert (then.balance, then.final) == (Decimal("89.50"), True)

    in_book(service, use)


def test_what_is_read(service):
    async def use(book: Book) -> None:
        client, alice = book.client, book.alice
        for number in range(7):
            await client.transfer(alice, book.bob, 1, key=f"k {number}/%")
        entries = [entry async for entry in client.history(alice, limit=3)]
        assert [entry.version for entry in entries] == [8, 7, 6, 5, 4, 3, 2, 1]
        found = await client.outcome(alice, "k 3/%")
        assert found is not None and found.idempotency_key == "k 3/%"
        assert await client.outcome(alice, "never") is None
        again = await client.transaction(found.transaction_id)
        assert again.entries == found.entries
        listed = client.transactions({"account_id": alice, "limit": 2})
        assert len([one async for one in listed]) == 8
        owned = [one async for one in client.accounts({"owner": "Bob", "limit": 1})]
        assert book.bob in [one.id for one in owned]
        assert (await client.request("GET", "/currencies/USD"))["exponent"] == 2

    in_book(service, use)


def test_a_refusal_is_typed(service):
    async def use(book: Book) -> None:
        client, alice, bob = book.client, book.alice, book.bob
        with pytest.raises(Declined) as declined:
            await client.transfer(alice, bob, 101, key="too much")
        error = declined.value
        assert (error.code, error.retry, error.key) == (
            "insufficient_funds",
            "new_key",
            "too much",
        )
        assert error.decided_on.available == 100 and error.request_id
        with pytest.raises(Invalid) as invalid:
            await client.deposit(alice, "-1")
        assert invalid.value.field == "amount" and len(invalid.value.key or "") == 32
        with pytest.raises(NotFound):
            await client.deposit(10**12, 1)
        await client.deposit(alice, 1, key="once")
        with pytest.raises(KeyMisused):
            await client.deposit(alice, 2, key="once")
        await client.open_account("Carol", "USD", reference=f"taken {alice}")
        with pytest.raises(Conflict):
            await client.open_account("Carla", "USD", reference=f"taken {alice}")
        with pytest.raises(NotFound) as missing:
            await client.account(10**12)
        assert missing.value.request_id

    in_book(service, use)


def test_a_float_is_not_an_amount():
    assert [amount_text(one) for one in ("1.50", 7, Decimal("1E+3"), Decimal("0.10"))] == [
        "1.50",
        "7",
        "1000",
        "0.10",
    ]
    refused: tuple[Any, ...] = (1.5, True, None, b"1")
    for amount in refused:
        with pytest.raises(TypeError):
            amount_text(amount)


def test_the_events_are_followed_and_resumed(service):
    async def use(book: Book) -> None:
        client, alice = book.client, book.alice
        seen: list[str] = []
        positions: list[str] = []

        async def follow(after: str | None, until: int) -> None:
            async for event in client.events(after, account_id=alice, limit=2):
                seen.append(event.type)
                positions.append(event.id)
                if len(seen) == until:
                    return

        await asyncio.wait_for(follow(None, 2), 30)
        following = asyncio.create_task(follow(positions[-1], 5))
        for _ in range(3):
            await client.transfer(alice, book.bob, 1)
        await asyncio.wait_for(following, 30)
        assert seen == ["account.opened", *["transaction.posted"] * 4]
        assert len(set(positions)) == 5
        rest = client.events(positions[0], account_id=alice, follow=False, limit=3)
        assert [event.id async for event in rest] == positions[1:]
        posted = client.events(types=["account.opened"], account_id=alice, follow=False)
        assert [event.type async for event in posted] == ["account.opened"]

    in_book(service, use)


def test_the_events_of_an_account_are_found_behind_many_of_others(service):
    async def use(book: Book) -> None:
        client = book.client
        carol = (await client.open_account("Carol", "USD")).id
        await client.deposit(book.alice, 1_000)
        others = (client.transfer(book.alice, book.bob, "0.01") for _ in range(OTHER_EVENTS))
        assert len(await asyncio.gather(*others)) == OTHER_EVENTS
        await client.deposit(carol, 1)
        events = client.events(account_id=carol, follow=False)
        assert [event.type async for event in events] == ["account.opened", "transaction.posted"]

    in_book(service, use)


def test_a_ledger_of_another_name_and_a_closed_client(service):
    async def run() -> None:
        async with AsyncClient(service.base) as main:
            await main.request("POST", "/ledgers/", body={"name": "shop"})
        async with AsyncClient(service.base, ledger="shop") as shop:
            account = await shop.open_account("Shop", "USD", key="first")
            again = await shop.open_account("Shop", "USD", key="first")
            assert account == again
            assert (await shop.deposit(account.id, 5)).new_balance == 5
        with pytest.raises(ClientClosed):
            await shop.deposit(account.id, 5)
        async with AsyncClient(service.base, ledger="none") as none:
            with pytest.raises(NotFound, match="ledger_not_found"):
                await none.deposit(account.id, 5)

    asyncio.run(run())


def test_keys_and_signed_requests(new_database: Callable[..., Database], tmp_path):
    database, private = new_database(), new_key(tmp_path, "signer")
    public = public_key_of(private.with_suffix(".pem").read_bytes())
    signed, plain = make_key(database, "signed", public_key=public), make_key(database, "plain")
    pem = private.read_bytes()
    with serving(DATABASE_URL=url_text(database)) as service:

        async def use(book: Book) -> Decimal:
            await asyncio.gather(*(book.client.transfer(book.alice, book.bob, 1) for _ in range(9)))
            with pytest.raises(Declined):
                await book.client.withdraw(book.alice, 92)
            return (await book.client.account(book.bob)).balance

        assert in_book(service, use, api_key=plain) == 9
        assert in_book(service, use, api_key=signed, signing_key=pem) == 9
        for key in (signed, None):
            with (
                Client(service.base, api_key=key) as client,
                pytest.raises(Unauthenticated),
            ):
                client.deposit(1, 1)


def test_the_client_for_threads(service):
    with Client(service.base) as client:
        alice, bob = (client.open_account(name, "USD").id for name in ("Alice", "Bob"))
        client.deposit(alice, 5)
        client.transfer(alice, bob, "1.5", key="k")
        with pytest.raises(Declined):
            client.transfer(alice, bob, 4)
        assert client.account(bob).balance == Decimal("1.5")
        assert [entry.version for entry in client.history(alice, limit=1)] == [2, 1]
        assert client.outcome(alice, "k").amount == Decimal("1.5")
        events = client.events(account_id=bob)
        assert [next(events).type for _ in range(2)] == ["account.opened", "transaction.posted"]
    with pytest.raises(ClientClosed):
        client.deposit(alice, 1)


def test_both_clients_have_the_same_calls():
    def calls(kind: type) -> set[str]:
        return {name for name, one in inspect.getmembers(kind, callable) if name[0] != "_"}

    assert calls(AsyncClient) - {"aclose"} == calls(Client) - {"close", "run"}


ANSWERS: dict[str, type[msgspec.Struct]] = {
    "Posted": answers.Posted,
    "Entry": answers.Entry,
    "Transaction": answers.Transaction,
    "DecidedOn": answers.DecidedOn,
    "Account": answers.Account,
    "HistoryEntry": answers.HistoryEntry,
    "Hold": answers.Hold,
    "EventAnswer": answers.Event,
    "Events": answers.Events,
    "Proposal": answers.Proposal,
}


@pytest.mark.parametrize("name", ANSWERS)
def test_an_answer_has_the_members_of_the_description(service, name):
    schema = service.get("/openapi.json").json()["components"]["schemas"][name]
    fields = msgspec.structs.fields(ANSWERS[name])
    assert {field.name for field in fields} == set(schema["properties"])
    assert {field.name for field in fields if field.required} <= set(schema["required"])


ALONE = """
import sys
before = set(sys.modules)
import ledgerservice.client
names = {name.partition(".")[0] for name in set(sys.modules) - before}
print(*sorted(names - set(sys.stdlib_module_names)))
"""


def test_it_imports_httpx_and_msgspec_only():
    done = subprocess.run([sys.executable, "-c", ALONE], capture_output=True, text=True, check=True)
    # What httpx itself imports; its command line needs click and rich, where they are there.
    of_httpx = {"anyio", "certifi", "h11", "httpcore", "idna", "sniffio", "typing_extensions"}
    command_line = {"click", "rich", "pygments", "markdown_it", "mdurl", "colorama"}
    names = set(done.stdout.split()) - of_httpx - command_line
    assert names == {"httpx", "ledgerservice", "msgspec"}


def test_pages_are_read_when_they_are_needed():
    read: list[int] = []

    async def pages():
        for number in range(3):
            read.append(number)
            yield [number, number]

    async def run() -> None:
        async for row in Pages(pages):
            if row == 1:
                return

    asyncio.run(run())
    assert read == [0, 1]
