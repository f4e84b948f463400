"""A service on two PostgreSQLs under Patroni, of which the leading one is killed under load."""

import itertools
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import httpx
import pytest

from tests.databases import quick_place, reachable_folder
from tests.failover.nodes import LOGIN, OWNER, Node, Nodes, require_patroni, running_nodes
from tests.processes import RunningService, cli, serving, wait_for

CLIENTS = 4
FAILOVER_LIMIT_S = 120.0
PAUSE_S = 0.02  # between two requests of a client
SILENCE_S = 0.5  # before the kill: an asynchronous standby would lack what is answered then
AFTER_S = 1.0  # under load, on the new leader


@pytest.fixture(scope="module")
def nodes() -> Iterator[Nodes]:
    require_patroni()
    with reachable_folder(quick_place()) as folder, running_nodes(folder) as both:
        yield both


@pytest.fixture(scope="module")
def urls(nodes: Nodes) -> dict[str, str]:
    """The environment of the service, and of its commands."""
    return {"DATABASE_URL": nodes.url(LOGIN), "LEDGER_OWNER_URL": nodes.url(OWNER)}


@pytest.fixture(scope="module")
def service(urls: dict[str, str]) -> Iterator[RunningService]:
    with serving(**urls, LEDGER_REQUEST_DEADLINE_S="3") as running:
        yield running


class Load:
    """Clients that pay one from an account to another, again and again, each time with a new key.

    What has no answer is sent again with its key, until the end.
    """

    _numbers = itertools.count(1)

    def __init__(self, base: str, payer: int, payee: int) -> None:
        self._base = base
        self._body = {"from_account_id": payer, "to_account_id": payee, "amount": "1"}
        self.sent: set[str] = set()
        self.answered: dict[str, bytes] = {}
        self.times: list[tuple[float, float]] = []
        """When what was answered had been sent, and when it was answered, both in s."""
        self._ended = threading.Event()
        self._threads = [threading.Thread(target=self._pay) for _ in range(CLIENTS)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ended.set()
        for thread in self._threads:
            thread.join()

    def _pay(self) -> None:
        with httpx.Client(base_url=self._base, timeout=30) as client:
            while not self._ended.is_set():
                key = f"payment {next(self._numbers)}"
                self.sent.add(key)
                while key not in self.answered and not self._ended.wait(PAUSE_S):
                    self._pay_with(client, key)

    def _pay_with(self, client: httpx.Client, key: str) -> None:
        begun_s = time.monotonic()
        answer = self.send(client, key)
        if answer.status_code == 200:
            self.answered[key] = answer.content
            self.times.append((begun_s, time.monotonic()))

    def first_after(self, begun_s: float) -> float | None:
        """When the first answer came to what was sent after a time; None before that."""
        return min((end_s for start_s, end_s in self.times if start_s > begun_s), default=None)

    def send(self, client: httpx.Client, key: str) -> httpx.Response:
        """The answer to the payment with a key."""
        answer = client.post("/transfer/", json={**self._body, "idempotency_key": key})
        assert answer.status_code in {200, 503}, answer.text
        return answer


KILLS: dict[str, Callable[[Node], None]] = {
    "the machine": Node.kill,
    "PostgreSQL": Node.kill_postgres,
}


@pytest.mark.processes
@pytest.mark.timeout(500)
@pytest.mark.parametrize(
    "kill", ["PostgreSQL", pytest.param("the machine", marks=pytest.mark.long)]
)
@pytest.mark.thorough
def test_a_leader_that_is_killed_takes_no_answer_with_it(
    nodes: Nodes, urls: dict[str, str], service: RunningService, kill: str
) -> None:
    payer, payee = service.open(balance="1000000"), service.open()
    before = service.get("/events?limit=1").json()["next"]
    nodes.await_pair()
    with Load(service.base, payer, payee) as load:
        assert wait_for(lambda: len(load.answered) > 100, 30)
        leader = nodes.leader()
        with nodes.silence():
            time.sleep(SILENCE_S)
            KILLS[kill](leader)
        killed_s = time.monotonic()
        first_s = await_first(load, killed_s, leader)
        time.sleep(AFTER_S)
    print(f"{kill} killed: the first write after {first_s - killed_s:.1f} s")
    # Patroni starts a PostgreSQL again that dies while no standby may take over.
    assert kill == "PostgreSQL" or not leader.leads()
    nodes.leader()  # there is exactly one
    send_all_again(service, load)
    assert service.account(payee, "balance") == (f"{len(load.sent)}.00",)
    verified = cli("verify", **urls)
    assert verified.returncode == 0, verified.stdout + verified.stderr
    check_feed(service, load, payee, before)
    leader.start()
    nodes.await_pair()  # the old leader is a standby now, which has everything
    assert load.send(service.client, "payment with a standby").status_code == 200


def await_first(load: Load, killed_s: float, leader: Node) -> float:
    """When the first write was answered that was sent after the kill."""
    is_back = wait_for(lambda: load.first_after(killed_s) is not None, FAILOVER_LIMIT_S)
    assert is_back, leader.log()[-3000:]
    first_s = load.first_after(killed_s)
    assert first_s is not None
    return first_s


def send_all_again(service: RunningService, load: Load) -> None:
    """What was answered gets the same answer; what was not is posted, if it had not been."""
    for key in sorted(load.sent):
        again = load.send(service.client, key)
        assert again.status_code == 200, again.text
        if key in load.answered:
            assert again.headers.get("idempotency-replayed") == "true", key
            assert again.content == load.answered[key]


def check_feed(service: RunningService, load: Load, payee: int, before: str) -> None:
    """The feed has every payment once, from the position of a reader that was there before, or
    from the one to which the new epoch sends it back.
    """
    page = service.get(f"/events?after={before}")
    if page.status_code == 410:
        before = page.json()["compare_from"]
    keys = [event["data"].get("idempotency_key") for event in events_after(service, before, payee)]
    assert sorted(key for key in keys if key in load.sent) == sorted(load.sent)


def events_after(service: RunningService, position: str, account: int) -> Iterator[dict[str, Any]]:
    while True:
        page = service.get(f"/events?after={position}&limit=1000&account_id={account}")
        assert page.status_code == 200, page.text
        yield from page.json()["events"]
        if page.json()["next"] == position:
            return
        position = page.json()["next"]
