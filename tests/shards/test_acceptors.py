"""`serve --acceptors` on several databases: one process posts for the ledgers of all shards."""

import signal
from collections.abc import Callable
from contextlib import ExitStack
from typing import Any

import pytest

from ledgerservice.domain.instructions import Kind
from ledgerservice.postgres.connections import Database
from tests.cli.acceptors import ACCEPTORS, Depositors, processes
from tests.processes import RunningService, serving, wait_for
from tests.shards.world import World, add_ledger

LEDGERS = {"near": "main", "far": "b"}
KILLS = signal.SIGKILL, signal.SIGTERM


def opened(service: RunningService, ledger: str) -> int:
    answer = service.post(f"/ledgers/{ledger}/accounts/", {"owner": "Alice", "currency": "USD"})
    assert answer.status_code == 201, answer.text
    number: int = answer.json()["id"]
    return number


def kill_in_turn(service: RunningService, everyone: list[Depositors]) -> None:
    """Kill the process that posts and an acceptor; the depositors of all ledgers go on."""
    for number in KILLS:
        poster, acceptors = processes(service)
        poster.send_signal(number)
        for one in everyone:
            one.go_on()
        acceptors[0].kill()
        for one in everyone:
            one.go_on()


@pytest.mark.long
def test_whoever_dies_nothing_is_lost_and_nothing_doubled(
    world: World, no_violations: Callable[[Database], None]
) -> None:
    with serving(options=ACCEPTORS, **world.environment()) as service, ExitStack() as stack:
        accounts = {}
        for ledger, shard in LEDGERS.items():
            add_ledger(service, ledger, shard)
            accounts[ledger] = opened(service, ledger)
        everyone = {
            ledger: Depositors(f"{service.base}/ledgers/{ledger}", account, 4)
            for ledger, account in accounts.items()
        }
        for one in everyone.values():
            stack.callback(one.stop)
        kill_in_turn(service, list(everyone.values()))
        deposits = {ledger: one.stop() for ledger, one in everyone.items()}
        assert wait_for(lambda: service.get("/health/ready").status_code == 200, 60)
        for ledger, account in accounts.items():
            body = service.get(f"/ledgers/{ledger}/accounts/{account}").json()
            expected = f"{deposits[ledger]}.00", deposits[ledger]
            assert (body["balance"], body["version"]) == expected
        assert service.stop() == 0
    for name in ("main", "b"):
        no_violations(world.databases[name])


PARTS = 3
FUNDS = 1_000
KILLS_OF_POSTERS = 2
OPEN = "SELECT count(*) FROM ledger.holds WHERE remaining > 0"
COUNT = "SELECT count(*) FROM ledger.transactions WHERE status = 1 AND kind = {kind:d}"


class Payers(Depositors):
    """Clients that transfer 1 from each part to the next one, each until it is answered."""

    def __init__(self, base: str, accounts: list[int], clients: int) -> None:
        self._accounts = accounts
        super().__init__(base, accounts[0], clients)

    def request(self, number: int) -> tuple[str, dict[str, Any]]:
        a, b = (self._accounts[(number + step) % PARTS] for step in (0, 1))
        amount = {"amount": "1", "idempotency_key": f"key {number}"}
        return "/transfer/", {"from_account_id": a, "to_account_id": b, **amount}

    def check(self, body: dict[str, Any], answer: dict[str, Any]) -> None:
        changes = [(one["account_id"], one["amount"]) for one in answer["entries"]]
        assert answer["transaction_type"] == "CROSSING"
        assert changes == [(body["from_account_id"], "-1.00"), (body["to_account_id"], "1.00")]


def funded(service: RunningService) -> list[int]:
    """An account with FUNDS in each part of a ledger whose parts are on all databases."""
    assert service.post("/ledgers/", {"name": "market", "shards": PARTS}).status_code == 201
    accounts = []
    for part in range(PARTS):
        body = {"owner": "Alice", "currency": "USD", "part": part}
        accounts.append(service.post("/ledgers/market/accounts/", body).json()["id"])
        body = {"account_id": accounts[-1], "amount": str(FUNDS), "idempotency_key": "d"}
        assert service.post("/ledgers/market/deposit/", body).status_code == 200
    return accounts


@pytest.mark.long
def test_transfers_between_parts_while_the_poster_is_killed(
    world: World, no_violations: Callable[[Database], None]
) -> None:
    """None is lost or doubled, and what the killed process has left open ends."""

    def total(statement: str) -> int:
        return sum(world.rows(name, statement)[0][0] for name in world.databases)

    quick = {"LEDGER_SWEEP_INTERVAL_S": "1"}
    with serving(options=ACCEPTORS, **world.environment(**quick)) as service, ExitStack() as stack:
        accounts = funded(service)
        payers = Payers(f"{service.base}/ledgers/market", accounts, 6)
        stack.callback(payers.stop)
        for _ in range(KILLS_OF_POSTERS):
            payers.go_on()
            poster, acceptors = processes(service)
            poster.kill()
        payers.go_on()
        acceptors[0].kill()
        payers.go_on()
        posted = payers.stop()
        assert wait_for(lambda: service.get("/health/ready").status_code == 200, 60)
        assert wait_for(lambda: total(OPEN) == 0, 30)
        kinds = (Kind.CROSSING, Kind.CROSS_CREDIT, Kind.CROSS_DEBIT)
        assert [total(COUNT.format(kind=kind)) for kind in kinds] == [posted] * 3
        rows = [service.get(f"/ledgers/market/accounts/{one}").json() for one in accounts]
        left = [FUNDS + _gained(part, posted) for part in range(PARTS)]
        assert [(one["balance"], one["held"]) for one in rows] == [
            (f"{amount}.00", "0.00") for amount in left
        ]
        assert service.stop() == 0
    for database in world.databases.values():
        no_violations(database)
    done = world.command("verify")
    assert done.returncode == 0, done.stdout + done.stderr


def _gained(part: int, posted: int) -> int:
    """What the transfers with the numbers below `posted` leave an account with."""
    paid = sum(number % PARTS == part for number in range(posted))
    return sum((number + 1) % PARTS == part for number in range(posted)) - paid
