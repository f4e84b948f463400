"""The epochs of the change feed: whether the journal is still the one that readers know.

After a restore, or after a standby was promoted that lacked the last commits, transaction ids are
handed out again, and a position means something else. So each position has the number of its epoch.
"""

import hashlib
from typing import NamedTuple

from ledgerservice.domain.events import Event, event_of
from ledgerservice.postgres.changes import ledger_names, list_changes, spans_of
from ledgerservice.postgres.pipeline import Request, Wire, number

# Where the journal is. A restored database has another table; a copy of one, another database; a
# server that was promoted or recovered, another timeline.
PLACE = """
SELECT (SELECT system_identifier FROM pg_control_system()) AS system_identifier,
       ('x' || left(pg_walfile_name(pg_current_wal_lsn()), 8))::bit(32)::bigint AS timeline,
       (SELECT oid::bigint FROM pg_database WHERE datname = current_database()) AS database_id,
       'ledger.transactions'::regclass::oid::bigint AS journal_id
"""
FIND_EPOCH = """
SELECT epoch, system_identifier, timeline, database_id, journal_id, compare_from
FROM ledger.epochs ORDER BY epoch DESC, begun_at DESC LIMIT 1
"""
# The readers of an epoch that has ended compare from the last row that was recorded ten minutes
# before the last of all: longer than a transaction of the service can be open. What was committed
# before it, and lost, would have been open for as long.
_INSERT = """
INSERT INTO ledger.epochs
    (epoch, system_identifier, timeline, database_id, journal_id, compare_from)
"""
_COMPARE_FROM = """coalesce((
    SELECT max(old.id) FROM ledger.ledgers l
    CROSS JOIN LATERAL (
        SELECT recorded_at FROM ledger.transactions
        WHERE ledger_id = l.ledger_id ORDER BY ledger_id DESC, id DESC LIMIT 1) last
    CROSS JOIN LATERAL (
        SELECT id FROM ledger.transactions
        WHERE ledger_id = l.ledger_id AND recorded_at < last.recorded_at - interval '10 minutes'
        ORDER BY ledger_id DESC, id DESC LIMIT 1) old), 0)"""
ADD_EPOCH = f"""{_INSERT}
SELECT $1::integer, $2::bigint, $3::bigint, $4::bigint, $5::bigint, {_COMPARE_FROM}
ON CONFLICT DO NOTHING
"""
# What was lost can have begun epochs that are not known here. So the number is the seconds since
# 2026, which no epoch had before.
RECOVER_EPOCH = f"""{_INSERT}
SELECT greatest(
           extract(epoch FROM clock_timestamp() - timestamptz '2026-01-01')::integer,
           (SELECT coalesce(max(epoch), 0) + 1 FROM ledger.epochs)),
       system_identifier, timeline, database_id, journal_id, {_COMPARE_FROM}
FROM ({PLACE}) place
"""
LOCK_EPOCHS = "SELECT pg_advisory_xact_lock(2020069)"
BEGIN, COMMIT = "BEGIN", "COMMIT"


class _Place(NamedTuple):
    system_identifier: int
    timeline: int
    database_id: int
    journal_id: int


class Epoch(NamedTuple):
    """An epoch, and the id from which readers of the one before compare what they have."""

    number: int
    compare_from: int


class Witness(NamedTuple):
    """An event that was passed: its epoch, its id, and the SHA-256 of its body."""

    epoch: int
    id: int
    digest: bytes


def witness_of(epoch: int, event: Event) -> Witness:
    """The witness that an event was there."""
    return Witness(epoch, event.id, hashlib.sha256(event.body).digest())


async def current_epoch(wire: Wire, witness: Witness | None = None) -> Epoch:
    """The epoch of the journal as it is found now; a new one if it may have lost something.

    It has lost nothing if it is where it was, or if only its timeline is another one, as after a
    promotion, and the `witness` is there: the last event that the caller has passed. Without a
    witness a promotion counts as a loss; and a witness that is missing is a loss in any place.
    """
    known, place = await _look(wire)
    if known is None or known.place != place or await _is_missing(wire, witness):
        known = await _move(wire, witness)
    return known.epoch


async def recovered_epoch(wire: Wire) -> Epoch:
    """Begin an epoch after a recovery to an earlier time, whatever is there."""
    await wire.exchange(Request(BEGIN), Request(LOCK_EPOCHS), Request(RECOVER_EPOCH))
    begun, _ = await _look(wire)
    await wire.exchange(Request(COMMIT))
    assert begun is not None
    return begun.epoch


async def confirmed_epoch(wire: Wire, witness: Witness | None) -> int | None:
    """The number of the epoch if the journal is where it was and has the `witness`; else None.

    Writes nothing: whether a new epoch begins, `current_epoch` decides.
    """
    known, place = await _look(wire)
    if known is None or known.place != place or await _is_missing(wire, witness):
        return None
    return known.epoch.number


class _Known(NamedTuple):
    epoch: Epoch
    place: _Place


async def _move(wire: Wire, witness: Witness | None) -> _Known:
    """Add a row for the place of the journal, unless another process has done so meanwhile."""
    await wire.exchange(Request(BEGIN), Request(LOCK_EPOCHS))
    known, place = await _look(wire)
    lost = await _is_missing(wire, witness)
    if known is None or known.place != place or _is_of(known, witness, lost):
        epoch = _next(known, place, proven=witness is not None and not lost)
        await wire.exchange(Request(ADD_EPOCH, [number(value) for value in (epoch, *place)]))
        known, _ = await _look(wire)
    await wire.exchange(Request(COMMIT))
    assert known is not None
    return known


def _is_of(known: _Known, witness: Witness | None, lost: bool) -> bool:
    return lost and witness is not None and witness.epoch == known.epoch.number


def _next(known: _Known | None, place: _Place, *, proven: bool) -> int:
    if known is None:
        return 1
    before = known.place
    is_promotion = place.timeline > before.timeline and before == place._replace(
        timeline=before.timeline
    )
    return known.epoch.number + (0 if is_promotion and proven else 1)


async def _look(wire: Wire) -> tuple[_Known | None, _Place]:
    newest, place = await wire.exchange(Request(FIND_EPOCH), Request(PLACE))
    known = [_Known(Epoch(row[0], row[5]), _Place(*row[1:5])) for row in newest.rows]
    return (known[0] if known else None), _Place(*place.rows[0])


async def _is_missing(wire: Wire, witness: Witness | None) -> bool:
    if witness is None:
        return False
    names = await ledger_names(wire)
    changes = await list_changes(wire, spans_of(names, witness.id - 1, witness.id), 1)
    events = [
        event_of(witness.epoch, one.ledger_id, names[one.ledger_id], one.change) for one in changes
    ]
    return [witness_of(witness.epoch, event) for event in events] != [witness]
