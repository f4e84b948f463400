"""A standby that still follows a primary which was replaced, and is not gone."""

import asyncio
from datetime import timedelta
from typing import Any

import pytest

from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.journal import WRITE_BARRIER
from ledgerservice.postgres.pipeline import Request
from ledgerservice.posting.standby import Primary, Standby, look_at
from tests.databases import quick_place, reachable_folder
from tests.processes import RunningService, serving, wait_for
from tests.proof.servers.cluster import PostgreSQL
from tests.replicas import ledger_on, primary_and_standby, standby_of

pytestmark = pytest.mark.processes

LIMIT_S = 60.0
READS = 20


def read(service: RunningService, account: int) -> dict[str, Any]:
    answer = service.client.get(f"/accounts/{account}", params={"consistency": "standby"})
    assert answer.status_code == 200, answer.text
    body: dict[str, Any] = answer.json()
    return body


def service_on(primary: PostgreSQL, standby: PostgreSQL) -> Any:
    urls = {"DATABASE_URL": primary.url, "LEDGER_STANDBY_URL": standby.url}
    return serving(**urls, LEDGER_STANDBY_LAG_S="2")


@pytest.mark.thorough
def test_a_standby_of_a_former_primary_is_not_read() -> None:
    """It replays what that one commits, so it seems to be new, and lacks all that counts."""
    with (
        reachable_folder(quick_place()) as folder,
        primary_and_standby(folder, synchronous=False) as (former, standby),
    ):
        with service_on(former, standby) as service:
            account = service.open(balance="1")
            assert wait_for(lambda: read(service, account)["consistency"] == "standby", LIMIT_S)
        with standby_of(former, folder / "promoted") as primary:
            primary.ask("SELECT pg_promote()")
            assert wait_for(lambda: primary.ask("SELECT pg_is_in_recovery()") == [(False,)])
            with service_on(primary, standby) as service:
                service.send("/deposit", account_id=account, amount="1")
                for _ in range(READS):
                    former.ask("SELECT pg_logical_emit_message(true, 'beat', '')")
                    body = read(service, account)
                    assert (body["consistency"], body["version"]) == ("strong", 2)
            with (
                standby_of(primary, folder / "later") as later,
                service_on(primary, later) as service,
            ):
                assert wait_for(lambda: read(service, account)["consistency"] == "standby", LIMIT_S)
                assert read(service, account)["version"] == 2


def test_nothing_is_newer_than_the_primary_was_seen() -> None:
    """It may have been replaced since."""

    async def look(database: Database, of_standby: Database, account: int) -> list[Any]:
        wire = await database.connect_writer()
        primary = await look_at(wire)
        await wire.exchange(Request(WRITE_BARRIER))
        await wire.close()
        found: list[Any] = []
        for lag_s, seen in ((60.0, primary), (60.0, _earlier(primary)), (5.0, _earlier(primary))):
            standby = Standby(of_standby.connect_standby, lag_s)
            standby.primary = seen
            found.append(await standby.find(1, account))
            await standby.close()
        standby = Standby(of_standby.connect_standby, 60.0)
        found += [await standby.find(1, account), primary]
        await standby.close()
        return found

    with (
        reachable_folder(quick_place()) as folder,
        primary_and_standby(folder, synchronous=False) as (server, standby),
    ):
        with service_on(server, standby) as service:
            account = service.open(balance="1")
            assert wait_for(lambda: read(service, account)["consistency"] == "standby", LIMIT_S)
        works = look(ledger_on(server), ledger_on(standby), account)
        new, old, too_old, unknown, primary = asyncio.run(works)
    assert new.as_of <= primary.at
    assert old.as_of == _earlier(primary).at
    assert old.age_ms >= 10_000
    assert too_old is unknown is None


def _earlier(primary: Primary) -> Primary:
    return primary._replace(at=primary.at - timedelta(hours=1), known_s=primary.known_s - 10)
