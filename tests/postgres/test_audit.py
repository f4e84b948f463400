"""The audit log is one chain, whoever adds to it, and whatever a superuser does to it shows."""

import asyncio
import hashlib
import json
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ledgerservice.domain.audit import AuditRecord, ChainedRecord
from ledgerservice.postgres.access.audit import BUDGET_ROWS, AuditFilter, add_records, list_records
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.reader import Reader
from tests.databases import ROLE, connect
from tests.postgres.breaking import violations

EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


def record(event: str, **fields: Any) -> AuditRecord:
    values = {"source": "192.0.2.1", "action": "change_policy", "status": 200, **fields}
    return AuditRecord(event=event, **values)


def add(database: Database, *batches: list[AuditRecord]) -> None:
    """Add batches, each on a connection of its own, at the same time."""

    async def add_batch(batch: list[AuditRecord]) -> None:
        wire = await database.connect_writer()
        await add_records(wire, batch)
        await wire.close()

    async def add_all() -> None:
        await asyncio.gather(*map(add_batch, batches))

    asyncio.run(add_all())


def listed(database: Database, rows: int = 100, **filters: Any) -> list[list[ChainedRecord]]:
    """All pages of the records that match."""

    async def pages() -> list[list[ChainedRecord]]:
        engine = database.read_engine()
        reader, found, after = Reader(engine, 1, 30), [], None
        chosen = AuditFilter(**{"everywhere": True, **filters})
        while True:
            records, after = await list_records(reader, chosen, rows, after)
            found.append(records)
            if after is None:
                break
        await engine.dispose()
        return found

    return asyncio.run(pages())


def flat(pages: list[list[ChainedRecord]]) -> list[ChainedRecord]:
    return [record for page in pages for record in page]


def test_writers_that_add_at_once_make_one_chain(database):
    batches = [[record(f"{n}-{i}") for i in range(7)] for n in range(12)]
    add(database, *batches)
    records = flat(listed(database))[::-1]
    assert [one.id for one in records] == list(range(1, 85))
    assert {one.event for one in records} == {one.event for batch in batches for one in batch}
    assert violations(database) == []


def test_what_is_added_again_is_there_once(database):
    add(database, [record("a"), record("b")])
    add(database, [record("b", status=500), record("c"), record("c")])
    records = flat(listed(database))[::-1]
    assert [(one.id, one.event, one.status) for one in records] == [
        (1, "a", 200), (2, "b", 200), (3, "c", 200)
    ]  # fmt: skip
    assert violations(database) == []


def digest_of(before: bytes, one: ChainedRecord) -> bytes:
    """As docs/security.md describes it."""
    micros = (one.recorded_at - EPOCH) // timedelta(microseconds=1)
    seconds = f"{micros // 1_000_000}.{micros % 1_000_000:06}"
    texts = [
        json.dumps(value, ensure_ascii=False)
        for value in (one.event, one.principal_id, one.key_id, one.source, one.request_id,
                      one.action, one.ledger_id, one.subject, one.status, one.code, one.repeats,
                      one.detail)
    ]  # fmt: skip
    content = f"[{', '.join([str(one.id), seconds, *texts])}]"
    return hashlib.sha256(before + content.encode()).digest()


def test_anyone_can_compute_the_chain(database):
    strange = 'q"\\ / \u2028 \x7f € 😀 \t\n'
    add(database, [record("a", key_id="k", request_id="r", ledger_id=1, subject=strange)])
    add(database, [record("b", code="forbidden", repeats=7, detail='{"a": [1, "\u00e9"]}')])
    before = b""
    for one in flat(listed(database))[::-1]:
        assert one.digest == digest_of(before, one)
        before = one.digest


@pytest.fixture(scope="module")
def logged_once(new_database: Callable[..., Database]) -> Database:
    database = new_database()
    add(database, [record(f"{n}", principal_id=n % 3, ledger_id=n % 2 + 1) for n in range(50)])
    return database


@pytest.fixture
def logged(new_database: Callable[..., Database], logged_once: Database) -> Database:
    return new_database(logged_once)


ROOM = (
    "UPDATE ledger.audit SET id = -id - 1 WHERE id >= 20",
    "UPDATE ledger.audit SET id = -id WHERE id < 0",
)
NEW = (
    "INSERT INTO ledger.audit SELECT 20, recorded_at, 'new', 0, NULL, 's', NULL, 'a', NULL, NULL,"
    " 200, NULL, 1, NULL, digest FROM ledger.audit WHERE id = 19"
)
CLOSED_UP = "UPDATE ledger.audit SET id = id - 1 WHERE id > 20"

# What a superuser does, and the record at which the chain breaks.
BROKEN = {
    "a status": (20, "UPDATE ledger.audit SET status = 403 WHERE id = 20"),
    "a time": (20, "UPDATE ledger.audit SET recorded_at = recorded_at + '1 us' WHERE id = 20"),
    "the first one gone": (2, "DELETE FROM ledger.audit WHERE id = 1"),
    "one gone": (21, "DELETE FROM ledger.audit WHERE id = 20"),
    "one gone, no gap": (20, "DELETE FROM ledger.audit WHERE id = 20", CLOSED_UP),
    "one put between": (20, *ROOM, NEW),
    "a digest": (50, "UPDATE ledger.audit SET digest = sha256(digest) WHERE id = 50"),
}


@pytest.mark.parametrize("case", BROKEN.values(), ids=BROKEN.keys())
def test_verify_finds_the_first_record_that_does_not_continue(logged, case):
    expected, *statements = case
    found = violations(logged, *statements)
    assert found, statements
    assert found[0].startswith(f"invariant 5: audit record {expected}: ")


def test_the_service_writes_neither_number_nor_time_nor_digest(logged_once):
    with connect(logged_once, role=ROLE) as service:
        for column, value in {"id": "9", "recorded_at": "now()", "digest": "''"}.items():
            with pytest.raises(Exception, match="permission denied"):
                service.execute(
                    f"INSERT INTO ledger.audit (event, source, action, status, {column})"
                    f" VALUES ('x', 's', 'a', 200, {value})"
                )


@given(
    rows=st.integers(1, 60),
    principal=st.none() | st.integers(0, 4),
    status=st.none() | st.sampled_from([200, 403]),
    everywhere=st.booleans(),
)
@settings(max_examples=30, deadline=None)
def test_pages_together_are_what_the_filters_say(logged_once, rows, principal, status, everywhere):
    filters = {"principal_id": principal, "status": status, "everywhere": everywhere}
    found = flat(listed(logged_once, rows, **filters))
    expected = [
        str(n)
        for n in reversed(range(50))
        if principal in {None, n % 3} and status in {None, 200} and (everywhere or n % 2 == 0)
    ]
    assert [one.event for one in found] == expected


def test_a_period_is_listed(logged_once):
    everything = flat(listed(logged_once))
    since, until = everything[30].recorded_at, everything[10].recorded_at
    expected = [one for one in everything if since <= one.recorded_at < until]
    assert flat(listed(logged_once, since=since, until=until)) == expected


def test_a_page_reads_a_bounded_number_of_records(new_database):
    database = new_database()
    with connect(database) as owner:
        owner.execute(
            "INSERT INTO ledger.audit (event, source, action, status)"
            " SELECT n, 's', 'a', 200 FROM generate_series(1, %s) n",
            [BUDGET_ROWS + 10],
        )
    pages = listed(database, action="b")
    assert [len(page) for page in pages] == [0, 0]
