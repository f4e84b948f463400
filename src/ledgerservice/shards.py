"""The shards of a process: the running parts of each, and which of them has a ledger.

A shard that is down takes only its ledgers with it. Its parts are started by a task that tries
again and again; until they run, and while its database does not answer, requests for its ledgers
get ShardUnavailable.
"""

import asyncio
import itertools
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, asynccontextmanager, contextmanager, suppress
from functools import partial
from typing import NamedTuple

import msgspec
import psycopg

from ledgerservice.access.registry import Registry
from ledgerservice.domain.currencies import Currency, CurrencyRequest
from ledgerservice.domain.instructions import Group
from ledgerservice.domain.ledgers import LedgerRecord, LedgerRequest
from ledgerservice.domain.transactions import Outcomes, Rejected
from ledgerservice.errors import (
    LedgerError,
    ShardUnavailable,
    Unavailable,
    WrongDatabase,
)
from ledgerservice.postgres.access.callers import Limited, find_limited
from ledgerservice.postgres.connections import Database
from ledgerservice.postgres.pipeline import Wire
from ledgerservice.postgres.schema import DEFAULT_LEDGER
from ledgerservice.postgres.sharding import chunks, copies
from ledgerservice.postgres.sharding.databases import databases_of
from ledgerservice.postgres.sharding.directory import READ_DIRECTORY, Directory
from ledgerservice.postgres.sharding.identity import MAIN, Identity, find_identity
from ledgerservice.posting.parts.crossing import PartHome
from ledgerservice.runtime import Runtime, posting, prepared
from ledgerservice.telemetry.metrics import SHARD_UP

log = logging.getLogger(__name__)

FIRST_TRY_S = 10.0
"""How long the start waits for shards. Those that take longer come later."""
RETRY_S = 1.0
LOOK_S = 1.0
"""Interval at which each shard is asked whether it is ready."""
COPY_S = 1.0
"""How long an answer waits for shards to have a new currency too."""
LEVEL_S = 60.0
"""Interval at which chunks and currencies are looked after."""


class Place(NamedTuple):
    """The shard of a ledger, and the generation of this home."""

    shard: str | None
    generation: int

    def is_now(self, other: "Place") -> bool:
        """Whether a ledger of this place has not left it since. To come back takes two generations
        more; one is a move that has begun.
        """
        is_there = self.shard in {None, other.shard}
        return is_there and other.generation - self.generation <= 1


class Home(NamedTuple):
    """The running parts of the shard that has a ledger, and whether it has left them meanwhile."""

    runtime: Runtime
    is_left: Callable[[], bool]


