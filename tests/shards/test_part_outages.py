"""A ledger with parts while shards are away, processes are killed, and parts move."""

import json
import os
import random
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from ledgerservice.embedded.server import EmbeddedServer
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.urls import parse_url
from tests.databases import empty_database, quick_place, reachable_folder, settings_for_tests
from tests.processes import RunningService, wait_for
from tests.shards.world import World

pytestmark = pytest.mark.processes

ON = "/ledgers/market"
ROOT = Path(__file__).resolve().parent.parent.parent
OPEN = """SELECT count(*) FROM ledger.holds WHERE remaining > 0
AND ledger_id NOT IN (SELECT ledger_id FROM ledger.fences WHERE state <> 'home')"""
FUNDS = 100_000
QUICK = {"LEDGER_REQUEST_DEADLINE_S": "2", "LEDGER_SWEEP_INTERVAL_S": "4"}


@pytest.fixture
def folder() -> Iterator[Path]:
    with reachable_folder(quick_place()) as folder:
        yield folder / "data"


@pytest.fixture
def apart(new_database: Callable[..., Database], folder: Path) -> World:
    """Main, and b on a server of its own, which does not run."""
    with EmbeddedServer(folder) as server:
        b = Database(parse_url(server.url), settings_for_tests())
        world = World({"main": new_database(), "b": b})
        world.run("shards", "add", "b")
    return world


@pytest.fixture
def world(new_database: Callable[..., Database]) -> World:
    main = new_database()
    world = World({"main": main, "b": new_database(), "c": empty_database(main, "c")})
    for name in ("b", "c"):
        world.run("shards", "add", name)
    return world


def make_market(service: RunningService, parts: int) -> list[int]:
    """An account with FUNDS in each part."""
    added = service.post("/ledgers/", {"name": "market", "shards": parts})
    assert added.status_code == 201, added.text
    return [open_in(service, part) for part in range(parts)]


def open_in(service: RunningService, part: int) -> int:
    opened = service.post(f"{ON}/accounts/", {"owner": "o", "currency": "USD", "part": part})
    number: int = opened.json()["id"]
    body = {"account_id": number, "amount": str(FUNDS), "idempotency_key": "d"}
    assert service.post(f"{ON}/deposit/", body).status_code == 200
    return number


def shards_of(service: RunningService) -> Any:
    return service.get("/health/ready").json()["shards"]


def transfer(service: RunningService, one: int, other: int, key: str) -> tuple[int, str]:
    accounts = {"from_account_id": one, "to_account_id": other}
    body = {**accounts, "amount": "1", "idempotency_key": key}
    answer = service.post(f"{ON}/transfer/", body)
    return answer.status_code, answer.json().get("code", "")


def test_a_part_that_is_away(apart: World, folder: Path) -> None:
    """What touches it gets 503. What was open when it went is resolved when it is back."""
    with apart.serving(**QUICK) as service:
        with EmbeddedServer(folder):
            assert wait_for(lambda: shards_of(service) == {"b": "up"}, 30)
            accounts = make_market(service, 4)
            # The parts 0 and 2 are on b, 1 and 3 on main.
            [far, near, far_too, near_too] = accounts
            assert transfer(service, near, far, "1") == (200, "")
            assert transfer(service, near, near_too, "near 1") == (200, "")
            # A process that dies after the hold.
            worker = start(apart, [near, far], "dying", folder.parent / "answers", 1)
            assert worker.wait(60) == -9
        assert apart.rows("main", OPEN) != [(0,)]
        assert wait_for(lambda: transfer(service, near, far, "2")[0] == 503, 30)
        assert transfer(service, far, near, "2") == (503, "shard_unavailable")
        assert service.get(f"{ON}/accounts/{far_too}").status_code == 503
        assert transfer(service, near, near_too, "near 2") == (200, "")
        assert service.get(f"{ON}/accounts/{near}").status_code == 200
        with EmbeddedServer(folder):
            assert wait_for(lambda: transfer(service, near, far, "2") == (200, ""), 30)
            for shard in apart.databases:
                assert wait_for(partial(has_none_open, apart, shard), 15)
            done = apart.command("verify")
            assert done.returncode == 0, done.stdout + done.stderr


