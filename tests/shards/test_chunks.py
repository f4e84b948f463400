"""Chunks of ids and homes of ledgers: what the service may do to them, and what nobody may."""

import asyncio

import psycopg
import pytest

from ledgerservice.errors import ShardFault
from ledgerservice.postgres.pipeline import Request
from ledgerservice.postgres.sharding import chunks
from tests.databases import ROLE, connect

FIRST = 1 << 36
LEASED = """
INSERT INTO ledger.shards (name, number) VALUES ('main', 0), ('b', 1);
INSERT INTO ledger.chunks (sequence, number, shard) VALUES ('account_id', 0, 'main')
"""
IDENTIFY = "INSERT INTO ledger.identity (directory, shard) VALUES (gen_random_uuid(), %s)"


@pytest.fixture
def service(database):
    """A session of the service on a directory with two shards."""
    with connect(database) as owner, connect(database, role=ROLE) as service:
        owner.execute(LEASED)
        owner.execute(IDENTIFY, ["main"])
        yield service


@pytest.fixture
def shard(database):
    """A session of the service on the shard b."""
    with connect(database) as owner, connect(database, role=ROLE) as service:
        owner.execute(IDENTIFY, ["b"])
        yield service


def number(service, statement):
    [(value,)] = service.execute(statement).fetchall()
    return value


def test_a_lease_is_above_all_others_of_its_sequence(service):
    lease = "SELECT ledger.lease_chunk('{}', 'account_id')"
    assert [number(service, lease.format(shard)) for shard in ("b", "main", "b")] == [1, 2, 3]
    with pytest.raises(psycopg.errors.CheckViolation, match="no chunks of transaction_id"):
        service.execute("SELECT ledger.lease_chunk('b', 'transaction_id')")
    with pytest.raises(psycopg.errors.ForeignKeyViolation):
        service.execute(lease.format("c"))


def test_the_service_cannot_waste_chunks(database, service):
    """It gets three a day for each shard and sequence; the owner gets more, such as for moves."""
    lease = "SELECT ledger.lease_chunk('b', 'account_id')"
    assert [number(service, lease) for _ in range(3)] == [1, 2, 3]
    with pytest.raises(psycopg.errors.CheckViolation, match="three chunks"):
        service.execute(lease)
    assert number(service, "SELECT ledger.lease_chunk('main', 'account_id')") == 4
    with connect(database) as owner:
        assert number(owner, lease) == 5


def test_only_the_directory_leases(shard):
    with pytest.raises(psycopg.errors.CheckViolation, match="not the directory"):
        shard.execute("SELECT ledger.lease_chunk('b', 'account_id')")


def test_main_takes_its_own_chunks_only(service):
    """The service cannot give out ids of another shard."""
    assert number(service, "SELECT ledger.lease_chunk('b', 'account_id')") == 1
    for other in (1, 2):  # of b, and of nobody
        with pytest.raises(psycopg.errors.CheckViolation, match="not leased to main"):
            service.execute("SELECT ledger.take_chunk('account_id', %s)", [other])
    service.execute("SELECT ledger.take_chunk('account_id', 0)")


def test_a_database_that_is_no_shard_takes_none(database):
    with (
        connect(database, role=ROLE) as service,
        pytest.raises(psycopg.errors.CheckViolation, match="no shard"),
    ):
        service.execute("SELECT ledger.take_chunk('account_id', 1)")


def test_a_chunk_waits_for_an_open_transaction_a_short_time(database, shard):
    """Others wait behind it."""
    with connect(database) as writer, writer.transaction():
        writer.execute("SELECT nextval('ledger.account_id')")
        with pytest.raises(psycopg.errors.LockNotAvailable):
            shard.execute("SELECT ledger.take_chunk('account_id', 1)")
    shard.execute("SELECT ledger.take_chunk('account_id', 1)")


def test_two_processes_lease_one_chunk(database, service):
    """The second looks again, or gives up if the first one stands still."""
    del service

    async def run():
        wires = [await database.connect_writer() for _ in range(3)]
        try:
            with connect(database) as owner:
                for name in chunks.SEQUENCES[2:]:
                    owner.execute("INSERT INTO ledger.chunks VALUES (%s, 0, 'main')", [name])
                owner.execute("INSERT INTO ledger.chunks VALUES ('transaction_id', 0, 'main')")
            await wires[0].exchange(Request(chunks.LOCK, [b"main"]))
            with pytest.raises(ShardFault, match="Another process"):
                await chunks.keep(wires[1], wires[2], "main")
            await wires[0].close()
            assert len(await chunks.keep(wires[1], wires[2], "main")) == 4
            assert await chunks.keep(wires[1], wires[2], "main") == []
        finally:
            for wire in wires[1:]:
                await wire.close()

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(chunks, "GIVE_UP_S", 0.3)
        asyncio.run(run())


def test_a_sequence_ends_with_its_chunk_and_goes_on_in_the_next(shard):
    shard.execute("SELECT ledger.take_chunk('account_id', 0)")
    following = "SELECT nextval('ledger.account_id')"
    assert number(shard, following) == 1
    shard.execute("SELECT ledger.take_chunk('account_id', 0)")
    assert number(shard, following) == 2
    shard.execute("SELECT ledger.take_chunk('account_id', 3)")
    assert number(shard, following) == 3 * FIRST
    with pytest.raises(psycopg.errors.CheckViolation, match="beyond chunk 2"):
        shard.execute("SELECT ledger.take_chunk('account_id', 2)")
    assert number(shard, following) == 3 * FIRST + 1


def test_a_block_of_transaction_ids_is_within_its_chunk(database, shard):
    shard.execute("SELECT ledger.take_chunk('transaction_id', 1)")
    with connect(database) as owner:
        owner.execute(f"SELECT setval('ledger.transaction_id', {2 * FIRST - 250})")
    assert number(shard, "SELECT nextval('ledger.transaction_id')") + 99 < 2 * FIRST
    with pytest.raises(psycopg.errors.SequenceGeneratorLimitExceeded):
        shard.execute("SELECT nextval('ledger.transaction_id')")


@pytest.mark.parametrize(
    ("sequence", "chunk"), [("ledger_id", 1), ("account_id", -1), ("account_id", 1 << 17)]
)
def test_no_other_sequence_and_no_id_beyond_53_bits(shard, sequence, chunk):
    with pytest.raises(psycopg.errors.CheckViolation, match="no chunk"):
        shard.execute("SELECT ledger.take_chunk(%s, %s)", [sequence, chunk])


def test_the_service_places_new_ledgers_only(database, service):
    place = "SELECT ledger.place_ledger(2, 'b')"
    with service.transaction():
        service.execute("INSERT INTO ledger.ledgers (ledger_id, name) VALUES (2, 'second')")
        service.execute(place)
    with connect(database) as owner:
        owner.execute("DELETE FROM ledger.homes")
    with pytest.raises(psycopg.errors.CheckViolation, match="not new"):
        service.execute(place)


@pytest.mark.parametrize("table", ["shards", "homes", "identity", "chunks", "fences", "arrivals"])
def test_the_service_writes_no_table_of_shards(service, table):
    for statement in (f"DELETE FROM ledger.{table}", f"INSERT INTO ledger.{table} DEFAULT VALUES"):
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            service.execute(statement)
