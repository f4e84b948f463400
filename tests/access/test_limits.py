"""What a key may use of a process: the other keys go on, whatever one of them does."""

import json
import threading
from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from ledgerservice.access import keys, meters
from ledgerservice.access.meters import Bucket
from ledgerservice.access.scopes import ALL
from ledgerservice.errors import LimitReached
from ledgerservice.postgres.access import principals
from ledgerservice.postgres.access.limits import KeyLimits
from ledgerservice.postgres.connections import Database
from tests.access.made import bearer, make_key
from tests.databases import connect, url_text
from tests.processes import RunningService, cli, serving, wait_for

NDJSON = {"Content-Type": "application/x-ndjson"}


class World(NamedTuple):
    service: RunningService
    database: Database
    polite: dict[str, str]

    def rude(self, **limits: Any) -> dict[str, str]:
        """The header of a new key with these limits, which the service knows."""
        new = keys.make()
        with self.database.owner_engine().begin() as owner:
            name = f"rude-{next(NUMBERS)}"
            number = principals.add_principal(owner, name, "service", int(ALL), [None])
            principals.add_key(owner, new.id, new.digest, number, 90)
            principals.limit(owner, new.id, KeyLimits(**limits))
        headers = bearer(new.text)
        assert wait_for(lambda: self.status(headers) != 401)
        return headers

    def limit(self, headers: dict[str, str], **limits: Any) -> None:
        """Change the limits of a key."""
        key_id = keys.id_of(headers["Authorization"].split()[1])
        assert key_id is not None
        with self.database.owner_engine().begin() as owner:
            principals.limit(owner, key_id, KeyLimits(**limits))

    def status(self, headers: dict[str, str]) -> int:
        """The status that the key gets for a read, which counts as a request."""
        return self.service.client.get("/accounts/1", headers=headers).status_code

    def deposit(self, headers: dict[str, str], **more: Any) -> httpx.Response:
        return self.service.client.post("/deposit", json=item(**more), headers=headers)


NUMBERS = iter(range(10**6))


def item(**more: Any) -> dict[str, Any]:
    return {"account_id": 1, "amount": "1", "idempotency_key": f"k{next(NUMBERS)}", **more}


def lines(number: int) -> bytes:
    return b"".join(json.dumps(item(type="DEPOSIT")).encode() + b"\n" for _ in range(number))


@pytest.fixture(scope="module")
def world(new_database: Callable[..., Database]) -> Iterator[World]:
    database = new_database()
    polite = bearer(make_key(database, "polite"))
    limits = {"LEDGER_QUEUE_LIMIT_REQUESTS": "20"}
    with serving(DATABASE_URL=url_text(database), **limits) as service:
        made = {"owner": "o", "currency": "USD"}
        assert service.client.post("/accounts", json=made, headers=polite).status_code == 201
        yield World(service, database, polite)


def refused(answer: httpx.Response, limit: str, policy: str) -> None:
    """A refusal of a key by one of its limits, with all that tells when to send it again."""
    assert answer.status_code == 429, answer.text
    body, headers = answer.json(), answer.headers
    assert (body["code"], body["limit"], body["retry"]) == ("rate_limited", limit, "same_key")
    wait = int(headers["retry-after"])
    assert wait >= 1
    assert headers["ratelimit"] == f'"{limit}";r=0;t={wait}'
    assert headers["ratelimit-policy"] == f'"{limit}";{policy}'


def all_go_on(world: World) -> None:
    for _ in range(5):
        assert world.deposit(world.polite).status_code == 200


def test_requests_a_second(world: World) -> None:
    rude = world.rude(rate=0.01, burst=3)
    path = "/accounts/1"
    answers = [world.service.client.get(path, headers=rude) for _ in range(12)]
    statuses = [answer.status_code for answer in answers]
    assert statuses[-1] == 429 and statuses == sorted(statuses) and 200 in statuses
    refused(answers[-1], "requests", "q=3;w=300")
    one = item()
    answer = world.service.client.post("/deposit", json=one, headers=rude)
    refused(answer, "requests", "q=3;w=300")
    all_go_on(world)
    # Nothing was recorded of the refused one.
    path = f"/accounts/1/keys/{one['idempotency_key']}"
    assert world.service.client.get(path, headers=world.polite).status_code == 404


