"""`serve --acceptors` on several databases: one process posts for the ledgers of all shards."""

import signal
from collections.abc import Callable
from contextlib import ExitStack

import pytest

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
