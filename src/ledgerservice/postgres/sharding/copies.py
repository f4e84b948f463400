"""What a shard has of the directory: its ledgers with their ids, and currencies with their numbers.

The directory gets a row first. Whoever finds it missing on a shard adds it there.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

from sqlalchemy import text

from ledgerservice.postgres.journal import BEGIN, WRITE_BARRIER, commit
from ledgerservice.postgres.locking import TAKE_XID
from ledgerservice.postgres.pipeline import Request, Wire, array, optional_array, text_array
from ledgerservice.postgres.reader import Reader

COPY_LEDGERS = """
INSERT INTO ledger.ledgers (ledger_id, name, principal_id, shards, parent_id, part)
SELECT * FROM unnest($1::integer[], $2::text[], $3::integer[], $4::smallint[], $5::integer[],
                     $6::smallint[])
ON CONFLICT (ledger_id) DO NOTHING
"""
# A unit of one ledger comes after the ledger, and not while the ledger moves: then whoever finds it
# missing at the ledger's home adds it, and the others come nevertheless. What is there is looked up
# first: every new row opens an external account in each ledger.
COPY_CURRENCIES = """
INSERT INTO ledger.currencies (number, code, exponent, name, principal_id, ledger_id)
SELECT * FROM unnest($1::smallint[], $2::text[], $3::smallint[], $4::text[], $5::integer[],
                     $6::integer[])
    AS copied (number, code, exponent, name, principal_id, ledger_id)
WHERE NOT EXISTS (SELECT FROM ledger.currencies c WHERE c.number = copied.number)
  AND (ledger_id IS NULL
       OR EXISTS (SELECT FROM ledger.ledgers l WHERE l.ledger_id = copied.ledger_id)
          AND NOT EXISTS (SELECT FROM ledger.fences f WHERE f.ledger_id = copied.ledger_id
                          AND f.state IN ('arriving', 'removing', 'leaving')))
ON CONFLICT DO NOTHING
"""


class LedgerCopy(NamedTuple):
    """A ledger of the directory, as its shard has it."""

    id: int
    name: str
    principal_id: int
    shards: int | None
    parent_id: int | None
    part: int | None


class CurrencyCopy(NamedTuple):
    """A currency or a unit of the directory, as shards have it."""

    number: int
    code: str
    exponent: int
    name: str
    principal_id: int
    ledger_id: int | None


# A part comes after its ledger, which its shard has too.
FIND_LEDGER = text("""
SELECT l.ledger_id AS id, l.name, l.principal_id, l.shards, l.parent_id, l.part,
       coalesce(h.shard, 'main') AS shard
FROM ledger.ledgers l LEFT JOIN ledger.homes h USING (ledger_id)
WHERE l.ledger_id IN (
    :ledger, (SELECT parent_id FROM ledger.ledgers WHERE ledger_id = :ledger))
ORDER BY l.ledger_id = :ledger
""")
# Those of ISO 4217 are in every database from the beginning.
LIST_CURRENCIES = text("""
SELECT c.number, c.code, c.exponent, c.name, c.principal_id, c.ledger_id
FROM ledger.currencies c LEFT JOIN ledger.homes h USING (ledger_id)
WHERE c.number >= 1000 AND (c.ledger_id IS NULL OR h.shard = :shard) ORDER BY c.number
""")


async def find_ledger(reader: Reader) -> tuple[list[LedgerCopy], str] | None:
    """The ledger of a reader of the directory, of a part its ledger too, and its shard; None if
    there is none.
    """
    rows: list[Any] = await reader.rows(FIND_LEDGER)
    return ([LedgerCopy(*row[:-1]) for row in rows], rows[-1].shard) if rows else None


async def list_currencies(reader: Reader, shard: str) -> list[CurrencyCopy]:
    """The currencies that a shard must have, from a reader of the directory."""
    return [CurrencyCopy._make(row) for row in await reader.rows(LIST_CURRENCIES, shard=shard)]


async def add_copies(wire: Wire, batch: list[Sequence[LedgerCopy | CurrencyCopy]]) -> list[None]:
    """Add what the shard does not have yet."""
    copies = {copy for part in batch for copy in part}
    ledgers = sorted(one for one in copies if isinstance(one, LedgerCopy))
    currencies = [one for one in copies if isinstance(one, CurrencyCopy)]
    await commit(
        wire,
        Request(BEGIN),
        Request(TAKE_XID),
        _ledgers(ledgers),
        _currencies(sorted(currencies, key=lambda one: one.number)),
        Request(WRITE_BARRIER),
    )
    return [None] * len(batch)


def _ledgers(copies: Sequence[LedgerCopy]) -> Request:
    values = [
        array(one.id for one in copies),
        text_array(one.name for one in copies),
        array(one.principal_id for one in copies),
        optional_array(one.shards for one in copies),
        optional_array(one.parent_id for one in copies),
        optional_array(one.part for one in copies),
    ]
    return Request(COPY_LEDGERS, values)


def _currencies(copies: Sequence[CurrencyCopy]) -> Request:
    values = [
        array(one.number for one in copies),
        text_array(one.code for one in copies),
        array(one.exponent for one in copies),
        text_array(one.name for one in copies),
        array(one.principal_id for one in copies),
        optional_array(one.ledger_id for one in copies),
    ]
    return Request(COPY_CURRENCIES, values)
