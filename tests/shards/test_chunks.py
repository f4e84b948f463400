"""Chunks of ids and homes of ledgers: what the service may do to them, and what nobody may."""

import psycopg
import pytest

from tests.databases import ROLE, connect

FIRST = 1 << 36
LEASED = """
INSERT INTO ledger.shards (name, number) VALUES ('main', 0), ('b', 1);
INSERT INTO ledger.chunks (sequence, number, shard) VALUES ('account_id', 0, 'main')
"""


@pytest.fixture
def service(database):
    """A session of the service on a directory with two shards."""
    with connect(database) as owner, connect(database, role=ROLE) as service:
        owner.execute(LEASED)
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


def test_a_sequence_ends_with_its_chunk_and_goes_on_in_the_next(service):
    service.execute("SELECT ledger.take_chunk('account_id', 0)")
    following = "SELECT nextval('ledger.account_id')"
    assert number(service, following) == 1
    service.execute("SELECT ledger.take_chunk('account_id', 0)")
    assert number(service, following) == 2
    service.execute("SELECT ledger.take_chunk('account_id', 3)")
    assert number(service, following) == 3 * FIRST
    with pytest.raises(psycopg.errors.CheckViolation, match="beyond chunk 2"):
        service.execute("SELECT ledger.take_chunk('account_id', 2)")
    assert number(service, following) == 3 * FIRST + 1


def test_a_block_of_transaction_ids_is_within_its_chunk(database, service):
    service.execute("SELECT ledger.take_chunk('transaction_id', 1)")
    with connect(database) as owner:
        owner.execute(f"SELECT setval('ledger.transaction_id', {2 * FIRST - 250})")
    assert number(service, "SELECT nextval('ledger.transaction_id')") + 99 < 2 * FIRST
    with pytest.raises(psycopg.errors.SequenceGeneratorLimitExceeded):
        service.execute("SELECT nextval('ledger.transaction_id')")


@pytest.mark.parametrize(
    ("sequence", "chunk"), [("ledger_id", 1), ("account_id", -1), ("account_id", 1 << 17)]
)
def test_no_other_sequence_and_no_id_beyond_53_bits(service, sequence, chunk):
    with pytest.raises(psycopg.errors.CheckViolation, match="no chunk"):
        service.execute("SELECT ledger.take_chunk(%s, %s)", [sequence, chunk])


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
