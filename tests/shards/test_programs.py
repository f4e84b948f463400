"""The other doors: the command line, Python, currencies, files, backups and events of shards."""

import asyncio
import json
from pathlib import Path

import pytest

from ledgerservice.domain.accounts import Opened
from ledgerservice.domain.transactions import Recorded
from ledgerservice.ledger import Ledger
from tests.databases import empty_database, url_text
from tests.processes import RunningService, wait_for
from tests.shards.world import CHUNK_IDS, World, add_ledger


def test_currencies_have_one_number_everywhere(world: World, service: RunningService) -> None:
    add_ledger(service, "units", "b")
    add_ledger(service, "others", "c")
    gold = {"code": "GOLD", "exponent": 3, "name": "Grams of gold"}
    hours = {"code": "HOURS", "exponent": 1, "name": "Hours"}
    assert service.post("/currencies/", gold).status_code == 201
    assert service.post("/ledgers/units/currencies/", hours).status_code == 201
    number = "SELECT number FROM ledger.currencies WHERE code = 'GOLD'"
    assert world.rows("main", number) == world.rows("b", number) == world.rows("c", number)
    for ledger, code, status in (
        *(("units", "GOLD", 201), ("others", "GOLD", 201)),
        *(("units", "HOURS", 201), ("others", "HOURS", 422)),
    ):
        body = {"owner": "Alice", "currency": code}
        assert service.post(f"/ledgers/{ledger}/accounts/", body).status_code == status
    assert service.get("/ledgers/units/currencies/HOURS").json()["own"] is True
    assert service.get("/ledgers/others/currencies/HOURS").status_code == 404


ADD_MILES = """
INSERT INTO ledger.currencies (code, exponent, name) VALUES ('MILES', 0, 'Miles')
"""


def test_a_currency_that_a_shard_lacks_is_added_when_it_is_used(
    world: World, service: RunningService
) -> None:
    """As when the shard was away while it was added."""
    add_ledger(service, "late", "c")
    assert service.get("/ledgers/late/accounts/").status_code == 200
    with world.connected("main") as owner:
        owner.execute(ADD_MILES)
    body = {"owner": "Alice", "currency": "MILES"}
    assert service.post("/ledgers/late/accounts/", body).status_code == 201


@pytest.mark.thorough
def test_python_and_the_command_line_use_the_shard(
    world: World, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    for name, value in world.environment().items():
        monkeypatch.setenv(name, value)

    async def run() -> int:
        async with Ledger.open() as default:
            shop = await default.add_ledger("python")
            account = await shop.open_account("Alice", "USD", key="a")
            assert isinstance(account, Opened)
            outcome = await shop.deposit(account.account_id, "7.50", key="d")
            assert isinstance(outcome, Recorded)
            again = await default.ledger("python")
            assert again is not None
            view = await again.account(account.account_id)
            assert view is not None
            assert view.balance == 750
            assert await default.accounts() == ([], None)
            return account.account_id

    account = asyncio.run(run())
    assert account >= CHUNK_IDS
    [shown] = world.run("balance", str(account), "--ledger", "python")
    assert shown["balance"] == "7.50"
    file = tmp_path / "entries.csv"
    [exported] = world.run("export", str(file), "--ledger", "python")
    assert exported["entries"] == 2
    table = tmp_path / "movements.csv"
    table.write_text(f"type,account_id,amount,idempotency_key\nDEPOSIT,{account},1.00,imported\n")
    world.run("import", str(table), "--ledger", "python")
    [shown] = world.run("balance", str(account), "--ledger", "python")
    assert shown["balance"] == "8.50"


def test_verify_and_migrate_go_over_all_shards(world: World, tmp_path: Path) -> None:
    assert [one["shard"] for one in world.run("migrate")] == ["main", "b", "c"]
    assert world.run("verify")[-1]["holds"] is True
    world.run("verify", "--progress", str(tmp_path / "progress"))
    assert {one.name for one in tmp_path.iterdir()} == {"progress", "progress.b", "progress.c"}
    with world.connected("c") as owner:
        owner.execute("ALTER TABLE ledger.entries DISABLE TRIGGER entries_immutable")
        found = world.command("verify", "--json")
        owner.execute("ALTER TABLE ledger.entries ENABLE ALWAYS TRIGGER entries_immutable")
    assert found.returncode == 1
    first, *_, last = map(json.loads, found.stdout.splitlines())
    assert (first["shard"], last["violations"]) == ("c", 1)


def test_a_backup_of_every_shard(world: World, tmp_path: Path) -> None:
    """A shard's backup is restored with its identity and its ids."""
    file = tmp_path / "backup"
    written = [Path(one["file"]).name for one in world.run("backup", str(file))]
    assert written == ["backup.b", "backup.c", "backup"]
    assert world.command("backup", "-").returncode == 1
    other = empty_database(world.main, "restored")
    named = f"b={url_text(other)}"
    world.run("restore", f"{file}.b", "--shard", "b", LEDGER_SHARDS=named)
    restored = World({"main": world.main, "b": other})
    identity = "SELECT * FROM ledger.identity"
    assert restored.rows("b", identity) == world.rows("b", identity)
    with restored.serving() as service:
        add_ledger(service, "restored", "b")
        body = {"owner": "Alice", "currency": "USD"}
        assert service.post("/ledgers/restored/accounts/", body).json()["id"] >= CHUNK_IDS
    [state] = [one["state"] for one in restored.run("shards", "list") if one["name"] == "c"]
    assert state == "not in LEDGER_SHARDS"


def test_events_and_webhooks_are_the_shard_s(world: World, service: RunningService) -> None:
    add_ledger(service, "seen", "b")
    body = {"owner": "Alice", "currency": "USD"}
    account = service.post("/ledgers/seen/accounts/", body).json()["id"]
    service.send("/ledgers/seen/deposit/", account_id=account, amount="1.00")

    def types() -> list[str]:
        events = service.get("/ledgers/seen/events").json()["events"]
        return [event["type"] for event in events]

    assert wait_for(lambda: "transaction.posted" in types(), 10)
    assert "account.opened" in types()
