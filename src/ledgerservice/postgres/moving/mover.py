"""`shards move`: the steps, each of which can be done again, and one home at each of them.

1. The directory says where the ledger goes.
2. The target refuses it, and what an earlier stay has left there is removed.
3. What never changes is copied while the ledger goes on.
4. The source refuses it.
5. The rest is copied.
6. The target is verified, and its sequences go beyond all ids.
7. Publishers and webhooks pass the end.
8. The directory says that the ledger is at its target.
9. When no process can still use an older directory, the target takes it.
"""

import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain, islice
from typing import NamedTuple

from psycopg import sql
from sqlalchemy import Connection

from ledgerservice.errors import MoveFault
from ledgerservice.postgres import migrations
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.contents import StoredTable, driver, stored_tables
from ledgerservice.postgres.moving import homes
from ledgerservice.postgres.moving.copying import copy
from ledgerservice.postgres.moving.fences import (
    ARRIVING,
    HOME,
    LEAVING,
    LEFT,
    REMOVING,
    load,
    locking,
    set_fence,
    state_of,
)
from ledgerservice.postgres.moving.homes import Home, change_home
from ledgerservice.postgres.moving.rows import AT_THE_END, Part, Place, Rows
from ledgerservice.postgres.moving.safety import safe_id
from ledgerservice.postgres.moving.statements import (
    ADD_ARRIVAL,
    ANALYZED,
    END_ARRIVAL,
    FIND_LEDGER,
    FIND_PLACE,
    LAST_ID,
    LAST_TRANSACTION,
    LAST_VALUES,
    LATE_WEBHOOKS,
    LEASE,
    LIST_UNITS,
    NEXT_END,
    OPEN_EXTERNALS,
    SEQUENCES,
    SNAPSHOT,
    TAKE,
    USED,
    adding,
)
from ledgerservice.postgres.sharding.identity import MAIN
from ledgerservice.postgres.verification import (
    Violation,
    verify_guards,
    verify_ledger,
    verify_since,
)

CHUNK_TRANSACTIONS = 20_000
OLD_DIRECTORY_S = 5.0
"""A process does not use a directory that it read longer ago."""
PUBLISHERS_S = 60.0
WEBHOOKS_S = 5.0
PAUSE_S = 0.05
SHOWN_VIOLATIONS = 20

Report = Callable[[str, int, int], None]
"""Shows progress: the step, the amount done, and the amount of all."""
Late = Callable[[str, int], list[str]]
"""The names of the publishers of a shard that have not passed an id."""


class Moved(NamedTuple):
    """What was done: the rows that were copied, and how long the ledger took no requests."""

    ledger: int
    shard: str
    generation: int
    rows: int
    paused_s: float


def _refuse(place: str, violations: Iterator[Violation]) -> None:
    """Raise MoveFault if there are violations."""
    shown = [str(violation) for violation in islice(violations, SHOWN_VIOLATIONS)]
    if shown:
        raise MoveFault(
            f"The {place} violates invariants. Take the move back with --abort, and verify the "
            f"source. The first: {shown[0]}",
            violations=shown,
        )


def schema_of(shards: Mapping[str, Database], name: str) -> str:
    """The name of the schema of a shard."""
    return shards[name].settings.schema_name


def nobody(_shard: str, _last_id: int) -> list[str]:
    """There are no publishers."""
    return []


def move(
    shards: Mapping[str, Database], name: str, target: str, report: Report, late: Late = nobody
) -> Moved:
    """Move a ledger to a shard; or go on with it, after any end of an earlier run.

    `shards` has the database of each shard, main's too. Raises MoveFault; the same call goes on.
    """
    with connected(shards, MAIN) as directory:
        home = homes.find_home(directory, name)
        with homes.only_mover(directory, home.ledger):
            report("Beginning", 0, 1)
            with connected(shards, home.shard) as source:
                _settle_earlier(directory, source, home, target, report)
                is_new = home.state == HOME
                home = homes.begin(directory, homes.find_home(directory, name), target)
                if home.target is None:
                    settle(source, home, report)
                    return Moved(home.ledger, target, home.generation, 0, 0.0)
                with connected(shards, target) as arrival:
                    schemas = schema_of(shards, home.shard), schema_of(shards, target)
                    connections = directory, source, arrival
                    return _Move(connections, home, schemas, report).run(late, is_new=is_new)