def start(world: World, accounts: list[int], name: str, file: Path, step: int = 0) -> Any:
    command = [sys.executable, "-m", "tests.crossing.worker", "environment"]
    arguments = [json.dumps(accounts), name, str(file), str(step)]
    env = {**os.environ, **world.environment()}
    return subprocess.Popen([*command, *arguments], cwd=ROOT, env=env)


def lines_of(file: Path) -> int:
    return file.read_bytes().count(b"\n")


def has_none_open(world: World, shard: str) -> bool:
    return world.rows(shard, OPEN) == [(0,)]


def is_over(world: World, accounts: list[int], file: Path) -> int:
    """Nothing is open, verify finds both halves of everything, and the answers were true."""
    for shard in world.databases:
        assert wait_for(partial(has_none_open, world, shard), 30)
    done = world.command("verify")
    assert done.returncode == 0, done.stdout + done.stderr
    outcomes = {}
    for line in file.read_text().splitlines():
        posted, account, _, amount, key, number = json.loads(line)
        outcomes[number] = (account, key, amount if posted else 0)
    recorded: dict[int, tuple[Any, ...]] = {}
    for shard in world.databases:
        recorded |= {
            row[0]: row[1:]
            for row in world.rows(
                shard,
                "SELECT t.id, t.account_id, t.idempotency_key, coalesce(h.captured, 0)"
                " FROM ledger.transactions t LEFT JOIN ledger.holds h"
                " ON h.ledger_id = t.ledger_id AND h.transaction_id = t.id"
                " WHERE t.kind = 12 AND t.ledger_id NOT IN"
                " (SELECT ledger_id FROM ledger.fences WHERE state <> 'home')",
            )
        }
    assert {number: recorded.get(number) for number in outcomes} == outcomes
    return len(outcomes)


def total(service: RunningService, accounts: list[int]) -> float:
    return sum(float(service.get(f"{ON}/accounts/{n}").json()["balance"]) for n in accounts)


@pytest.mark.thorough
def test_kills_while_parts_move(world: World, tmp_path: Path) -> None:
    """Processes are killed, and each part moves from shard to shard, under load."""
    file = tmp_path / "answers"
    file.touch()
    with world.serving() as service:
        accounts = make_market(service, 3)
        workers = [start(world, accounts, f"w{n}", file) for n in range(2)]
        moves: list[str] = []

        def move() -> None:
            for name, shard in (("market.0", "main"), ("market.1", "b"), ("market.0", "c")):
                done = world.command("shards", "move", name, shard)
                moves.append(done.stderr if done.returncode else "")

        mover = threading.Thread(target=move)
        mover.start()
        kills = 0
        while kills < 14 or mover.is_alive():
            before = lines_of(file)
            wait_for(lambda: lines_of(file) > before, 30)  # noqa: B023
            time.sleep(random.uniform(0.05, 0.4))
            victim = kills % 2
            workers[victim].kill()
            assert workers[victim].wait(10) == -9
            kills += 1
            workers[victim] = start(world, accounts, f"w{victim}.{kills}", file)
        mover.join()
        assert moves == [""] * 3
        before = lines_of(file)
        assert wait_for(lambda: lines_of(file) > before, 30)
        for worker in workers:
            worker.kill()
            worker.wait(10)
        assert is_over(world, accounts, file) > 14
        assert total(service, accounts) == FUNDS * 3
        refused = world.command("shards", "move", "market", "b")
        assert refused.returncode != 0
        assert "has parts" in refused.stderr


@pytest.mark.thorough
@pytest.mark.parametrize("step", [1, 2, 3])
def test_a_process_dies_after_a_step(world: World, tmp_path: Path, step: int) -> None:
    file = tmp_path / "answers"
    file.touch()
    with world.serving() as service:
        accounts = make_market(service, 3)
        worker = start(world, accounts, "dying", file, step)
        assert worker.wait(60) == -9
        assert is_over(world, accounts, file) >= 0
        assert total(service, accounts) == FUNDS * 3
