"""Connects the parts: the only module in which they are wired together."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import (
    AbstractAsyncContextManager,
    AsyncExitStack,
    asynccontextmanager,
    contextmanager,
    nullcontext,
)
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

from sqlalchemy import URL
from sqlalchemy.ext.asyncio import AsyncEngine
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from ledgerservice.access.audit import AuditLog
from ledgerservice.access.rulebook import Rulebook
from ledgerservice.domain.accounts import Opened, Opening
from ledgerservice.domain.currencies import Currency, CurrencyRequest
from ledgerservice.domain.ledgers import LedgerRecord, LedgerRequest, Parts, is_ledger_name
from ledgerservice.domain.transactions import Rejected, Rejection
from ledgerservice.embedded.data import DataSource, empty_data
from ledgerservice.embedded.server import EmbeddedServer, bundled_binaries
from ledgerservice.embedded.watching import watched
from ledgerservice.errors import (
    ConfigurationError,
    DatabaseRefused,
    DatabaseUnreachable,
    PrincipalUnknown,
)
from ledgerservice.feed.balances import Balances
from ledgerservice.feed.history import History
from ledgerservice.feed.read_models import reading_elsewhere
from ledgerservice.feed.reading import Feed
from ledgerservice.feed.webhooks.addresses import Guard
from ledgerservice.feed.webhooks.deliverer import keep_delivering
from ledgerservice.feed.webhooks.sending import Sender
from ledgerservice.postgres import migrations
from ledgerservice.postgres.access.approvals import NewDecision, NewProposal, record_approvals
from ledgerservice.postgres.access.audit import add_records
from ledgerservice.postgres.connections import (
    Database,
    check_same_database,
    check_server,
    explained,
    usable_role,
)
from ledgerservice.postgres.pipeline import Wire
from ledgerservice.postgres.probe import Probe
from ledgerservice.postgres.queries import catalogue
from ledgerservice.postgres.queries.parts import find_parts
from ledgerservice.postgres.reader import Reader
from ledgerservice.postgres.registration import (
    add_currencies,
    add_ledgers,
)
from ledgerservice.postgres.schema import DEFAULT_LEDGER
from ledgerservice.postgres.sharding.copies import (
    CurrencyCopy,
    LedgerCopy,
    add_copies,
    list_currencies,
)
from ledgerservice.postgres.sharding.directory import Directory
from ledgerservice.postgres.sharding.identity import MAIN, Identity, fault_of, identity_of
from ledgerservice.postgres.urls import parse_url, without_environment
from ledgerservice.postgres.verification.progress import Progress, load
from ledgerservice.postgres.verification.requests import PassRequests
from ledgerservice.postgres.verification.watching import Watch
from ledgerservice.posting.bounds import Budget
from ledgerservice.posting.due import keep_sweeping
from ledgerservice.posting.frozen import keep_ending_frozen
from ledgerservice.posting.observation import observed
from ledgerservice.posting.parts.crossing import Crossings, MovementPoster, RemoteMovementPoster
from ledgerservice.posting.parts.opening import OpeningPoster, posters_of_ledgers
from ledgerservice.posting.parts.recovery import Recovery, keep_recovering
from ledgerservice.posting.parts.routing import Routes
from ledgerservice.posting.poster import Poster
from ledgerservice.posting.queues import Queues, another_loop
from ledgerservice.posting.reads import Reads
from ledgerservice.posting.remote import PosterAddress, RemotePoster
from ledgerservice.posting.standby import Standby
from ledgerservice.posting.verifying import verifying
from ledgerservice.settings import Settings
from ledgerservice.telemetry.pages import Page

log = logging.getLogger(__name__)

OPENINGS_AT_ONCE = 1_000  # of one request, in a queue that others use too


UNTIL_RESTARTED = Retrying(
    retry=retry_if_exception_type((DatabaseUnreachable, DatabaseRefused)),
    stop=stop_after_delay(30),
    wait=wait_fixed(0.1),
    reraise=True,
)
"""An embedded server that dies after this process has attached to it is restarted by its owner, or
by this process. The error depends on how far the new server is.
"""


@contextmanager
def opened_database(
    settings: Settings,
    *,
    create: bool = True,
    source: DataSource = empty_data,
) -> Iterator[tuple[Database, EmbeddedServer | None]]:
    """The database of `settings`. The embedded server runs until the context is left.

    Without `create` a data folder without a database raises EmbeddedServerError. `source` makes the
    data of an embedded server that has none, instead of an empty database.
    """
    if settings.database_url is not None:
        url = parse_url(settings.database_url.get_secret_value())
        yield Database(url, settings, owner_url=_owner_url(settings)), None
        return
    if settings.owner_url is not None:
        raise ConfigurationError("LEDGER_OWNER_URL is set, but DATABASE_URL is not.")
    binaries = settings.postgres_bin or bundled_binaries()
    server = EmbeddedServer(settings.data_folder, binaries, log.info, create=create, source=source)
    with server as embedded:
        owner, login = map(without_environment, map(parse_url, (embedded.url, embedded.login_url)))
        if not settings.service_role:
            yield Database(owner, settings), embedded
        else:
            yield Database(login, settings, owner_url=owner), embedded


def _owner_url(settings: Settings) -> URL | None:
    if settings.owner_url is None:
        return None
    return parse_url(settings.owner_url.get_secret_value(), "LEDGER_OWNER_URL")


def upgrade(database: Database) -> bool:
    """Make or update the schema, the service's role and its login; True if the schema changed."""
    return migrations.upgrade(
        database.owner_engine(),
        database.settings.service_role or None,
        database.settings.schema_name,
        database.login,
    )


