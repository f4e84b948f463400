"""Connects the parts: the only module in which they are wired together."""

import asyncio
import logging
import math
import threading
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING

from sqlalchemy import URL

from ledgerservice.access.audit import AuditLog
from ledgerservice.access.registry import Registry
from ledgerservice.access.rulebook import Rulebook
from ledgerservice.domain.accounts import Opened, Opening
from ledgerservice.domain.currencies import Currency, CurrencyRequest
from ledgerservice.domain.instructions import Group
from ledgerservice.domain.ledgers import LedgerRecord, LedgerRequest, is_ledger_name
from ledgerservice.domain.transactions import Outcomes, Rejected
from ledgerservice.embedded.data import DataSource, empty_data
from ledgerservice.embedded.server import EmbeddedServer, bundled_binaries
from ledgerservice.errors import ConfigurationError, PrincipalUnknown
from ledgerservice.feed import balances
from ledgerservice.feed.balances import Balances
from ledgerservice.feed.history import History
from ledgerservice.feed.reading import Feed
from ledgerservice.feed.stores import history_of
from ledgerservice.feed.targets import targets_of
from ledgerservice.feed.webhooks.addresses import Guard
from ledgerservice.feed.webhooks.deliverer import keep_delivering
from ledgerservice.feed.webhooks.sending import Sender
from ledgerservice.installation import installing
from ledgerservice.postgres import migrations
from ledgerservice.postgres.access.approvals import NewDecision, NewProposal, record_approvals
from ledgerservice.postgres.access.audit import add_records
from ledgerservice.postgres.access.limits import KeyLimits
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
from ledgerservice.postgres.queries.accounts import AccountView, HistoryEntry
from ledgerservice.postgres.queries.gathered import (
    AccountRead,
    HistoryRead,
    find_accounts,
    list_histories,
)
from ledgerservice.postgres.reader import Reader
from ledgerservice.postgres.registration import add_currencies, add_ledgers, open_accounts
from ledgerservice.postgres.schema import DEFAULT_LEDGER
from ledgerservice.postgres.urls import parse_url, without_environment
from ledgerservice.postgres.verification.progress import Progress, load
from ledgerservice.postgres.verification.watching import Watch
from ledgerservice.posting.bounds import Budget
from ledgerservice.posting.due import keep_sweeping
from ledgerservice.posting.frozen import keep_ending_frozen
from ledgerservice.posting.movements import MovementBatch, weight_of
from ledgerservice.posting.observation import observed
from ledgerservice.posting.poster import Limits, Poster
from ledgerservice.settings import Settings
from ledgerservice.telemetry.metrics import VERIFY_PROGRESS, VERIFY_SUCCESS, VERIFY_VIOLATIONS

if TYPE_CHECKING:
    from ledgerservice.access.oidc.tokens import Tokens

log = logging.getLogger(__name__)

WATCH_INTERVAL_S = 0.3
VERIFY_END_S = 30.0
"""How long the stop waits for the verification, whose thread ends with the process."""
OPENINGS_AT_ONCE = 1_000  # of one request, in a queue that others use too


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


def prepared(database: Database) -> Database:
    """`database`, checked and migrated, with the role of the service.

    Raises a LedgerError whose message says what to do.
    """
    settings = database.settings
    with explained():
        check_server(database.of_owner())
        if settings.auto_migrate:
            upgrade(database)
        if database.owner_url is not None:
            check_server(database)
            check_same_database(database)
        with database.owner_engine().connect() as connection:
            migrations.check(connection)
        return replace(database, role=usable_role(database))


@dataclass(frozen=True, slots=True)
class Runtime:
    """The running parts, which all ledgers of a database share."""

    settings: Settings
    movements: Poster[Group, Outcomes]
    openings: Poster[Opening, Opened | Rejected]
    currencies: Poster[CurrencyRequest, Currency | Rejected]
    ledgers: Poster[LedgerRequest, LedgerRecord]
    account_reads: Poster[AccountRead, AccountView | None]
    history_reads: Poster[HistoryRead, list[HistoryEntry]]
    reader: Reader
    body_budget: Budget
    probe: Probe
    connect: Callable[[], Awaitable[Wire]]
    feed: Feed
    sender: Sender
    """Sends the tests of webhooks."""
    audit: AuditLog
    approvals: Poster[NewProposal | NewDecision, int | bool | None]
    history: History | None = None
    cursor_key: bytes = b""
    cache: Balances | None = None
    sample: Callable[[], None] = lambda: None
    """Has the metrics of the database read from now on."""
    watch: Watch | None = None
    ledger_ids: dict[str, int] = field(default_factory=dict)
    rules: Rulebook = field(default_factory=Rulebook)
    """Which requests others have to approve."""
    turn: asyncio.Lock = field(default_factory=asyncio.Lock)
    """Held for a piece of a large request, so that each round of the event loop has one of them."""

    async def ledger_id(self, name: str) -> int | None:
        """The id of a ledger, or None. Names never change, so a known one is kept in memory."""
        if name not in self.ledger_ids and is_ledger_name(name):
            ledger = await catalogue.find_ledger(self.reader, name)
            if ledger is not None:
                self.ledger_ids[name] = ledger.id
        return self.ledger_ids.get(name)

    async def principal_id(self, name: str | None) -> int:
        """The id of a principal; 0 for None. Raises PrincipalUnknown."""
        if name is None:
            return 0
        number = await catalogue.find_principal(self.reader, name)
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
            answers += await asyncio.gather(*map(self.openings.post, part))
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

    async def ready(self) -> bool:
        """Whether the database answers, accepts writes, and has a schema for this release."""
        return await self.probe.ask()