@pytest.mark.parametrize("way", ["independent", "atomic", "linked", "accounts", "rehearsed"])
def test_the_items_of_a_batch_count(world: World, way: str) -> None:
    """One batch may take the key into debt; until it is paid off nothing is taken."""
    rude = world.rude(rate=0.01, burst=4)
    items = [item(type="DEPOSIT") for _ in range(10)]
    path, body = "/batches", {"movements": items, "mode": "atomic"}
    if way == "independent":
        del body["mode"]
    elif way == "linked":
        body = {"movements": [{"linked": items}]}
    elif way == "accounts":
        opened = [{"owner": "o", "currency": "USD", "reference": one["idempotency_key"]}
                  for one in items]  # fmt: skip
        path, body = "/accounts/batches", {"accounts": opened}
    client = world.service.client
    if way == "rehearsed":
        first = client.post("/batches?dry_run=true", content=lines(10), headers={**rude, **NDJSON})
    else:
        first = client.post(path, json=body, headers=rude)
    assert first.status_code == 200, first.text
    refused(client.get("/accounts/1", headers=rude), "requests", "q=4;w=400")
    all_go_on(world)


def test_bytes_of_bodies(world: World) -> None:
    rude = world.rude(body_bytes_s=100)
    large = item(metadata={"x": "y" * 60_000})
    answers = [world.deposit(rude, **large) for _ in range(2)]
    assert answers[0].status_code == 422  # the metadata is too large; it was read
    refused(answers[1], "bytes", 'q=100;qu="content-bytes";w=1')
    assert world.service.client.get("/accounts/1", headers=rude).status_code == 200
    all_go_on(world)


def test_open_streams(world: World) -> None:
    rude, client = world.rude(streams=1), world.service.client
    follow = {**rude, "Accept": "text/event-stream"}
    policy = 'q=1;qu="concurrent-requests"'
    with client.stream("GET", "/events", headers=follow) as stream:
        assert stream.status_code == 200
        answer = client.post("/batches", content=lines(1), headers={**rude, **NDJSON})
        refused(answer, "streams", policy)
        refused(client.get("/events", headers=follow), "streams", policy)
        assert client.get("/events", headers=rude).status_code == 200
        polite = {**world.polite, **NDJSON}
        assert client.post("/batches", content=lines(1), headers=polite).status_code == 200

    def is_free() -> bool:
        answer = client.post("/batches", content=lines(1), headers={**rude, **NDJSON})
        return answer.status_code == 200

    assert wait_for(is_free)
    assert is_free()  # a stream that has ended gives its place back


@pytest.mark.thorough
def test_a_stream_is_slowed_down_and_loses_no_line(world: World) -> None:
    rude = world.rude(rate=0.001, burst=10)
    is_in_debt = threading.Event()
    answers: list[str] = []

    def body() -> Iterator[bytes]:
        yield lines(30)
        assert is_in_debt.wait(60)
        yield lines(5)

    def send() -> None:
        with httpx.Client(base_url=world.service.base, timeout=60) as client:
            sent = client.post("/batches", content=body(), headers={**rude, **NDJSON})
            answers.extend(sent.text.splitlines())

    thread = threading.Thread(target=send)
    thread.start()
    # Whoever sends single requests is refused now, and the stream is not read.
    assert wait_for(lambda: world.status(rude) == 429)
    is_in_debt.set()
    thread.join(2)
    assert thread.is_alive()
    all_go_on(world)
    world.limit(rude, rate=0)
    thread.join(30)
    assert [json.loads(line)["status"] for line in answers] == [200] * 35


