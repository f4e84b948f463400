"""What the directory says of a move. Its row decides where the ledger is, at every step."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import NamedTuple

from sqlalchemy import Connection, text

from ledgerservice.errors import MoveFault
from ledgerservice.postgres.schema import DEFAULT_LEDGER
from ledgerservice.postgres.sharding.identity import MAIN

SUPERSEDED = "Another process goes on with this move."

_FIND = text("""
SELECT l.ledger_id, coalesce(h.shard, 'main') AS shard, coalesce(h.generation, 0) AS generation,
       coalesce(h.state, 'home') AS state, h.target, l.shards IS NOT NULL AS has_parts
FROM ledger.ledgers l LEFT JOIN ledger.homes h USING (ledger_id) WHERE l.name = :name
""")
_SHARDS = text("SELECT name FROM ledger.shards")
_ELSEWHERE = text("""
SELECT l.name FROM ledger.ledgers l LEFT JOIN ledger.homes h USING (ledger_id)
WHERE l.ledger_id = ANY (:ledgers)
  AND :shard NOT IN (coalesce(h.shard, 'main'), coalesce(h.target, '')) ORDER BY l.name
""")
_TRY_LOCK = text("SELECT pg_try_advisory_lock(2020085, :ledger)")
_UNLOCK = text("SELECT pg_advisory_unlock(2020085, :ledger)")
_ADD = text("""
INSERT INTO ledger.homes (ledger_id, shard) VALUES (:ledger, 'main') ON CONFLICT DO NOTHING
""")
_BEGIN = text("""
UPDATE ledger.homes SET generation = generation + 1, state = :state, target = :target
WHERE ledger_id = :ledger AND generation = :generation RETURNING generation
""")
_CHANGE_HOME = text("""
UPDATE ledger.homes SET shard = target, state = 'home', target = NULL
WHERE ledger_id = :ledger AND generation = :generation AND state = 'moving'
""")
_ABORT = text("""
UPDATE ledger.homes SET state = 'home', target = NULL, generation = generation + 1
WHERE ledger_id = :ledger AND generation = :generation RETURNING generation
""")


class Home(NamedTuple):
    """Where a ledger is, and where it is going to (None: nowhere)."""

    ledger: int
    shard: str
    generation: int
    state: str
    target: str | None
    has_parts: bool = False


def find_home(directory: Connection, name: str) -> Home:
    """The home of a ledger. Raises MoveFault if there is no such ledger."""
    with directory.begin():
        row = directory.execute(_FIND, {"name": name}).one_or_none()
    if row is None:
        raise MoveFault(f"There is no ledger {name}.")
    return Home(*row)


def names_elsewhere(directory: Connection, ledgers: Sequence[int], shard: str) -> list[str]:
    """Those of `ledgers` that are not on a shard, nor on their way to it."""
    return list(directory.scalars(_ELSEWHERE, {"ledgers": list(ledgers), "shard": shard}))


@contextmanager
def only_mover(directory: Connection, ledger: int) -> Iterator[None]:
    """Be the only process that moves a ledger, as long as the connection lives.

    If it is lost and another process goes on, the generation keeps this one from the shards.
    """
    with directory.begin():
        if not directory.scalar(_TRY_LOCK, {"ledger": ledger}):
            raise MoveFault("Another process is moving it.")
    try:
        yield
    finally:
        if not directory.invalidated:
            with directory.begin():
                directory.execute(_UNLOCK, {"ledger": ledger})


def begin(directory: Connection, home: Home, target: str) -> Home:
    """The directory says that the ledger moves to `target`, by a generation of this run's own.

    A ledger that is there already gets a generation too, for the steps that may be left to do.
    """
    if home.ledger == DEFAULT_LEDGER:
        raise MoveFault("The ledger default stays on main: requests without a ledger are its.")
    if home.has_parts:
        raise MoveFault("It has parts, which can be moved one by one, by their names: LEDGER.0")
    if home.target not in {None, target}:
        raise MoveFault(
            f"It is on its way to {home.target}. Move it there, or take the move back with --abort."
        )
    with directory.begin():
        if target not in {MAIN, *directory.scalars(_SHARDS)}:
            raise MoveFault(f"There is no shard {target}.")
        is_moving = home.shard != target
        directory.execute(_ADD, {"ledger": home.ledger})
        values = {"ledger": home.ledger, "generation": home.generation}
        to = (
            {"state": "moving", "target": target}
            if is_moving
            else {"state": "home", "target": None}
        )
        generation = directory.scalar(_BEGIN, values | to)
        if generation is None:
            raise MoveFault(SUPERSEDED)
    return home._replace(generation=generation, target=target if is_moving else None)


def change_home(directory: Connection, move: Home) -> None:
    """The commit point: the ledger is at its target. Raises MoveFault if another run goes on."""
    with directory.begin():
        values = {"ledger": move.ledger, "generation": move.generation}
        if directory.execute(_CHANGE_HOME, values).rowcount != 1:
            raise MoveFault(SUPERSEDED)


def abort(directory: Connection, home: Home) -> Home:
    """The ledger stays where it is. Whoever was moving it is refused by the shards from now on."""
    with directory.begin():
        values = {"ledger": home.ledger, "generation": home.generation}
        generation = directory.scalar(_ABORT, values)
    if generation is None:
        raise MoveFault("It has never been moved, or another process goes on with its move.")
    return home._replace(generation=generation, state="home", target=None)