def check_addresses(settings: Settings) -> None:
    """Raise ConfigurationError for a mistake in the URL of another server. Nothing is connected."""
    if settings.publish is not None:
        targets_of(settings.publish.get_secret_value())
    if settings.cache is not None:
        balances.check(settings.cache.get_secret_value())
    if settings.history is not None:
        history_of(settings.history.get_secret_value())


@contextmanager
def started(settings: Settings, *, create: bool = True) -> Iterator[Database]:
    """The database, checked and migrated. The embedded server is watched meanwhile."""
    with opened_database(settings, create=create) as (unprepared, embedded):
        database = prepared(unprepared)
        with _watched(embedded):
            yield database


@asynccontextmanager
async def running(settings: Settings) -> AsyncIterator[Runtime]:
    """All parts, started in order. On exit, waiting requests are answered before they stop."""
    with started(settings) as database:
        async with posting(database) as runtime:
            yield runtime


@asynccontextmanager
async def posting(database: Database) -> AsyncIterator[Runtime]:
    """The parts of this process, on a database that `prepared` has returned."""
    settings = database.settings
    limits = Limits(
        settings.queue_limit_requests, settings.batch_limit_requests, settings.request_deadline_s
    )
    engine = database.read_engine()
    searches = asyncio.Semaphore(max(1, settings.read_connections // 2))
    reader = Reader(engine, DEFAULT_LEDGER, settings.request_deadline_s, searches)
    connect = database.connect_writer
    probe = Probe(connect, migrations.IS_READY)
    feed, sender = Feed(connect), Sender(Guard(settings), settings.webhooks_timeout_s)
    cache = None
    if settings.cache is not None:
        cache = Balances(settings.cache.get_secret_value(), connect)
    history = History(settings.history.get_secret_value()) if settings.history else None
    with _another_loop() as writers, _verifying(database) as watch:
        batches = MovementBatch()
        movements = Poster(connect, batches, limits, weight_of, writer_loop=writers)
        openings = Poster(connect, open_accounts, limits, writer_loop=writers, name="accounts")
        currencies = Poster(connect, add_currencies, limits, writer_loop=writers, name="currencies")
        ledgers = Poster(connect, add_ledgers, limits, writer_loop=writers, name="ledgers")
        account_reads = Poster(connect, find_accounts, limits, name="account_reads")
        history_reads = Poster(connect, list_histories, limits, name="history_reads")
        records = Poster(connect, add_records, limits, writer_loop=writers, name="audit")
        audit = AuditLog(records.post)
        approvals = Poster(connect, record_approvals, limits, writer_loop=writers, name="approvals")
        posters = movements, openings, currencies, ledgers, account_reads, history_reads
        watching = [
            asyncio.create_task(keep_sweeping(engine, movements.post, settings.sweep_interval_s)),
            asyncio.create_task(keep_ending_frozen(engine, settings.idle_transaction_timeout_s)),
            asyncio.create_task(audit.keep_flushing()),
        ]
        if settings.webhooks:
            watching.append(asyncio.create_task(keep_delivering(database, settings)))
        try:
            with explained():
                key = str(await reader.scalar(catalogue.CURSOR_SECRET)).encode()
            # One batch at least.
            budget = Budget(max(settings.body_budget_bytes, settings.max_batch_bytes))
            parts = settings, *posters, reader, budget, probe, connect, feed, sender, audit
            queues = {poster.name: poster for poster in (*posters, records, approvals)}
            async with observed(database, engine, queues, budget) as sample:
                yield Runtime(*parts, approvals, history, key, cache, sample, watch)
        finally:
            if cache is not None:
                await cache.close()
            await sender.close()
            await feed.close()
            await probe.close()
            if history is not None:
                await history.close()
            for task in watching:
                task.cancel()
            await asyncio.gather(*watching, return_exceptions=True)
            await audit.close()
            for queue in (*posters, records, approvals):
                await queue.close()
            await engine.dispose()


@asynccontextmanager
async def reading_keys(runtime: Runtime, *, with_tokens: bool) -> AsyncIterator[Registry]:
    """The keys of callers, and of an OpenID provider, and the rules of approvals, which are kept
    up to date meanwhile.

    The service starts while the provider is away. Raises ConfigurationError.
    """
    settings = runtime.settings
    limits = KeyLimits(
        settings.key_rate,
        settings.key_burst,
        settings.key_queue_share,
        settings.key_streams,
        settings.key_body_bytes_s,
    )
    tokens = _tokens(runtime, limits) if with_tokens else None
    registry = Registry(
        runtime.connect, runtime.rules, tokens, limits, settings.queue_limit_requests
    )
    with explained():
        await registry.refresh()
    if tokens is not None:
        tokens.check_accounts()
    refreshing = [asyncio.create_task(registry.keep_refreshed())]
    if tokens is not None:
        refreshing.append(asyncio.create_task(tokens.issuer.keep_refreshed()))
    try:
        yield registry
    finally:
        for task in refreshing:
            task.cancel()
        await asyncio.gather(*refreshing, return_exceptions=True)
        await registry.close()


def _tokens(runtime: Runtime, limits: KeyLimits) -> "Tokens | None":
    """The tokens that are accepted in place of keys, if there is a provider."""
    settings = runtime.settings
    if not (settings.oidc_issuer or settings.oidc_audience or settings.oidc_grants):
        return None
    try:
        from ledgerservice.access.oidc.tokens import Tokens  # noqa: PLC0415
    except ImportError as error:
        raise ConfigurationError(
            f"A library for LEDGER_OIDC_ISSUER is missing: {installing('oidc')}"
        ) from error
    return Tokens(settings, runtime.connect, limits, settings.queue_limit_requests)


@contextmanager
def _another_loop() -> Iterator[asyncio.AbstractEventLoop]:
    """An event loop of the same class as the running one, in a thread of its own."""
    loop = type(asyncio.get_running_loop())()
    thread = threading.Thread(target=loop.run_forever, name="writers")
    thread.start()
    try:
        yield loop
    finally:
        loop.call_soon_threadsafe(loop.stop)
        thread.join()
        loop.close()


@contextmanager
def _verifying(database: Database) -> Iterator[Watch | None]:
    """Verifies all the time, in a thread of its own, if no other process does so."""
    settings = database.settings
    if not settings.verify_interval_s:
        yield None
        return
    watch = Watch(database.service_engine(), settings.schema_name, settings.verify_progress)
    stop = threading.Event()
    arguments = stop, settings.verify_interval_s
    thread = threading.Thread(target=watch.run, args=arguments, name="verify", daemon=True)
    thread.start()
    try:
        with shown(watch):
            yield watch
    finally:
        stop.set()
        watch.interrupt()
        thread.join(VERIFY_END_S)


@contextmanager
def shown(watch: Watch) -> Iterator[None]:
    """Let the metrics show how far a verification is, in the process that does it."""

    def known(number: float) -> float:
        return math.nan if watch.is_elsewhere else number

    with (
        # Until everything has been verified there is no time to show.
        VERIFY_SUCCESS.reading(lambda: known(watch.last_success_s or math.nan)),
        VERIFY_VIOLATIONS.reading(lambda: known(watch.violations)),
        VERIFY_PROGRESS.reading(lambda: known(watch.pass_ratio)),
    ):
        yield


@contextmanager
def _watched(embedded: EmbeddedServer | None) -> Iterator[None]:
    """Restarts the embedded server when it dies; takes it over when its owner dies.

    This runs in a thread, so that requests are answered meanwhile. The thread lives as long as
    this context, because a server that it started gets a signal when the thread ends.
    """
    if embedded is None:
        yield
        return
    stop = threading.Event()
    watching = threading.Thread(target=_watch, args=(embedded, stop), name="embedded-watch")
    watching.start()
    try:
        yield
    finally:
        stop.set()
        watching.join()


def _watch(embedded: EmbeddedServer, stop: threading.Event) -> None:
    while not stop.wait(WATCH_INTERVAL_S):
        try:
            embedded.check()
        except Exception:
            log.exception("the embedded PostgreSQL could not be restarted; trying again")
