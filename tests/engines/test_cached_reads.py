"""Reads with `consistency=cached`: from Valkey if it knows, from PostgreSQL otherwise."""

import asyncio
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest
from pydantic import SecretStr

from ledgerservice.errors import ConfigurationError
from ledgerservice.feed.balances import Balances, CachedAccount
from ledgerservice.ledger import Ledger
from ledgerservice.postgres.connections import Database
from ledgerservice.runtime import posting
from ledgerservice.shards import Shards
from tests.databases import empty_database, url_text
from tests.engines.servers import Valkey
from tests.engines.stores import differences
from tests.engines.valkey_store import ValkeyStore
from tests.processes import RunningService, serving, wait_for
from tests.shards.world import World, add_ledger

pytestmark = pytest.mark.processes

GENEROUS_S = 5.0  # for a request whose time-out is 0.05 s
CACHED_ONLY = {"consistency", "position", "as_of", "age_ms"}


@contextmanager
def cached_service(database: Database, store: ValkeyStore) -> Iterator[RunningService]:
    """A service that publishes to the store and reads from it."""
    urls = {"LEDGER_PUBLISH": store.url, "LEDGER_CACHE": store.url}
    with serving(DATABASE_URL=url_text(database), **urls) as running:
        yield running


@pytest.fixture(scope="module")
def database(new_database: Callable[..., Database]) -> Database:
    return new_database()


@pytest.fixture(scope="module")
def store(engines: Any) -> ValkeyStore:
    return ValkeyStore(engines.running(Valkey), "cached_reads")


@pytest.fixture(scope="module")
def running(database: Database, store: ValkeyStore) -> Iterator[RunningService]:
    with cached_service(database, store) as service:
        yield service


@pytest.fixture
def service(running: RunningService, valkey: Valkey) -> RunningService:
    """One for all tests that stop no server for good; each finds Valkey running."""
    return running


def read(service: RunningService, account: int, **options: Any) -> dict[str, Any]:
    answer = service.client.get(f"/accounts/{account}", params={"consistency": "cached", **options})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def await_cached(service: RunningService, account: int, version: int) -> dict[str, Any]:
    """The account as cached, when its version is there, and the server has answered in time."""
    bodies: list[dict[str, Any]] = []

    def is_cached() -> bool:
        bodies.append(read(service, account, min_version=version))
        return bool(bodies[-1]["consistency"] == "cached")

    assert wait_for(is_cached, 30)
    return bodies[-1]


def deposit(service: RunningService, account: int, amount: str = "1") -> int:
    """The version of the account after a deposit."""
    body = service.send("/deposit", account_id=account, amount=amount).json()
    [version] = [one["version"] for one in body["entries"] if one["account_id"] == account]
    return int(version)


def test_a_cached_account_is_the_account(service: RunningService) -> None:
    """All members are equal, and what is more says where it comes from. Events do not say who
    opened an account, so the cache does not either.
    """
    metadata = {"b": [1.50, None], "a": "é"}
    answer = service.post(
        "/accounts", {"owner": "Ann", "currency": "JPY", "reference": "r 1", "metadata": metadata}
    )
    plain, rich = service.open("Bob"), answer.json()["id"]
    limits = {"floor": "-500", "ceiling": "100000", "frozen": "debits"}
    assert deposit(service, plain, "10.05") == 1
    assert deposit(service, rich, "700") == 1
    service.send("/holds", account_id=rich, amount="70")
    assert service.send(f"/accounts/{rich}", "PATCH", **limits).status_code == 200
    for account, version in ((plain, 1), (rich, 3)):
        cached = await_cached(service, account, version)
        strong = service.get(f"/accounts/{account}").json() | {"principal_id": None}
        assert {name: cached[name] for name in cached if name not in CACHED_ONLY} == strong
        last = service.get(f"/accounts/{account}/history?limit=1").json()[0]
        assert cached["position"] == f"1-{last['transaction_id']}"
        assert (cached["as_of"], cached["version"]) == (last["created_at"], last["version"])
        assert cached["age_ms"] >= 0


def test_what_the_cache_does_not_have_comes_from_postgresql(service: RunningService) -> None:
    account = service.open()
    expected = service.get(f"/accounts/{account}").json()
    assert read(service, account) == {**expected, "consistency": "strong"}
    named = service.get(f"/accounts/{account}?consistency=strong").json()
    assert named == {**expected, "consistency": "strong"}