class Shards:
    """Which shard has a ledger, and its running parts."""

    def __init__(self, main: Runtime) -> None:
        self.main = main
        self.directory: Directory = main.directory
        self._running: dict[str, Runtime] = {MAIN: main}
        self._down: set[str] = set()
        self._present: dict[str, set[int]] = {}
        self._copying: set[asyncio.Task[None]] = set()
        main.crossings.find_with(self._home_of_part)

    async def _home_of_part(self, ledger: int) -> PartHome:
        runtime = await self.runtime_of(ledger)
        return PartHome(
            runtime.movements.post_on_part,
            runtime.open_account,
            runtime.reads.accounts.post,
            runtime.reader.of(ledger),
        )

    async def runtime_of(self, ledger: int) -> Runtime:
        """The parts of the shard that has a ledger. Raises Unavailable or ShardUnavailable."""
        if ledger == DEFAULT_LEDGER:
            return self.main
        name = self.directory.home_of(ledger) or await self._first_home(ledger)
        runtime = self.running(name)
        if runtime is not self.main and ledger not in self._present[name]:
            await self._finish(ledger, runtime)
        return runtime

    async def find_home(self, ledger: int) -> Home:
        """The same, for answers that are not believed if the ledger has left meanwhile: what a
        former home refuses may be right at the present one.
        """
        since = self.directory.generation_of(ledger)
        runtime = await self.runtime_of(ledger)
        if ledger == DEFAULT_LEDGER:
            return Home(runtime, bool)
        return Home(runtime, lambda: not self.is_at(ledger, runtime, since))

    async def post(self, group: Group) -> Outcomes:
        """The durable outcomes of a group. Raises as `Poster.post`, and ShardUnavailable."""
        since, runtime = self.directory.generation_of(group.ledger), self.now(group.ledger)
        outcomes = await runtime.movements.post(group)
        if group.ledger != DEFAULT_LEDGER and not self.is_at(group.ledger, runtime, since):
            raise ShardUnavailable("The ledger has moved meanwhile.")
        return outcomes

    def now(self, ledger: int) -> Runtime:
        """The same of a ledger that was used before, at once."""
        if ledger == DEFAULT_LEDGER:
            return self.main
        return self.running(self.directory.home_of(ledger) or MAIN)

    def places(self, ledgers: Sequence[int]) -> list["Place"]:
        """Where ledgers are. A shard is None if it was not looked up yet."""
        directory = self.directory
        return [Place(directory.home_of(one), directory.generation_of(one)) for one in ledgers]

    def are_at(self, ledgers: Sequence[int], since: Sequence["Place"]) -> bool:
        """Whether ledgers are surely still where `places` said.

        A process that was stopped for some seconds may have read what a move has left behind; also
        one of a ledger that has come back.
        """
        now = zip(since, self.places(ledgers), strict=True)
        return self.directory.is_usable and all(place.is_now(other) for place, other in now)

    def is_at(self, ledger: int, runtime: Runtime, since: int | None = None) -> bool:
        """Whether a ledger is surely still where it was found, in the generation `since`."""
        [(shard, generation)] = self.places([ledger])
        then = Place(runtime.shard, generation if since is None else since)
        return self.directory.is_usable and then.is_now(Place(shard or MAIN, generation))

    def running(self, name: str) -> Runtime:
        """The parts of a shard, for a ledger that is on it. Raises ShardUnavailable."""
        if not self.directory.is_usable:
            raise ShardUnavailable("Which shard has the ledger was not read for some seconds.")
        runtime = self._running.get(name)
        if runtime is None or name in self._down:
            raise ShardUnavailable(f"It is the shard {name}.")
        return runtime

    def states(self) -> dict[str, bool]:
        """Of each shard of the directory but main: whether it can be used."""
        usable = self._running.keys() - self._down
        return {name: name in usable for name in self.directory.homes.shards if name != MAIN}

    def runtimes(self) -> dict[str, Runtime | None]:
        """Of each shard of the directory but main: its running parts, None while it is down."""
        return {name: self._running[name] if up else None for name, up in self.states().items()}

    def is_up(self, name: str) -> bool:
        """Whether a shard can be used."""
        return self.states().get(name, False)

    async def add_ledger(self, request: LedgerRequest) -> LedgerRecord | Rejected:
        """The durable answer to a request for a ledger: first on main, then on its shard.

        Raises as `Poster.post`, and ShardUnavailable if it is not on its shard yet: then the first
        request that uses it adds it there.
        """
        if request.shards is not None:
            request = msgspec.structs.replace(request, places=self.spread(request.shards))
        added = await self.main.ledgers.post(request)
        if isinstance(added, Rejected):
            return added
        if added.id:
            self.directory.first.setdefault(added.id, added.shard)
            await self._begin(added.id)
        return added

    async def _begin(self, ledger: int) -> None:
        parts = await (await self.runtime_of(ledger)).parts_of(ledger)
        for part in () if parts is None else parts.ids:
            await self.runtime_of(part)

    def spread(self, parts: int) -> tuple[str, ...]:
        """The shards for the parts of a new ledger, each in its turn: main at last."""
        states = self.states()
        names = [name for name, is_up in states.items() if is_up] or list(states)
        ordered = [*self.directory.by_room(set(names)), MAIN]
        return tuple(itertools.islice(itertools.cycle(ordered), parts))

    def roomiest(self) -> str:
        """The shard for a new ledger: the one with the fewest, or main if there is no other."""
        states = self.states()
        up = {name for name, is_up in states.items() if is_up}
        return self.directory.emptiest(up or set(states))

    async def add_currency(self, request: CurrencyRequest) -> Currency | Rejected:
        """The durable answer to a request for a currency: it is on main.

        The shards have COPY_S to take it. One that takes longer, or is away, gets it later: when an
        account in it is opened there, within LEVEL_S, or when it is used again.
        """
        added = await self.main.currencies.post(request)
        if not (request.dry_run or isinstance(added, Rejected)):
            home = None if added.ledger is None else self.directory.home_of(added.ledger) or MAIN
            await self._copy_to(one for one in self._up() if home in {None, one.shard})
        return added

    def _up(self) -> list[Runtime]:
        usable = self._running.keys() - self._down - {MAIN}
        return [self._running[name] for name in usable]

    async def _copy_to(self, runtimes: Iterable[Runtime]) -> None:
        tasks = [asyncio.create_task(_copied(one)) for one in runtimes]
        self._copying.update(tasks)
        for task in tasks:
            task.add_done_callback(self._copying.discard)
        if tasks:
            await asyncio.wait(tasks, timeout=COPY_S)

    async def close(self) -> None:
        """Give up the copies that shards have not taken yet."""
        for task in (copying := list(self._copying)):
            task.cancel()
        await asyncio.gather(*copying, return_exceptions=True)

    async def _first_home(self, ledger: int) -> str:
        _, name = await self._in_directory(ledger)
        self.directory.first[ledger] = name
        return name

    async def _in_directory(self, ledger: int) -> tuple[list[copies.LedgerCopy], str]:
        row = await copies.find_ledger(self.main.reader.of(ledger))
        if row is None:  # whoever knows its id has read it there
            raise Unavailable
        return row

    async def _finish(self, ledger: int, runtime: Runtime) -> None:
        """Note that a ledger is on its shard; it is added if a process has ended in between."""
        ledgers, _ = await self._in_directory(ledger)
        await runtime.copies.post(ledgers)
        await runtime.copy_currencies()
        self._present[runtime.shard].add(ledger)

    async def keep_running(self, name: str, database: Database, tried: asyncio.Event) -> None:
        """Start the parts of a shard, and start them again after a fault, until cancelled."""
        said = ""
        while True:
            try:
                identity = await self._expected(name)
                ready = await asyncio.to_thread(prepared, database, identity)
                async with posting(ready, name, self.main) as runtime:
                    await self._try_to_level(runtime)
                    self._present.setdefault(name, set())
                    self._running[name] = runtime
                    tried.set()
                    log.info("the shard %s is in use", name)
                    await self._keep_looking(runtime)
            except Exception as error:  # noqa: BLE001  (whatever it is, the shard is started again)
                said = _said_once(name, error, said)
            finally:
                self._running.pop(name, None)
                tried.set()
            await asyncio.sleep(RETRY_S)

    async def _expected(self, name: str) -> Identity:
        """What the database of a shard must say. Raises WrongDatabase if no shard was added yet."""
        present = await find_identity(self.main.reader)
        if present is None:
            raise WrongDatabase(f"There are no shards yet: `shards add {name}` adds it.")
        return Identity(present.directory, name)

    async def _keep_looking(self, runtime: Runtime) -> None:
        """Note whether the database of a shard answers, and keep it level, until cancelled."""
        level_s = time.monotonic() + LEVEL_S
        while True:
            await asyncio.sleep(LOOK_S)
            if not await runtime.ready():
                self._down.add(runtime.shard)
                continue
            self._down.discard(runtime.shard)
            if time.monotonic() > level_s:
                level_s = time.monotonic() + LEVEL_S
                await self._try_to_level(runtime)

    async def keep_completing(self, registry: Registry) -> None:
        """Find what grants on other shards are limited to, every second, until cancelled."""
        while True:
            for ledgers in self._by_shard(registry.elsewhere).values():
                with suppress(LedgerError):
                    reader = self.now(ledgers[0].ledger_id).reader
                    results = await find_limited(reader, ledgers)
                    registry.elsewhere.update(zip(ledgers, results, strict=True))
            await asyncio.sleep(LOOK_S)

    def _by_shard(self, grants: Iterable[Limited]) -> dict[str | None, list[Limited]]:
        shards: dict[str | None, list[Limited]] = {}
        for one in grants:
            shards.setdefault(self.directory.home_of(one.ledger_id), []).append(one)
        return shards

    async def keep_main_level(self) -> None:
        """Look after the chunks of main, if there are shards, until cancelled."""
        while True:
            if self.directory.homes.shards:
                await self._try_to_level(self.main)
            await asyncio.sleep(LEVEL_S)

    async def _try_to_level(self, runtime: Runtime) -> None:
        try:
            await self._level(runtime)
        except (LedgerError, psycopg.Error, OSError) as error:
            if isinstance(error, WrongDatabase) and runtime is not self.main:
                raise  # its ids could be given out twice, so it is not used any more
            text = " ".join(str(error).split())
            log.warning("the ids of the shard %s were not looked after: %s", runtime.shard, text)

    async def _level(self, runtime: Runtime) -> None:
        """Let the sequences go on in chunks of this shard, and add the currencies that it lacks."""
        async with _connected(self.main.connect) as directory, _connected(runtime.connect) as shard:
            for chunk in await chunks.keep(directory, shard, runtime.shard):
                log.info("the shard %s has chunk %d of %s", runtime.shard, chunk[1], chunk[0])
        if runtime is not self.main:
            await runtime.copy_currencies()

    async def keep_reading(self) -> None:
        """Read the directory every second, where no keys are read, until cancelled."""
        while True:
            with suppress(LedgerError, psycopg.Error, OSError, TimeoutError):
                async with _connected(self.main.connect) as wire:
                    while True:
                        await self.read(wire)
                        await asyncio.sleep(LOOK_S)
            await asyncio.sleep(RETRY_S)

    async def read(self, wire: Wire) -> None:
        """Read the directory."""
        begun_s = time.monotonic()
        async with asyncio.timeout(FIRST_TRY_S):
            [homes] = await wire.exchange(READ_DIRECTORY)
        self.directory.update(homes.rows, begun_s)


