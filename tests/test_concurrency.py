"""Races clients against a running service and counts: no overdraft, no double spending.

    python tests/test_concurrency.py [http://127.0.0.1:8000]

needs nothing but Python; the suite runs the same checks against services of its own.
"""

import http.client
import json
import os
import sys
import threading
import uuid
from collections import Counter
from collections.abc import Callable
from urllib.parse import urlsplit

CLIENTS = 64
Check = Callable[[list[str]], str]


class Client:
    """One connection to one service process."""

    def __init__(self, base: str) -> None:
        self._connection = http.client.HTTPConnection(urlsplit(base).netloc, timeout=60)

    def call(self, method: str, path: str, body: object = None) -> tuple[int, bytes]:
        headers = {"Content-Type": "application/json"}
        self._connection.request(method, path, json.dumps(body) if body else None, headers)
        answer = self._connection.getresponse()
        return answer.status, answer.read()

    def get(self, path: str) -> dict:
        return json.loads(self.call("GET", path)[1])

    def account(self, balance: int = 0) -> int:
        """A new account's id, with a balance in whole units."""
        status, body = self.call("POST", "/accounts/", {"owner": "racer", "currency": "USD"})
        assert status == 201, body
        account = json.loads(body)["id"]
        if balance:
            assert self.deposit(account, balance)[0] == 200
        return account

    def deposit(self, account: int, amount: int) -> tuple[int, bytes]:
        key = uuid.uuid4().hex
        return self.call("POST", "/deposit/", movement(account_id=account, amount=amount, key=key))


def movement(key: str, **fields: object) -> dict:
    return {**fields, "idempotency_key": key}


def race(bases: list[str], jobs: list[tuple[str, dict]]) -> list[tuple[int, bytes]]:
    """Post all jobs from 64 clients at once, spread over the service processes."""
    waiting, lock, start = iter(jobs), threading.Lock(), threading.Barrier(CLIENTS)
    answers: list[tuple[int, bytes]] = []

    def run(number: int) -> None:
        client = Client(bases[number % len(bases)])
        start.wait()
        while True:
            with lock:
                job = next(waiting, None)
            if job is None:
                return
            answer = client.call("POST", *job)
            with lock:
                answers.append(answer)

    threads = [threading.Thread(target=run, args=(number,)) for number in range(CLIENTS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(answers) == len(jobs), "a client died"
    return answers


def no_overdraft(bases: list[str], balance: int = 200) -> str:
    """2N debits of 1 on a balance of N: exactly N succeed, and nothing is lost on the way."""
    client = Client(bases[0])
    rich, poor = client.account(balance), client.account()
    jobs = [("/withdraw/", movement(f"w{n}", account_id=rich, amount=1)) for n in range(balance)]
    jobs += [
        ("/transfer/", movement(f"t{n}", from_account_id=rich, to_account_id=poor, amount=1))
        for n in range(balance)
    ]
    statuses = Counter(status for status, _ in race(bases, jobs))
    assert statuses == {200: balance, 400: balance}, statuses
    left, got = client.get(f"/accounts/{rich}"), client.get(f"/accounts/{poor}")
    assert left["balance"] == "0.00", left
    moved = sum(e["transaction_type"] == "WITHDRAWAL" for e in history(client, rich))
    assert got["balance"] == f"{balance - moved}.00", got
    return f"{2 * balance} debits of 1 raced for a balance of {balance}: {balance} succeeded"


def no_double_spending(bases: list[str], times: int = 100) -> str:
    """One key fired many times at once moves money once; all answers are identical."""
    client = Client(bases[0])
    rich, poor = client.account(50), client.account()
    job = ("/transfer/", movement("once", from_account_id=rich, to_account_id=poor, amount=30))
    answers = race(bases, [job] * times)
    assert len(set(answers)) == 1, set(answers)
    assert answers[0][0] == 200, answers[0]
    assert client.get(f"/accounts/{poor}")["balance"] == "30.00"
    assert len(history(client, poor)) == 1
    return f"one key sent {times} times at once moved money once; all bodies were identical"


def no_money_made(bases: list[str], transfers: int = 600) -> str:
    """Transfers in a ring of accounts, both ways at once: no deadlock, and the sum stays."""
    client = Client(bases[0])
    ring = [client.account(10) for _ in range(5)]
    jobs = [
        ("/transfer/", movement(f"r{n}", from_account_id=ring[n % 5], amount=n % 4 + 1,
                                to_account_id=ring[(n + (1 if n % 3 else 4)) % 5]))
        for n in range(transfers)
    ]  # fmt: skip
    statuses = Counter(status for status, _ in race(bases, jobs))
    assert set(statuses) <= {200, 400}, statuses
    balances = [float(client.get(f"/accounts/{account}")["balance"]) for account in ring]
    assert sum(balances) == 50, balances
    assert min(balances) >= 0, balances
    for account in ring:
        running = 0.0
        for entry in reversed(history(client, account)):
            running += float(entry["amount"])
            assert running == float(entry["balance"]) >= 0, entry
    return f"{transfers} transfers crossed in a ring: {statuses[200]} posted, the sum stayed 50.00"


def history(client: Client, account: int) -> list[dict]:
    """The newest thousand entries."""
    return json.loads(client.call("GET", f"/accounts/{account}/history?limit=1000")[1])


CHECKS: list[Check] = [no_overdraft, no_double_spending, no_money_made]


def main() -> None:
    """Run every check; exit code 1 at the first that fails."""
    bases = sys.argv[1:] or [f"http://127.0.0.1:{os.environ.get('LEDGER_PORT', '8000')}"]
    try:
        for check in CHECKS:
            print(f"ok: {check(bases)}")
    except AssertionError as broken:
        sys.exit(f"FAILED: {broken}")
    except OSError as error:
        sys.exit(f"no service answers at {bases[0]}: {error}")
    print("No overdraft, no double spending, no money made or lost.")


if __name__ == "__main__":
    main()
else:
    import pytest

    from tests.databases import url_text
    from tests.processes import serving

    @pytest.fixture(scope="module")
    def bases(new_database):
        """Two service processes on one database."""
        url = url_text(new_database())
        with serving(DATABASE_URL=url) as one, serving(DATABASE_URL=url) as two:
            yield [one.base, two.base]

    @pytest.mark.parametrize("processes", [1, 2])
    @pytest.mark.parametrize("check", CHECKS, ids=lambda check: check.__name__)
    def test_under_a_race_there_is(bases, check, processes):
        check(bases[:processes])