def test_each_reads_what_it_wrote(service: RunningService) -> None:
    account = service.open(balance="1")
    await_cached(service, account, 1)
    for number in range(2, 40):
        version = deposit(service, account)
        body = read(service, account, min_version=version)
        assert (body["version"], body["balance"]) == (number, f"{number}.00")
    assert read(service, account, min_version=10**6)["consistency"] == "strong"


@pytest.mark.parametrize(
    ("place", "status"),
    [("/accounts/{other}", 404), ("/accounts/-1", 200), ("/accounts/999999", 404),
     ("/ledgers/other/accounts/{here}", 404), ("/accounts/01", 404)],
)  # fmt: skip
def test_what_is_not_a_customers_account_here_is_answered_as_without(
    service: RunningService, store: ValkeyStore, place: str, status: int
) -> None:
    """An account of another ledger, an external one, and none."""
    here = service.open()
    base = "/ledgers/other"
    service.post("/ledgers", {"name": "other"})
    other = service.post(f"{base}/accounts", {"owner": "o", "currency": "USD"}).json()["id"]
    body = {"account_id": other, "amount": "1", "idempotency_key": "k"}
    assert service.post(f"{base}/deposit", body).status_code == 200
    await_cached(service, here, deposit(service, here))
    cached = f"{base}/accounts/{other}?consistency=cached"
    assert wait_for(lambda: service.get(cached).json()["consistency"] == "cached")
    assert (1, -1) in (store.state().balances or {})
    url = place.format(here=here, other=other)
    without, with_cache = service.get(url), service.get(f"{url}?consistency=cached")
    assert without.status_code == with_cache.status_code == status
    expected = without.json() | ({"consistency": "strong"} if status == 200 else {})
    assert with_cache.json() == expected


@pytest.mark.parametrize(
    "query",
    ["consistency=cached&as_of=2026-01-01T00:00:00Z", "consistency=eventual", "min_version=-1",
     "consistency=cached&min_version=1.5", "min_version=99999999999999999999"],
)  # fmt: skip
def test_a_query_that_is_not_valid_is_refused(service: RunningService, query: str) -> None:
    answer = service.get(f"/accounts/{service.open()}?{query}")
    assert (answer.status_code, answer.json()["code"]) == (422, "invalid_request")


# What the cache says decides nothing.


def lie(store: ValkeyStore, account: int, **fields: Any) -> None:
    with store.engine.client() as client:
        client.hset(f"{store.generation()}:1:{account}", mapping=fields)


def test_lies_in_the_cache_do_not_decide(service: RunningService, store: ValkeyStore) -> None:
    poor, rich = service.open(balance="5"), service.open(balance="1000")
    for account, balance in ((poor, 10**9), (rich, -(10**9))):
        await_cached(service, account, 1)
        limits = '{"floor":-1000000000000,"ceiling":null,"restricted":7}'
        lie(store, account, balance=balance, version=10**6, limits=limits)
    assert await_cached(service, poor, 2)["balance"] == "10000000.00", "the cache is read at all"
    declined = service.send("/withdraw", account_id=poor, amount="6").json()
    assert declined["code"] == "insufficient_funds"
    assert declined["decided_on"]["balance"] == "5.00"
    moved = service.send("/transfer", from_account_id=rich, to_account_id=poor, amount="900")
    assert moved.status_code == 200
    assert service.account(poor, "balance", "version", "status") == ("905.00", 2, "active")


@pytest.mark.parametrize(
    "fields",
    [{"balance": "much"}, {"version": ""}, {"limits": "{"}, {"details": "[]"}, {"exponent": "2.5"},
     {"recorded_at": "yesterday"}],
)  # fmt: skip
def test_what_is_not_readable_is_a_miss(
    service: RunningService, store: ValkeyStore, fields: dict[str, str]
) -> None:
    account = service.open(balance="5")
    await_cached(service, account, 1)
    lie(store, account, **fields)
    body = read(service, account)
    assert (body["consistency"], body["balance"]) == ("strong", "5.00")


@pytest.mark.parametrize("missing", ["details", "limits", "exponent", "version"])
def test_a_part_of_an_account_is_a_miss(
    service: RunningService, store: ValkeyStore, missing: str
) -> None:
    account = service.open(balance="5")
    await_cached(service, account, 1)
    with store.engine.client() as client:
        client.hdel(f"{store.generation()}:1:{account}", missing)
    assert read(service, account)["consistency"] == "strong"