def _settle_earlier(
    directory: Connection, source: Connection, home: Home, target: str, report: Report
) -> None:
    """End an earlier move to where the ledger is now, before another one begins."""
    if home.state == HOME and home.shard != target and state_of(source, home.ledger) == ARRIVING:
        settle(source, homes.begin(directory, home, home.shard), report)


def settle(shard: Connection, home: Home, report: Report) -> None:
    """9: the ledger is here by the directory; take it when no process can use an older one."""
    if state_of(shard, home.ledger) != ARRIVING:
        return
    end_s = time.monotonic() + OLD_DIRECTORY_S
    while (left_s := end_s - time.monotonic()) > 0:
        report("Waiting for all processes", round(OLD_DIRECTORY_S - left_s), round(OLD_DIRECTORY_S))
        time.sleep(min(left_s, PAUSE_S))
    values = {"ledger": home.ledger}
    report("Opening", 0, 1)
    set_fence(
        shard,
        home.ledger,
        home.generation,
        HOME,
        lambda: shard.execute(END_ARRIVAL, {**values, "last": shard.scalar(LAST_ID, values)}),
    )
    report("Opening", 1, 1)


@contextmanager
def connected(shards: Mapping[str, Database], name: str) -> Iterator[Connection]:
    """A connection to a shard as the owner of its schema. Raises MoveFault."""
    if name not in shards:
        raise MoveFault(f"LEDGER_SHARDS does not name {name}.")
    with shards[name].owner_engine().connect() as connection:
        with connection.begin():
            present = migrations.known_revision(connection)
        if present != migrations.HEAD:
            raise MoveFault(f"The schema of {name} is at revision {present}. Migrate it first.")
        yield connection


