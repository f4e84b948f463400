"""Commands from Kafka: each is posted once and has one result, whatever dies."""

import json
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import psutil
import pytest
from confluent_kafka import Message, Producer

from ledgerservice.access.registry import STALE_S
from ledgerservice.postgres.connections import Database
from tests.databases import administer, connect, url_text
from tests.engines.kafka_store import records
from tests.engines.kafka_victim import CONSUMING, kill_at, victim
from tests.engines.servers import Kafka
from tests.postings import open_accounts
from tests.processes import Fork, environment, wait_for

pytestmark = pytest.mark.processes

COMMANDS = 170
LIMIT_S = 90
SOON = "session.timeout.ms=3000&heartbeat.interval.ms=500"
"""A consumer that is killed is a member of its group for so long."""


class Topics:
    """The topics of a prefix, whose commands have three partitions."""

    def __init__(self, kafka: Kafka, prefix: str) -> None:
        self.kafka, self.prefix = kafka, prefix
        self.url = f"kafka://{kafka.address}/{prefix}?{SOON}"
        names = [f"{prefix}.{topic}" for topic in ("commands", "results", "dead")]
        kafka.create(*names, partitions=3, max_message_bytes="4000000")

    def send(self, *values: bytes | None, key: str = "a", **headers: str) -> None:
        maker = {"bootstrap.servers": self.kafka.address, "message.max.bytes": 4_000_000}
        producer = Producer(maker)
        sent: list[tuple[str, str | bytes | None]] = list(headers.items())
        for value in values:
            producer.produce(f"{self.prefix}.commands", key=key, value=value, headers=sent)
        assert producer.flush(30) == 0

    def read(self, topic: str, isolation: str = "read_committed") -> list[Message]:
        return records(self.kafka, f"{self.prefix}.{topic}", isolation)

    def await_results(self, number: int) -> list[Any]:
        """The committed results as JSON, when there are so many; each command has one."""
        assert wait_for(lambda: len(self.read("results")) >= number, LIMIT_S, 0.2)
        found = self.read("results")
        commands = Counter(header(one, "command") for one in found)
        assert (len(found), set(commands.values())) == (number, {1})
        return [json.loads(one.value() or b"") for one in found]


def header(record: Message, name: str) -> str:
    [value] = [text for key, text in record.headers() or () if key == name]  # type: ignore[str-unpack]
    assert isinstance(value, bytes)
    return value.decode()


def a_deposit(key: str, account: int = 1, **more: object) -> bytes:
    body = {"type": "DEPOSIT", "account_id": account, "amount": "1.00", "idempotency_key": key}
    return json.dumps({**body, **more}).encode()


@pytest.fixture
def topics(kafka: Kafka, own_name: str) -> Topics:
    return Topics(kafka, own_name)


@pytest.fixture
def funded(database: Database) -> Database:
    open_accounts(database, "USD", "EUR")
    return database


@contextmanager
def consuming(database: Database, topics: Topics, number: int = 1) -> Iterator[list[Fork]]:
    values = environment(DATABASE_URL=url_text(database))
    processes = [Fork(["consume", topics.url], values) for _ in range(number)]
    try:
        yield processes
    finally:
        for process in processes:
            process.terminate()
        codes = [process.wait(30) for process in processes]
    assert set(codes) <= {0, -signal.SIGKILL, -signal.SIGTERM}  # it may not be ready yet


def balances(database: Database) -> list[int]:
    with connect(database) as owner:
        rows = owner.execute("SELECT balance FROM ledger.accounts WHERE id IN (1, 2) ORDER BY id")
        return [row[0] for row in rows]


@pytest.mark.thorough
@pytest.mark.parametrize(
    "step",
    [
        step if step == "before commit_transaction" else pytest.param(step, marks=pytest.mark.long)
        for step in CONSUMING
    ],
)
def test_each_command_has_one_result_after_a_kill(
    funded: Database, topics: Topics, step: str
) -> None:
    topics.send(*(a_deposit(f"k{n}") for n in range(COMMANDS)))
    kill_at(step, funded, "consume", topics.url, "--instance", "one")
    begun = len(topics.read("results", "read_uncommitted"))
    with consuming(funded, topics):
        results = topics.await_results(COMMANDS)
    assert Counter(result["status"] for result in results) == {200: COMMANDS}
    assert balances(funded)[0] == COMMANDS * 100
    assert topics.read("dead") == []
    if step == "before commit_transaction":
        # PostgreSQL had committed them, so they are replays; and Kafka has what was not committed.
        assert begun == 100
        assert sum(result["replayed"] for result in results) >= 50
        assert len(topics.read("results", "read_uncommitted")) == COMMANDS + 50


