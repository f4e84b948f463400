"""Adding a shard, as the owner of both databases. Each step can be done again."""

from datetime import datetime
from typing import NamedTuple

from sqlalchemy import Connection, text

from ledgerservice.errors import ShardFault
from ledgerservice.postgres.migrations import VERSION_TABLE
from ledgerservice.postgres.sharding.chunks import SEQUENCES
from ledgerservice.postgres.sharding.identity import MAIN, Identity, identity_of


class ShardView(NamedTuple):
    """A shard of the directory, and the number of its ledgers."""

    name: str
    added_at: datetime
    ledgers: int


def begin(directory: Connection) -> Identity:
    """Let the database of DATABASE_URL be the shard main, and return what it says it is.

    Raises ShardFault.
    """
    present = identity_of(directory)
    if present is None:
        directory.execute(_IDENTIFY_MAIN)
        present = identity_of(directory)
    assert present is not None
    if present.shard != MAIN:
        raise ShardFault(f"DATABASE_URL is the shard {present.shard}, not {MAIN}.")
    directory.execute(_ADD_MAIN)
    return present


def bound(directory: Connection, sequence: str) -> None:
    """Let a sequence of main end with the chunk in which it stands. It is locked meanwhile."""
    directory.execute(text(_FIRST_CHUNK.format(sequence)))
    directory.execute(_TAKE, {"sequence": sequence, "shard": MAIN})


def check_unused(shard: Connection, name: str) -> None:
    """Raise ShardFault if a database that is no shard yet has a ledger of somebody's."""
    is_ledger = shard.scalar(VERSION_TABLE) is not None
    if is_ledger and identity_of(shard) is None and shard.scalar(_IS_USED):
        raise ShardFault(f"The database of {name} has ledgers of its own: a shard begins empty.")


def identify(shard: Connection, expected: Identity) -> None:
    """Let a database be a shard. Raises ShardFault if it is another one, or has been used."""
    check_unused(shard, expected.shard)
    present = identity_of(shard)
    if present is None:
        values = {"directory": expected.directory, "shard": expected.shard}
        shard.execute(_IDENTIFY, values)
    elif present != expected:
        of = "" if present.directory == expected.directory else " of another service"
        raise ShardFault(
            f"The database of {expected.shard} is the shard {present.shard} already{of}."
        )


def enter(directory: Connection, name: str) -> bool:
    """Add a shard that is identified, with chunks of its own; False if it was there."""
    if directory.execute(_ADD, {"name": name}).rowcount == 0:
        return False
    for sequence in SEQUENCES:
        directory.execute(_LEASE, {"name": name, "sequence": sequence})
    return True


def list_shards(directory: Connection) -> list[ShardView]:
    """The shards, in the order in which they were added; none if there is one database only."""
    return [ShardView(*row) for row in directory.execute(_LIST)]


# The default ledger, and nothing that anybody has done with it.
_IS_USED = text(
    "SELECT EXISTS (SELECT FROM ledger.ledgers WHERE ledger_id <> 1)"
    " OR EXISTS (SELECT FROM ledger.accounts WHERE id > 0)"
)
_IDENTIFY_MAIN = text(
    f"INSERT INTO ledger.identity (directory, shard) VALUES (gen_random_uuid(), '{MAIN}')"
)
_IDENTIFY = text(
    "INSERT INTO ledger.identity (directory, shard) VALUES (CAST(:directory AS uuid), :shard)"
)
_ADD_MAIN = text(
    f"INSERT INTO ledger.shards (name, number) VALUES ('{MAIN}', 0) ON CONFLICT DO NOTHING"
)
_FIRST_CHUNK = f"""
INSERT INTO ledger.chunks (sequence, number, shard)
SELECT '{{0}}', last_value >> 36, '{MAIN}' FROM ledger.{{0}}
WHERE NOT EXISTS (SELECT FROM ledger.chunks WHERE sequence = '{{0}}')
"""
_TAKE = text("""
SELECT ledger.take_chunk(:sequence, max(number)) FROM ledger.chunks
WHERE sequence = :sequence AND shard = :shard
""")
_ADD = text("""
INSERT INTO ledger.shards (name, number)
SELECT :name, max(number) + 1 FROM ledger.shards ON CONFLICT (name) DO NOTHING
""")
_LEASE = text("SELECT ledger.lease_chunk(:name, :sequence)")
_LIST = text("""
SELECT s.name, s.added_at, CASE s.number
       WHEN 0 THEN (SELECT count(*) FROM ledger.ledgers)
                   - (SELECT count(*) FROM ledger.homes WHERE shard <> s.name)
       ELSE (SELECT count(*) FROM ledger.homes h WHERE h.shard = s.name) END
FROM ledger.shards s ORDER BY s.number
""")