def prepared(database: Database, expected: Identity | None = None, shard: str = MAIN) -> Database:
    """`database`, checked and migrated, with the role of the service.

    `expected` is what the database must say it is; None: that it is `shard`, of whatever service,
    or the only database. Raises a LedgerError whose message says what to do.
    """
    settings = database.settings
    with explained():
        check_server(database.of_owner())
        database = replace(database, identity=_identified(database, expected, shard))
        if settings.auto_migrate:
            upgrade(database)
        if database.owner_url is not None:
            check_server(database)
            check_same_database(database)
        with database.owner_engine().connect() as connection:
            migrations.check(connection)
        return replace(database, role=usable_role(database))


def _identified(database: Database, expected: Identity | None, shard: str) -> Identity | None:
    """What the database says it is. Raises WrongDatabase; nothing was written then."""
    with database.owner_engine().connect() as connection:
        present = identity_of(connection)
    if expected is None and present is not None:
        expected = Identity(present.directory, shard)
    if expected is not None:
        fault = fault_of([] if present is None else [present], expected)
        if fault is not None:
            raise fault
    return expected


OF_DIRECTORY = (
    *("currencies", "ledgers", "approvals", "audit", "rules", "directory", "cursor_key"),
    *("body_budget", "sender", "turn"),
)
"""The parts of a runtime that a process has once."""