@pytest.mark.long
def test_offsets_in_another_transaction_double_results(
    funded: Database, topics: Topics, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The canary of the test above. Money is moved once all the same."""
    monkeypatch.setenv("CANARY", "apart")
    topics.send(*(a_deposit(f"k{n}") for n in range(COMMANDS)))
    kill_at("before commit_transaction", funded, "consume", topics.url, "--instance", "one")
    with consuming(funded, topics):
        assert wait_for(lambda: len(topics.read("results")) > COMMANDS, LIMIT_S, 0.2)
    assert 2 in Counter(header(one, "command") for one in topics.read("results")).values()
    assert balances(funded)[0] == COMMANDS * 100


def test_a_key_that_was_seen_before_is_a_replay(funded: Database, topics: Topics) -> None:
    topics.send(a_deposit("k"), a_deposit("k"), a_deposit("k", 2), a_deposit("k", amount="2"))
    with consuming(funded, topics):
        first, again, other, reused = topics.await_results(4)
    assert (first["replayed"], again["replayed"], other["replayed"]) == (False, True, False)
    assert first["body"] == again["body"]
    assert reused["body"]["code"] == "idempotency_key_reused"
    assert balances(funded) == [100, 100]


POISON: list[tuple[str, bytes | None, dict[str, str]]] = [
    ("invalid_json", None, {}),
    ("invalid_json", b"", {}),
    ("invalid_json", b"\xff\xfe", {}),
    ("invalid_json", b'{"type": "DEPOSIT"', {}),
    ("invalid_json", b'{"ledger": "main", "ledger": "main"}', {}),
    ("idempotency_key_missing", b'{"type":"DEPOSIT","account_id":1,"amount":"1"}', {}),
    ("invalid_request", a_deposit("p1", unknown=1), {}),
    ("invalid_request", a_deposit("p2", ledger="other"), {"ledger": "main"}),
    ("invalid_request", a_deposit("p3", ledger=7), {}),
    ("ledger_not_found", a_deposit("p4"), {"ledger": "no-such"}),
    ("account_not_found", a_deposit("p5", 99), {}),
    ("body_too_large", a_deposit("p6") + b" " * 3_000_000, {}),
]


def test_poisoned_records_are_dead_letters_and_the_others_are_posted(
    funded: Database, topics: Topics
) -> None:
    for number, (_, value, headers) in enumerate(POISON):
        topics.send(value, key="x", **headers)
        topics.send(a_deposit(f"k{number}"), key="x")
    with consuming(funded, topics):
        results = topics.await_results(2 * len(POISON))
    assert [result["status"] for result in results[1::2]] == [200] * len(POISON)
    codes = [result["body"].get("code") for result in results[::2]]
    assert codes == [code for code, _, _ in POISON]
    dead = topics.read("dead")
    assert [(header(one, "reason"), one.value()) for one in dead] == [
        (code, value) for code, value, _ in POISON
    ]
    assert {one.key() for one in dead} == {b"x"}


def test_a_command_names_its_ledger(funded: Database, topics: Topics) -> None:
    with connect(funded) as owner:
        [(name,)] = owner.execute("SELECT name FROM ledger.ledgers").fetchall()
    topics.send(a_deposit("k1"), ledger=name)
    topics.send(a_deposit("k2", ledger=name), a_deposit("k3"))
    linked = {"linked": [json.loads(a_deposit("k4")), json.loads(a_deposit("k5"))]}
    topics.send(json.dumps({**linked, "ledger": name}).encode())
    with consuming(funded, topics):
        results = topics.await_results(4)
    assert [result["status"] for result in results] == [200] * 4
    assert len(results[-1]["body"]["results"]) == 2
    assert balances(funded)[0] == 500


class Sender:
    """Sends commands all the time, until it is stopped; `sent` of them."""

    def __init__(self, topics: Topics) -> None:
        self.sent = 0
        self._topics = topics
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._send)

    def _send(self) -> None:
        while not self._stop.wait(0.05):
            values = [a_deposit(f"k{self.sent + n}") for n in range(100)]
            self._topics.send(*values, key=f"key {self.sent % 700}")
            self.sent += len(values)

    def __enter__(self) -> "Sender":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join()


@pytest.mark.long
def test_consumers_that_come_and_die_under_load_lose_and_double_nothing(
    funded: Database, topics: Topics
) -> None:
    """kill -9 of one of two, and another one instead, several times."""
    values = environment(DATABASE_URL=url_text(funded))
    with consuming(funded, topics, 2) as processes:
        with Sender(topics) as sender:
            for place in range(3):
                seen = len(topics.read("results"))
                assert wait_for(partial(has_results, topics, seen + 300), LIMIT_S, 0.2)
                processes[place].kill()
                processes.append(Fork(["consume", topics.url], values))
        results = topics.await_results(sender.sent)
    assert Counter(result["status"] for result in results) == {200: sender.sent}
    assert balances(funded)[0] == sender.sent * 100
    assert topics.read("dead") == []


def has_results(topics: Topics, number: int) -> bool:
    return len(topics.read("results")) >= number


@contextmanager
def outlived(database: Database, topics: Topics, canary: dict[str, str]) -> Iterator[None]:
    """A consumer that is stopped with a batch that it has posted and not answered, until another
    one has answered it; then it goes on.
    """
    topics.send(*(a_deposit(f"k{n}") for n in range(COMMANDS)))
    step = "before begin_transaction"
    with victim(step, database, "consume", topics.url, SIGNAL="STOP", **canary) as process:
        assert wait_for(lambda: balances(database)[0] > 0, LIMIT_S, 0.2)
        assert wait_for(lambda: psutil.Process(process.pid).status() == psutil.STATUS_STOPPED, 30)
        with consuming(database, topics):
            topics.await_results(COMMANDS)
            process.send_signal(signal.SIGCONT)
            yield


@pytest.mark.thorough
def test_a_consumer_that_the_group_has_dismissed_answers_nothing(
    funded: Database, topics: Topics
) -> None:
    with outlived(funded, topics, {}):
        topics.send(a_deposit("last"))
        assert not wait_for(lambda: len(topics.read("results")) > COMMANDS + 1, 5, 0.5)
        topics.await_results(COMMANDS + 1)
    assert balances(funded)[0] == (COMMANDS + 1) * 100


@pytest.mark.long
def test_without_its_generation_a_dismissed_consumer_answers_again(
    funded: Database, topics: Topics
) -> None:
    """The canary of the test above."""
    with outlived(funded, topics, {"CANARY": "anybody"}):
        assert wait_for(lambda: len(topics.read("results")) > COMMANDS, LIMIT_S, 0.2)


@pytest.mark.thorough
def test_commands_wait_while_the_database_is_away(funded: Database, topics: Topics) -> None:
    name = funded.url.database
    elsewhere = funded.url.set(database="postgres")
    with consuming(funded, topics):
        topics.send(a_deposit("k0"))
        topics.await_results(1)
        administer(
            elsewhere,
            f"ALTER DATABASE {name} ALLOW_CONNECTIONS false",
            f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = '{name}'",
        )
        topics.send(*(a_deposit(f"k{n}") for n in range(1, 51)))
        assert not wait_for(lambda: len(topics.read("results")) > 1, 3, 0.5)
        assert topics.read("dead") == []
        administer(elsewhere, f"ALTER DATABASE {name} ALLOW_CONNECTIONS true")
        results = topics.await_results(51)
    assert {result["status"] for result in results} == {200}
    assert balances(funded)[0] == 5_100


@pytest.mark.thorough
def test_stale_rules_are_waited_for(funded: Database, topics: Topics) -> None:
    """A command is decided by the rules as they are when it is posted, or not yet."""
    with consuming(funded, topics):
        topics.send(a_deposit("before", amount="500"))
        assert topics.await_results(1)[0]["status"] == 200
        with connect(funded) as owner:
            owner.autocommit = False
            owner.execute("LOCK TABLE ledger.approval_rules")
            rule = "INSERT INTO ledger.approval_rules VALUES (1, 'amount', 'USD', '100', 1)"
            owner.execute(rule)
            time.sleep(STALE_S + 1)
            topics.send(a_deposit("meanwhile", amount="500"), a_deposit("small"))
            time.sleep(2)
            assert len(topics.read("results")) == 1
            owner.commit()
        before, big, small = topics.await_results(3)
    assert [one["status"] for one in (before, big, small)] == [200, 403, 200]
    assert big["body"]["code"] == "approval_required"
    assert balances(funded)[0] == 501_00
