"""`shards move --abort`: a move is taken back, if need be while its target is down."""

import logging
from collections.abc import Mapping
from typing import NamedTuple

from sqlalchemy import Connection
from sqlalchemy.exc import DBAPIError

from ledgerservice.errors import LedgerError, MoveFault
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.moving import homes
from ledgerservice.postgres.moving.fences import (
    ARRIVING,
    HOME,
    LEFT,
    REMOVING,
    load,
    set_fence,
    state_of,
)
from ledgerservice.postgres.moving.homes import Home
from ledgerservice.postgres.moving.mover import Report, connected, schema_of
from ledgerservice.postgres.moving.rows import Rows
from ledgerservice.postgres.moving.statements import FIND_LEDGER, FORGET_ARRIVAL, KEEP_STAY, LAST_ID
from ledgerservice.postgres.sharding.identity import MAIN

log = logging.getLogger(__name__)


class Abandoned(NamedTuple):
    """What an abort has left: the ledger's home, and the shards that could not be used.

    One of those may have a copy, which takes part in nothing.
    """

    ledger: int
    shard: str
    generation: int
    not_seen: tuple[str, ...]


def abort(shards: Mapping[str, Database], name: str, report: Report) -> Abandoned:
    """Take a move back that has not reached its target, and remove what was copied.

    Only main and the ledger's shard must be up. A copy that was not removed is removed by the same
    call later, or by the next move to its shard. Raises MoveFault if the ledger is at its target
    already.
    """
    with connected(shards, MAIN) as directory:
        home = homes.find_home(directory, name)
        with homes.only_mover(directory, home.ledger), connected(shards, home.shard) as source:
            if state_of(source, home.ledger) in {ARRIVING, REMOVING}:
                raise MoveFault(f"It is on {home.shard} already. Move it there to end the move.")
            target, home = home.target, homes.abort(directory, home)
            report("Opening", 0, 1)
            # Also without a fence: the generation refuses one of a process that was stopped.
            set_fence(source, home.ledger, home.generation, HOME)
            report("Opening", 1, 1)
            others = [shard for shard in shards if shard != home.shard]
            not_seen = [
                shard
                for shard in others
                if not _try_to_forget(shards, shard, home, report, is_target=shard == target)
            ]
    return Abandoned(home.ledger, home.shard, home.generation, tuple(not_seen))


def _try_to_forget(
    shards: Mapping[str, Database], name: str, home: Home, report: Report, *, is_target: bool
) -> bool:
    """Remove what a move has brought to a shard; False if the shard cannot be used."""
    try:
        with connected(shards, name) as shard:
            if _is_begun(shard, home.ledger, is_target=is_target):
                report("Removing the copy", 0, 1)
                _forget(shard, home, schema_of(shards, name))
    except (DBAPIError, LedgerError) as error:
        log.warning("the shard %s was left as it is: %s", name, " ".join(str(error).split()))
        return False
    return True


def _forget(shard: Connection, home: Home, schema: str) -> None:
    """Remove the copy of a ledger that does not arrive, and refuse it."""
    set_fence(shard, home.ledger, home.generation, REMOVING)
    with shard.begin():
        load(shard, home.ledger, home.generation, REMOVING)
        Rows(home.ledger, {}, ("", schema)).remove(shard)
        for after_id, epoch in shard.execute(FORGET_ARRIVAL, {"ledger": home.ledger}).all():
            values = {"ledger": home.ledger, "after": after_id, "epoch": epoch}
            shard.execute(KEEP_STAY, values)
    set_fence(shard, home.ledger, home.generation, LEFT)


def _is_begun(shard: Connection, ledger: int, *, is_target: bool) -> bool:
    """Whether a shard that is not the home has rows that a move has brought."""
    state = state_of(shard, ledger)
    if not is_target:
        return state in {ARRIVING, REMOVING}
    with shard.begin():
        values = {"ledger": ledger}
        is_there = shard.execute(FIND_LEDGER, values).one_or_none() is not None
        is_empty = is_there and state == HOME and not shard.scalar(LAST_ID, values)
    return is_empty or state in {ARRIVING, REMOVING}