async def prepared_shard(main: Database, name: str, database: Database) -> Database:
    """The database of a shard, checked and migrated, as soon as it can be used."""
    said = ""
    while True:
        try:
            if main.identity is None:
                raise WrongDatabase(f"There are no shards yet: `shards add {name}` adds it.")
            expected = Identity(main.identity.directory, name)
            return await asyncio.to_thread(prepared, database, expected)
        except (LedgerError, psycopg.Error, OSError) as error:
            said = _said_once(name, error, said)
        await asyncio.sleep(RETRY_S)


async def _copied(runtime: Runtime) -> None:
    try:
        await runtime.copy_currencies()
    except (LedgerError, psycopg.Error, OSError) as error:
        log.warning("the shard %s gets currencies later: %s", runtime.shard, error)


def _said_once(name: str, error: Exception, said: str) -> str:
    text = " ".join(str(error).split())
    if text != said:
        log.error("the shard %s cannot be used: %s", name, text)
    return text


@asynccontextmanager
async def _connected(connect: Callable[[], Awaitable[Wire]]) -> AsyncIterator[Wire]:
    wire = await connect()
    try:
        yield wire
    finally:
        with suppress(psycopg.Error, OSError):
            await wire.close()


@asynccontextmanager
async def sharded(main: Runtime, *, reading: bool = False) -> AsyncIterator[Shards]:
    """The shards that LEDGER_SHARDS names, which are started meanwhile.

    `reading`: the directory is read here, because nobody reads the keys.
    """
    shards, databases = Shards(main), databases_of(main.settings)
    tried = {name: asyncio.Event() for name in databases}
    work = [shards.keep_running(name, one, tried[name]) for name, one in databases.items()]
    if reading:
        async with _connected(main.connect) as wire:
            await shards.read(wire)
        work.append(shards.keep_reading())
    tasks = [asyncio.create_task(one) for one in (*work, shards.keep_main_level())]
    try:
        await _wait_for(tried.values())
        with _shown(shards, databases):
            yield shards
    finally:
        await shards.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@contextmanager
def _shown(shards: Shards, names: Iterable[str]) -> Iterator[None]:
    """Let the metrics show which shards can be used."""
    with ExitStack() as stack:
        for name in names:
            stack.enter_context(SHARD_UP.reading(partial(shards.is_up, name), name))
        yield


async def _wait_for(tried: Iterable[asyncio.Event]) -> None:
    with suppress(TimeoutError):
        async with asyncio.timeout(FIRST_TRY_S):
            for one in tried:
                await one.wait()