Movements = MovementPoster | RemoteMovementPoster
"""The queue of movements: of this process, or of the one that posts for it."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """The running parts, which all ledgers of a database share.

    On another shard than main, what stands in OF_DIRECTORY is main's.
    """

    settings: Settings
    movements: Movements
    openings: OpeningPoster
    currencies: Poster[CurrencyRequest, Currency | Rejected]
    ledgers: Poster[LedgerRequest, LedgerRecord | Rejected]
    reads: Reads
    reader: Reader
    body_budget: Budget
    probe: Probe
    connect: Callable[[], Awaitable[Wire]]
    feed: Feed
    sender: Sender
    """Sends the tests of webhooks."""
    audit: AuditLog
    approvals: Poster[NewProposal | NewDecision, int | bool | None]
    copies: Poster[Sequence[LedgerCopy | CurrencyCopy], None]
    """Adds what a shard has of the directory."""
    cursor_key: bytes
    rules: Rulebook
    """Which requests others have to approve."""
    directory: Directory
    """Which shard has which ledger."""
    turn: asyncio.Lock
    """Held for a piece of a large request, so that each round of the event loop has one of them."""
    shard: str = MAIN
    directory_runtime: "Runtime | None" = None
    history: History | None = None
    cache: Balances | None = None
    standby: Standby | None = None
    sample: Callable[[], None] = lambda: None
    """Has the metrics of the database read from now on."""
    watch: Watch | None = None
    passes: PassRequests = field(default_factory=PassRequests)
    metrics_page: Page = field(default_factory=Page)
    ledger_ids: dict[str, int] = field(default_factory=dict)
    known_ledgers: set[int] = field(default_factory=lambda: {DEFAULT_LEDGER})
    """Those of which it is known whether they have parts, which never changes."""
    started_at: datetime = field(default_factory=partial(datetime.now, UTC))

    @property
    def main(self) -> "Runtime":
        """The parts on the directory: of ledgers, rights, proposals and the audit log."""
        return self.directory_runtime or self

    async def ledger_id(self, name: str) -> int | None:
        """The id of a ledger, or None. Names never change, so a known one is kept in memory."""
        if name not in self.ledger_ids and is_ledger_name(name):
            ledger = await catalogue.find_ledger(self.main.reader, name)
            if ledger is not None:
                self.directory.first[ledger.id] = ledger.shard
                await self.parts_of(ledger.id)
                self.ledger_ids[name] = ledger.id
        return self.ledger_ids.get(name)

    async def parts_of(self, ledger_id: int) -> Parts | None:
        """The parts of a ledger; None if it has none. They never change."""
        if ledger_id not in self.known_ledgers:
            parts = await find_parts(self.main.reader.of(ledger_id))
            if parts is not None:
                self.crossings.parts[ledger_id] = parts
            self.known_ledgers.add(ledger_id)
        return self.crossings.parts.get(ledger_id)

    async def readers_of(self, ledger_id: int) -> list[Reader]:
        """The readers of all parts of a ledger; of a ledger without parts its own."""
        parts = await self.parts_of(ledger_id)
        if parts is None:
            return [self.reader.of(ledger_id)]
        return [await self.crossings.reader_of(one) for one in parts.ids]

    @property
    def crossings(self) -> Crossings:
        """Posts on ledgers with parts, on all shards."""
        return self.movements.crossings

    @property
    def routes(self) -> Routes:
        """Finds what the parts of a ledger have."""
        return self.crossings.routes

    async def principal_id(self, name: str | None) -> int:
        """The id of a principal; 0 for None. Raises PrincipalUnknown."""
        if name is None:
            return 0
        number = await catalogue.find_principal(self.main.reader, name)
        if number is None:
            raise PrincipalUnknown(f"{name!a} is not in the database: see keys list.")
        return number

    async def open_accounts(self, openings: Sequence[Opening]) -> list[Opened | Rejected]:
        """The durable answers to `openings`, in order. Raises as `Poster.post`: then some may be
        open, and the same may be sent again.
        """
        answers: list[Opened | Rejected] = []
        for start in range(0, len(openings), OPENINGS_AT_ONCE):
            part = openings[start : start + OPENINGS_AT_ONCE]
            answers += await asyncio.gather(*map(self.open_account, part))
        return answers

    async def verified(self) -> Progress | None:
        """How far the verification is; None if neither this process nor LEDGER_VERIFY_PROGRESS has
        it.
        """
        known = None
        if self.watch is not None and not self.watch.is_elsewhere:
            known = self.watch.progress
        if known is None or not known.is_begun:
            known = await asyncio.to_thread(load, self.settings.verify_progress)
        return known if known.is_begun else None

    async def open_account(self, opening: Opening) -> Opened | Rejected:
        """The durable answer to an opening. A shard may lack a currency that the directory has."""
        answer = await self.openings.post(opening)
        is_unknown = isinstance(answer, Rejected) and answer.reason is Rejection.CURRENCY_UNKNOWN
        if is_unknown and self.main is not self:
            await self.copy_currencies()
            return await self.openings.post(opening)
        return answer

    async def copy_currencies(self) -> None:
        """Give this shard the currencies that all ledgers have, and the units of its ledgers."""
        await self.copies.post(await list_currencies(self.main.reader, self.shard))

    async def ready(self) -> bool:
        """Whether the database answers, accepts writes, and has a schema for this release, and
        whether the process that posts is there.
        """
        if isinstance(self.movements, RemotePoster) and not self.movements.is_connected:
            return False
        return await self.probe.ask()


@contextmanager
def started(settings: Settings, *, create: bool = True, shard: str = MAIN) -> Iterator[Database]:
    """The database, checked and migrated. The embedded server is watched meanwhile."""
    with opened_database(settings, create=create) as (unprepared, embedded), watched(embedded):
        if embedded is None:
            yield prepared(unprepared, shard=shard)
        else:
            yield UNTIL_RESTARTED(prepared, unprepared, shard=shard)


@asynccontextmanager
async def running(
    settings: Settings, poster: PosterAddress | None = None
) -> AsyncIterator[Runtime]:
    """All parts, started in order. On exit, waiting requests are answered before they stop.

    `poster` is as in `posting`.
    """
    with started(settings) as database:
        async with posting(database, poster=poster) as runtime:
            yield runtime


@asynccontextmanager
async def posting(
    database: Database,
    shard: str = MAIN,
    main: Runtime | None = None,
    poster: PosterAddress | None = None,
) -> AsyncIterator[Runtime]:
    """The parts of this process, on a database that `prepared` has returned.

    With `main` they are those of another shard, and the directory's parts are main's. `poster` is
    another process, which posts and does what is due; None: that of main, or this one does.
    """
    if main is not None and isinstance(main.movements, RemotePoster):
        poster = main.movements.address
    settings, connect = database.settings, database.connect_writer
    engine = database.read_engine()
    searches = asyncio.Semaphore(max(1, settings.read_connections // 2))
    reader = Reader(engine, DEFAULT_LEDGER, settings.request_deadline_s, searches)
    probe, feed = Probe(connect, migrations.IS_READY), Feed(connect)
    verified = nullcontext() if poster else verifying(database, is_main=main is None)
    # What is entered last ends first.
    async with AsyncExitStack() as life:
        queues = Queues(
            database, life.enter_context(another_loop()), None if main is None else shard
        )
        watch = life.enter_context(verified)
        life.push_async_callback(engine.dispose)
        life.push_async_callback(queues.close)
        crossings = Crossings(settings.request_deadline_s) if main is None else main.crossings
        if main is None:
            life.push_async_callback(crossings.close)
        life.push_async_callback(probe.close)
        life.push_async_callback(feed.close)
        claims = None if main is None else main.openings.claims
        of_ledgers = {
            **posters_of_ledgers(queues, poster, crossings, claims),
            "reads": Reads.of(queues),
            "copies": queues.writing("copies", add_copies),
        }
        of_directory = await life.enter_async_context(
            _of_directory(settings, queues, reader) if main is None else _of_main(main)
        )
        models = await life.enter_async_context(
            reading_elsewhere(database, of_directory["directory"])
        )
        recovery = Recovery(engine, reader, crossings, settings.cross_limit_s, shard)
        watching = _watch_over(database, engine, of_ledgers["movements"], recovery)
        life.push_async_callback(_cancelled, watching)
        posters = {poster.name: poster for poster in queues.posters}
        budget = of_directory["body_budget"]
        observing = observed(database, engine, posters, budget, is_main=main is None)
        yield Runtime(
            settings=settings,
            reader=reader,
            probe=probe,
            connect=connect,
            feed=feed,
            shard=shard,
            directory_runtime=main,
            sample=await life.enter_async_context(observing),
            watch=watch,
            **of_ledgers,
            **of_directory,
            **models,
        )


def _of_main(main: Runtime) -> AbstractAsyncContextManager[dict[str, Any]]:
    """The parts of the directory, which main has and ends."""
    return nullcontext({name: getattr(main, name) for name in OF_DIRECTORY})


def _watch_over(
    database: Database, engine: AsyncEngine, movements: Movements, recovery: Recovery
) -> list[asyncio.Task[None]]:
    """What a process does on a database by itself."""
    settings = database.settings
    # In each process: one that is frozen cannot end its own sessions.
    ending = keep_ending_frozen(engine, settings.idle_transaction_timeout_s)
    watching = [asyncio.create_task(ending)]
    if isinstance(movements, RemotePoster):
        return watching
    sweeping = keep_sweeping(engine, movements.post, settings.sweep_interval_s)
    watching.append(asyncio.create_task(sweeping))
    recovering = keep_recovering(recovery, settings.sweep_interval_s)
    watching.append(asyncio.create_task(recovering))
    if settings.webhooks:
        watching.append(asyncio.create_task(keep_delivering(database, settings)))
    return watching


async def _cancelled(tasks: Sequence[asyncio.Task[None]]) -> None:
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@asynccontextmanager
async def _of_directory(
    settings: Settings, queues: Queues, reader: Reader
) -> AsyncIterator[dict[str, Any]]:
    """The parts that a process has once, whatever the number of shards."""
    audit = AuditLog(queues.writing("audit", add_records).post)
    sender = Sender(Guard(settings), settings.webhooks_timeout_s)
    flushing = asyncio.create_task(audit.keep_flushing())
    try:
        with explained():
            key = str(await reader.scalar(catalogue.CURSOR_SECRET)).encode()
        yield {
            "currencies": queues.writing("currencies", add_currencies),
            "ledgers": queues.writing("ledgers", add_ledgers),
            "approvals": queues.writing("approvals", record_approvals),
            # One batch at least.
            "body_budget": Budget(max(settings.body_budget_bytes, settings.max_batch_bytes)),
            "audit": audit,
            "sender": sender,
            "cursor_key": key,
            "rules": Rulebook(),
            "directory": Directory(),
            "turn": asyncio.Lock(),
        }
    finally:
        await sender.close()
        await _cancelled([flushing])
        await audit.close()