def test_without_a_position_nothing_is_answered(
    service: RunningService, store: ValkeyStore
) -> None:
    account = service.open(balance="5")
    await_cached(service, account, 1)
    store.forget_position()
    assert read(service, account)["consistency"] == "strong"


# When the server is away.


def test_a_paused_server_holds_nobody_up(service: RunningService, store: ValkeyStore) -> None:
    accounts = [service.open(balance=f"{number}") for number in range(1, 9)]
    for account in accounts:
        await_cached(service, account, 1)
    store.engine.pause()
    try:
        read_by_many(service, accounts)
    finally:
        store.engine.resume()
    assert wait_for(lambda: "cached" in read_by_many(service, accounts), 60), "all get their own"


def read_by_many(service: RunningService, accounts: Sequence[int]) -> set[str]:
    """Each of some threads reads one account again and again, and gets the right balance."""
    sources: set[str] = set()
    problems: list[Any] = []

    def reader(number: int) -> None:
        with httpx.Client(base_url=service.base, timeout=60) as client:
            for _ in range(20):
                begun_s = time.monotonic()
                answer = client.get(f"/accounts/{accounts[number]}?consistency=cached")
                body = answer.json()
                sources.add(body.get("consistency"))
                took_s = time.monotonic() - begun_s
                if body.get("balance") != f"{number + 1}.00" or took_s > GENEROUS_S:
                    problems.append((took_s, body))

    threads = [threading.Thread(target=reader, args=(n,)) for n in range(len(accounts))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert problems == []
    return sources


class Forgetful(Valkey):
    """A server without persistence."""

    def command(self) -> Sequence[str]:
        return [{"yes": "no"}.get(word, word) for word in super().command()]


@pytest.fixture
def forgetful(workspace: Path) -> Iterator[Valkey]:
    with Forgetful(workspace) as engine:
        yield engine


@pytest.mark.thorough
def test_a_server_that_forgets_never_answers_less_than_was_read(
    new_database: Callable[..., Database], forgetful: Valkey
) -> None:
    """Writing, publishing and reading go on while it is killed and started again."""
    database = new_database()
    store = ValkeyStore(forgetful, "forgetful")
    with cached_service(database, store) as service:
        accounts = [service.open(f"owner {number}") for number in range(5)]
        killing = threading.Thread(target=kill_again_and_again, args=(forgetful,))
        killing.start()
        number, cached_answers = 0, 0
        while killing.is_alive() or cached_answers == 0:
            account = accounts[number % 5]
            number += 1
            version = deposit(service, account)
            body = read(service, account, min_version=version)
            expected = version, f"{version}.00", f"owner {accounts.index(account)}"
            assert (body["version"], body["balance"], body["owner"]) == expected
            before = accounts[(number + 3) % 5]
            older = read(service, before)
            assert older["balance"] == f"{older['version']}.00"
            cached_answers += older["consistency"] == "cached"
        killing.join()
        assert wait_for(lambda: not differences(database, store.state()), 60, 0.2)
        for account in accounts:
            body = await_cached(service, account, 1)
            assert body["version"] == service.account(account, "version")[0]


def kill_again_and_again(engine: Valkey) -> None:
    for _ in range(3):
        time.sleep(0.7)
        engine.kill()
        time.sleep(0.3)
        engine.start()


def test_a_dead_server_does_not_keep_the_service_from_starting(
    database: Database, forgetful: Valkey
) -> None:
    forgetful.kill()
    with cached_service(database, ValkeyStore(forgetful, "dead")) as service:
        account = service.open(balance="5")
        assert read(service, account)["consistency"] == "strong"


# In Python.


def in_process(database: Database, work: Callable[[Ledger], Any], cache: str | None = None) -> Any:
    async def run() -> Any:
        secret = None if cache is None else SecretStr(cache)
        settings = database.settings.model_copy(update={"cache": secret})
        async with posting(Database(database.url, settings)) as runtime:
            return await work(Ledger(Shards(runtime)))

    return asyncio.run(run())


def test_python_reads_it_too(
    database: Database, service: RunningService, store: ValkeyStore
) -> None:
    account = service.open(balance="5")
    await_cached(service, account, 1)

    async def work(ledger: Ledger) -> Any:
        strong = await ledger.account(account)
        newer = await ledger.account(account, cached=True, min_version=2)
        for _ in range(20):  # A machine may be too busy to answer in time.
            cached = await ledger.account(account, cached=True, min_version=1)
            if isinstance(cached, CachedAccount):
                break
            await asyncio.sleep(0.5)
        return strong, newer, cached

    strong, newer, cached = in_process(database, work, store.url)
    assert strong == newer and not isinstance(newer, CachedAccount)
    assert isinstance(cached, CachedAccount)
    assert cached.principal_id is None
    names = {*strong.__struct_fields__} - {"principal_id"}
    assert {name: getattr(cached, name) for name in names} == {
        name: getattr(strong, name) for name in names
    }


def test_a_cache_of_another_journal_is_not_read(
    database: Database,
    new_database: Callable[..., Database],
    service: RunningService,
    store: ValkeyStore,
) -> None:
    """As after a restore: the account has the same id, and another balance."""
    account = service.open(balance="5")
    await_cached(service, account, 1)

    async def work(ledger: Ledger) -> Any:
        for number in range(account):
            await ledger.open_account("Eve", "USD", key=f"eve {number}")
        return await ledger.account(account, cached=True)

    other = in_process(new_database(), work, store.url)
    assert (other.owner, other.balance) == ("Eve", 0)


def test_without_the_library_the_start_says_so(
    database: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "redis.asyncio", None)
    with pytest.raises(ConfigurationError, match=r"pip install 'ledgerservice\[redis\]'"):
        Balances("redis://127.0.0.1", database.connect_writer)


# Of several shards.


@pytest.mark.thorough
def test_a_shard_s_balances_are_beside_those_of_main(
    engines: Any, new_database: Callable[..., Database]
) -> None:
    store = ValkeyStore(engines.running(Valkey), "of_shards")
    world = World({"main": new_database(), "b": new_database()})
    world.run("shards", "add", "b")

    def cached(service: RunningService, path: str) -> str | None:
        body = service.get(f"{path}?consistency=cached").json()
        balance: str = body["balance"]
        return balance if body["consistency"] == "cached" else None

    with world.serving(LEDGER_PUBLISH=store.url, LEDGER_CACHE=store.url) as service:
        add_ledger(service, "far", "b")
        body = {"owner": "Alice", "currency": "USD"}
        far = service.post("/ledgers/far/accounts/", body).json()["id"]
        service.send("/ledgers/far/deposit/", account_id=far, amount="3.00")
        near = service.open(balance="5.00")
        path = f"/ledgers/far/accounts/{far}"
        assert wait_for(lambda: cached(service, path) == "3.00", 30)
        assert wait_for(lambda: cached(service, f"/accounts/{near}") == "5.00", 30)


@pytest.mark.thorough
def test_a_ledger_that_came_back_is_not_read_from_before(
    new_database: Callable[..., Database], engines: Any
) -> None:
    """What was recorded elsewhere, a policy too, is missing in the cache of its former home."""
    main = new_database()
    world = World({"main": main, "b": empty_database(main, "b")})
    world.run("shards", "add", "b")
    store = ValkeyStore(engines.running(Valkey), "came_back")
    with world.serving(LEDGER_PUBLISH=store.url, LEDGER_CACHE=store.url) as service:
        add_ledger(service, "shop", "main")
        account = service.post("/ledgers/shop/accounts/", {"owner": "A", "currency": "USD"})
        path = f"/ledgers/shop/accounts/{account.json()['id']}"

        def pay(key: str) -> bool:
            body = {"account_id": account.json()["id"], "amount": "1.00", "idempotency_key": key}
            return service.post("/ledgers/shop/deposit/", body).status_code == 200

        def state() -> dict[str, Any]:
            body: dict[str, Any] = service.get(f"{path}?consistency=cached").json()
            return body

        assert pay("first")
        assert wait_for(lambda: state().get("consistency") == "cached", 30)
        world.run("shards", "move", "shop", "b")
        assert wait_for(lambda: pay("second"), 30)
        limits = {"frozen": "debits", "actor": "risk", "reason": "a test"}
        assert service.send(path, "PATCH", **limits).status_code == 200
        world.run("shards", "move", "shop", "main")
        there = {"consistency": "strong", "balance": "2.00", "frozen": "debits"}
        assert state().items() >= there.items()
        assert wait_for(lambda: pay("third"), 30)
        assert not wait_for(lambda: state()["consistency"] == "cached", 3)
        assert state().items() >= (there | {"balance": "3.00"}).items()