def test_a_key_fills_its_share_of_the_queue_only(world: World) -> None:
    rude = world.rude(queue_share=0.5)
    answers: list[httpx.Response] = []

    def send(headers: dict[str, str]) -> None:
        with httpx.Client(base_url=world.service.base, timeout=30) as client:
            answers.append(client.post("/deposit", json=item(), headers=headers))

    def begun(headers: dict[str, str], number: int) -> list[threading.Thread]:
        threads = [threading.Thread(target=send, args=(headers,)) for _ in range(number)]
        for thread in threads:
            thread.start()
        return threads

    with connect(world.database) as owner:
        owner.autocommit = False
        owner.execute("SELECT FROM ledger.accounts WHERE id = 1 FOR UPDATE")
        threads = begun(rude, 30)
        assert wait_for(lambda: len(answers) == 20)
        for answer in answers:
            refused(answer, "queue", 'q=10;qu="concurrent-requests"')
        threads += begun(world.polite, 5)
        owner.rollback()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers[20:]] == [200] * 15


def test_limits_on_the_command_line(world: World) -> None:
    def run(*arguments: str) -> Any:
        done = cli("keys", *arguments, "--json", DATABASE_URL=url_text(world.database))
        assert done.returncode == 0, done.stderr
        return [json.loads(line) for line in done.stdout.splitlines()]

    [made] = run("create", "shop", "--role", "poster", "--rate", "100", "--burst", "200",
                 "--queue-share", "0.25", "--streams", "3", "--body-bytes-s", "999")  # fmt: skip
    limits = {"rate": 100.0, "burst": 200, "queue_share": 0.25, "streams": 3,
              "body_bytes_s": 999}  # fmt: skip

    def listed(key: str) -> Any:
        return next(one["limits"] for one in run("list") if one["id"] == key)

    assert listed(made["key_id"]) == limits
    [changed] = run("limit", made["key"], "--rate", "0")
    assert changed["limits"] == limits | {"rate": 0.0}
    [rotated] = run("rotate", made["key_id"])
    assert listed(rotated["key_id"]) == limits | {"rate": 0.0}
    [reset] = run("limit", rotated["key_id"], "--reset", "--streams", "5")
    assert reset["limits"] == {**dict.fromkeys(limits), "streams": 5}
    for wrong in (["limit", made["key_id"]], ["limit", "nokey", "--rate", "1"],
                  ["limit", made["key_id"], "--queue-share", "2"]):  # fmt: skip
        assert cli("keys", *wrong, DATABASE_URL=url_text(world.database)).returncode != 0


def test_a_changed_limit_holds_within_seconds(world: World) -> None:
    key = world.rude()
    assert world.status(key) == 200
    world.limit(key, rate=0.001, burst=1)
    assert wait_for(lambda: world.status(key) == 429)
    world.limit(key, rate=0)
    assert wait_for(lambda: world.status(key) == 200)


STEPS = st.tuples(st.floats(0, 5), st.integers(0, 40), st.booleans())


@given(st.lists(STEPS, max_size=60), st.integers(1, 20), st.integers(1, 20))
def test_a_bucket_holds_its_mean(steps: list[Any], rate: int, burst: int) -> None:
    """In any time it gives at most its burst, what it earned, and one request beyond that; and it
    is right about when there is more.
    """
    clock, given_out, largest = 0.0, 0, 0
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(meters, "monotonic", lambda: clock)
        bucket = Bucket("requests", rate, burst)
        for wait, number, is_batch in steps:
            clock += wait
            size, least = (number, 0) if is_batch else (1, 1)
            try:
                bucket.take(size, least)
            except LimitReached as reached:
                clock += reached.retry_after_s
                bucket.take(size, least)
            given_out += size
            largest = max(largest, size)
            assert given_out <= burst + clock * rate + largest + 1e-6


def test_a_movement_that_is_refused_takes_no_place():
    """The door of connections takes both limits at once. What it leaves must not count twice."""
    meter = meters.Meter(KeyLimits(1, 1, 1.0, 0, 0), queue_requests=1)
    meter.take_movement()
    for refused_by in ("queue", "requests"):
        with pytest.raises(LimitReached) as caught:
            meter.take_movement()
        assert caught.value.limit == refused_by
        if refused_by == "queue":
            meter.give_movement()
    assert meter.queue is not None
    meter.queue.take()  # the place is free