class _Move:
    """A run of a move between two databases."""

    def __init__(
        self,
        connections: tuple[Connection, Connection, Connection],
        move: Home,
        schemas: tuple[str, str],
        report: Report,
    ) -> None:
        """`connections`: to directory, source and target; `schemas`: of the last two."""
        self._directory, self._source, self._target = connections
        self._move = move
        self._ledger = {"ledger": move.ledger}
        self._schema = schemas[1]
        self._report = report
        self._copied_rows = 0
        self._verified_id = 0
        self._rows = Rows(move.ledger, self._tables(), schemas)

    def _tables(self) -> dict[str, StoredTable]:
        with self._source.begin(), self._target.begin():
            return stored_tables(self._source)

    def run(self, late: Late, *, is_new: bool) -> Moved:
        """The steps from 2 on. `is_new`: what is on its way to the target is of an earlier move."""
        self._arrive(is_new=is_new)
        if state_of(self._source, self._move.ledger) not in {LEAVING, LEFT}:
            safe = safe_id(self._source)
            self._copy_transactions(safe)
            self._analyze()
            self._verify_source(safe)
            self._wait_for_publishers(late)
        paused_s = time.monotonic()
        self._leave()
        self._copy_transactions(self._last_transaction(self._source))
        self._copy_rest()
        self._lease()
        self._verify()
        self._wait_for_publishers(late)
        self._copy_webhooks()
        self._step("Changing the home", lambda: change_home(self._directory, self._move))
        settle(self._target, self._move, self._report)
        paused_s = time.monotonic() - paused_s
        move = self._move
        return Moved(
            move.ledger, str(move.target), move.generation, self._copied_rows, round(paused_s, 3)
        )

    def _step(self, name: str, work: Callable[[], object]) -> None:
        self._report(name, 0, 1)
        work()
        self._report(name, 1, 1)

    def _fence(
        self, shard: Connection, state: str, also: Callable[[], object] = lambda: None
    ) -> None:
        set_fence(shard, self._move.ledger, self._move.generation, state, also)

    # 2

    def _arrive(self, *, is_new: bool) -> None:
        """The target refuses the ledger, and has nothing of an earlier stay."""
        with self._source.begin(), self._target.begin():
            self._add_ledger(self._move.ledger)
        state = state_of(self._target, self._move.ledger)
        if is_new or state != ARRIVING:
            self._step("Fencing the target", lambda: self._begin_arrival(state))
            self._step("Removing what was there", self._remove)
        self._step("Expecting the ledger", lambda: self._fence(self._target, ARRIVING))

    def _add_ledger(self, ledger: int) -> None:
        row = dict(self._source.execute(FIND_LEDGER, {"ledger": ledger}).mappings().one())
        if (parent := row.get("parent_id")) is not None:
            self._add_ledger(parent)
        self._target.execute(adding("ledgers", row), row)

    def _begin_arrival(self, state: str) -> None:
        last_id, epoch = self._last_id(self._target), self._place(self._source).epoch
        if state == HOME and last_id:
            raise MoveFault("The target has transactions or accounts of it that are no old copy.")
        values = {**self._ledger, "after": last_id, "epoch": epoch}
        self._fence(self._target, REMOVING, lambda: self._target.execute(ADD_ARRIVAL, values))

    def _remove(self) -> None:
        with self._target.begin():
            load(self._target, self._move.ledger, self._move.generation, REMOVING)
            self._rows.remove(self._target)

    # 3 and 5

    def _copy_transactions(self, until: int) -> None:
        """Copy up to an id what never changes. What is there already was proven."""
        first = after = self._last_transaction(self._target)
        while after < until:
            self._report("Copying", after - first, until - first)
            end = self._next_end(after, until)
            with self._source.begin(), self._target.begin():
                self._load(self._rows.of_transactions(after, end))
            after = end
        self._report("Copying", 1, 1)

    def _next_end(self, after: int, until: int) -> int:
        values = {**self._ledger, "after": after, "until": until, "rows": CHUNK_TRANSACTIONS - 1}
        with self._source.begin():
            return int(self._source.scalar(NEXT_END, values) or until)

    def _load(self, parts: Iterable[Part]) -> None:
        load(self._target, self._move.ledger, self._move.generation)
        for part in parts:
            self._copied_rows += copy(self._source, self._target, self._schema, part)

    def _analyze(self) -> None:
        """For the plans of `verify`, and of the first requests."""
        for table in ANALYZED:
            with self._target.begin():
                name = sql.Identifier(self._schema, table)
                driver(self._target).execute(sql.SQL("ANALYZE {}").format(name))

    # 4

    def _leave(self) -> None:
        """The source refuses the ledger. When this returns, nothing is recorded in it any more."""
        state = state_of(self._source, self._move.ledger)
        state = LEFT if state == LEFT else LEAVING
        self._step("Fencing the source", lambda: self._fence(self._source, state))

    def _copy_rest(self) -> None:
        """Copy what changes, all of it again if that was done before."""
        self._report("Copying the accounts", 0, 1)
        with self._source.begin(), self._target.begin():
            load(self._target, self._move.ledger, self._move.generation)
            for unit in self._source.execute(LIST_UNITS, self._ledger).mappings():
                self._target.execute(adding("currencies", dict(unit)), dict(unit))
            self._rows.remove_some(self._target, *AT_THE_END)
            self._load(self._rows.at_the_end())
            self._target.execute(OPEN_EXTERNALS, self._ledger)
        self._report("Copying the accounts", 1, 1)

    # 6

    def _lease(self) -> None:
        """The ids that the target gives out are above all ids of the ledger."""
        with self._target.begin():
            used = self._target.execute(USED, self._ledger).one()
            last_values = self._target.execute(LAST_VALUES).one()
        for sequence, last_id, last_value in zip(SEQUENCES, used, last_values, strict=True):
            if last_id >= last_value:
                self._lease_one(sequence)

    def _lease_one(self, sequence: str) -> None:
        values = {"shard": self._move.target, "sequence": sequence}
        with self._directory.begin():
            chunk = self._directory.scalar(LEASE, values)

        def take(_: int) -> None:  # the function has a limit of its own
            with self._target.begin():
                self._target.execute(TAKE, {"sequence": sequence, "chunk": chunk})

        locking(take)

    def _verify(self) -> None:
        """Verify the copy. What this run has verified at the source is the same here, and is not
        verified again while the ledger takes no requests.
        """
        ledger, after = self._move.ledger, self._verified_id
        self._report("Verifying the copy", 0, 1)
        with self._target.begin():
            violations = verify_guards(self._target, self._schema)
            if after:
                violations = chain(violations, verify_since(self._target, ledger, after))
            else:
                violations = chain(violations, verify_ledger(self._target, ledger, self._verifying))
            _refuse("copy", violations)
        self._report("Verifying the copy", 1, 1)

    def _verify_source(self, safe: int) -> None:
        """Verify the source in one snapshot, which has all transactions up to a safe id."""
        with self._source.begin():
            self._source.execute(SNAPSHOT)
            _refuse("source", verify_ledger(self._source, self._move.ledger, self._verifying))
        self._verified_id = safe

    def _verifying(self, done: int, of: int) -> None:
        self._report("Verifying", done, of)

    # 7

    def _wait_for_publishers(self, late: Late) -> None:
        """Wait until the publishers of the source have passed what is recorded now."""
        last_id, end_s = self._last_id(self._source), time.monotonic() + PUBLISHERS_S
        self._report("Waiting for publishers", 0, 1)
        while names := late(self._move.shard, last_id):
            if time.monotonic() > end_s:
                raise MoveFault(
                    f"Publishers of the source have not passed {last_id} in {PUBLISHERS_S:.0f} s: "
                    f"{', '.join(names)}. Run the command again, or take it back with --abort."
                )
            time.sleep(PAUSE_S)

    def _copy_webhooks(self) -> None:
        """The source delivers no more, and the target goes on from where it was.

        An endpoint that does not take its events has them tried by the target.
        """
        self._report("Waiting for webhooks", 0, 1)
        last_id, end_s = self._last_id(self._source), time.monotonic() + WEBHOOKS_S
        while self._has_late_webhooks(last_id) and time.monotonic() < end_s:
            time.sleep(PAUSE_S)
        self._step("Fencing the webhooks", lambda: self._fence(self._source, LEFT))
        places = self._place(self._source), self._place(self._target)
        self._report("Copying the webhooks", 0, 1)
        with self._source.begin(), self._target.begin():
            load(self._target, self._move.ledger, self._move.generation)
            self._rows.remove_some(self._target, "webhooks")
            self._load(self._rows.of_webhooks(*places))
        self._report("Copying the webhooks", 1, 1)

    def _has_late_webhooks(self, last_id: int) -> bool:
        with self._source.begin():
            return bool(self._source.scalar(LATE_WEBHOOKS, {**self._ledger, "last": last_id}))

    def _place(self, shard: Connection) -> Place:
        with shard.begin():
            row = shard.execute(FIND_PLACE).one_or_none()
        return Place(1, 0) if row is None else Place(row.epoch, row.compare_from)

    def _last_id(self, shard: Connection) -> int:
        with shard.begin():
            return int(shard.scalar(LAST_ID, self._ledger) or 0)

    def _last_transaction(self, shard: Connection) -> int:
        with shard.begin():
            return int(shard.scalar(LAST_TRANSACTION, self._ledger) or 0)
