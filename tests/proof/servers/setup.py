"""A setup: everything that one round runs on, put together from what its faults need."""

import os
import random
import shutil
import time
from collections import Counter
from collections.abc import Iterator, Sequence, Set
from contextlib import ExitStack, contextmanager, suppress
from functools import partial
from itertools import product
from pathlib import Path

import httpx
import psycopg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_pem_private_key,
)
from sqlalchemy import Connection, Engine, create_engine, text
from sqlalchemy.pool import NullPool

from ledgerservice.access import keys
from ledgerservice.access.scopes import ALL, Scope
from ledgerservice.access.signatures import public_key_of
from ledgerservice.domain.rules.approvals import RuleRow
from ledgerservice.postgres.access import principals
from ledgerservice.postgres.access.rules import set_rule
from ledgerservice.postgres.urls import parse_url
from tests.processes import wait_for
from tests.proof.journal import Place
from tests.proof.load.books import Book
from tests.proof.load.clients import NO_KEY, Key, Load
from tests.proof.servers import cluster
from tests.proof.servers.canaries import CANARIES
from tests.proof.servers.cluster import (
    DATABASE,
    START_LIMIT_S,
    Broken,
    Disk,
    Embedded,
    PostgreSQL,
    Service,
)
from tests.proof.servers.overlapping import KNEW, OVERLAPPED
from tests.proof.servers.proxy import Proxy
from tests.proof.servers.read_models import ReadModels, ShardedReadModels
from tests.proof.servers.releases import THIS, Release
from tests.proof.servers.shards import FIRST_HOMES, MARKET, PARTS, Shard, Shards

PROXY, DISK, STANDBY, NAMESPACE, CLOCK, SERVICES, EMBEDDED, READ_MODELS, SHARDS = (
    "proxy",
    "disk",
    "standby",
    "namespace",
    "clock",
    "services",
    "embedded",
    "read models",
    "shards",
)
DISK_MB = 700
PRINCIPALS = "proof", "prover"
"""Whose keys the clients send, by turns."""
SIGNER = "signer"
"""Whose requests are signed, so that they may force."""
JUDGES = "judge", "second"
"""Who approve and reject what the others propose."""
RULES = ("amount", "USD", "2.80", 1), ("unfreeze", "", None, 1), ("force", "", None, 2)
"""What others have to approve, in each ledger."""
APPROVAL_EXPIRY_S = 15.0
FAKETIME = "/usr/lib/x86_64-linux-gnu/faketime/libfaketime.so.1"


VALID_SINCE_LONG = text(
    "UPDATE ledger.api_keys SET created_at = created_at - interval '30 days',"
    " not_before = not_before - interval '30 days' WHERE created_at > now() - interval '1 day'"
)
"""A clock that jumps back by a day must not make a key one that is not valid yet."""


def _new_private_key() -> bytes:
    """In PEM."""
    form = Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    return Ed25519PrivateKey.generate().private_bytes(*form)


def _new_key(owner: Connection, name: str, scopes: int, pem: bytes = b"") -> Key:
    """The key of a new principal; with a private key it requires signatures."""
    new = keys.make()
    number = principals.add_principal(owner, name, "service", int(scopes), [None])
    public = None
    if pem:
        private = load_pem_private_key(pem, None)
        form = Encoding.PEM, PublicFormat.SubjectPublicKeyInfo
        public = public_key_of(private.public_key().public_bytes(*form))
    principals.add_key(owner, new.id, new.digest, number, 90, public_key=public)
    owner.execute(VALID_SINCE_LONG)
    return Key(new.text, number, pem)


class Setup:
    """A PostgreSQL, the services on it, and what stands between them."""

    loads: Sequence[Load] = ()
    disk: Disk
    proxy: Proxy
    postgres: PostgreSQL | Embedded
    standby: PostgreSQL | None = None
    read_models: ReadModels | None = None
    shards: Shards
    within: list[str]
    keys: tuple[Key, ...] = (NO_KEY,)
    """What clients may do everything with, of several principals; one without a text if the
    services are open."""
    signer: Key | None = None
    judges: tuple[Key, ...] = ()

    def __init__(
        self,
        folder: Path,
        origin: Path,
        parts: Set[str],
        seed: int,
        canary: str = "",
        *,
        release: Release = THIS,
        drain_s: float = 0.0,
        has_keys: bool = True,
        overlapping: bool = False,
    ) -> None:
        """`release` is the one that serves, and `drain_s` how long after SIGTERM it goes on.

        Without keys it is open to this machine.
        """
        self._has_keys = has_keys
        self.folder = folder
        self._release, self._drain_s = release, drain_s
        self._broken = CANARIES.get(canary)
        self.program = ["tests.proof.servers.overlapping" if overlapping else "ledgerservice"]
        if self._broken is not None and self._broken.patched:
            self.program = ["tests.proof.servers.canaries", canary]
        self._origin = origin
        self._parts = parts
        self._stack = ExitStack()
        self._seed = seed
        self._copies = 0
        self.services: list[Service] = []
        self.books = [Book(folder / "history")]
        self.times: Counter[str] = Counter()
        """What was done beside a fault, and how often."""

    def __enter__(self) -> "Setup":
        try:
            self._build()
        except BaseException:
            self._stack.close()
            raise
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _build(self) -> None:
        url = self._embedded() if EMBEDDED in self._parts else self._database()
        shards = self._start_shards() if SHARDS in self._parts else {}
        several = self._parts & {SERVICES, EMBEDDED}
        for number in range(random.Random(self._seed).choice([2, 3]) if several else 1):
            log = self.folder / f"service{number}.log"
            service = Service(
                url,
                log,
                self.program,
                self._release,
                LEDGER_DRAIN_S=str(self._drain_s),
                LEDGER_ALLOW_UNSAFE_DURABILITY="true",
                LEDGER_DATA_FOLDER=str(self.folder / "embedded"),
                LEDGER_APPROVAL_EXPIRY_S=str(APPROVAL_EXPIRY_S),
                LEDGER_SWEEP_INTERVAL_S=str(self._broken.sweep_s if self._broken else 1.0),
                **shards,
            )
            self._stack.callback(service.kill)
            service.start()
            self.services.append(service)
        if SHARDS in self._parts:
            self._add_ledgers()
        if self._has_keys:
            self._make_keys()
        if READ_MODELS in self._parts:
            self._start_read_models(url)
        if self._broken is not None and self._broken.statement:
            self.postgres.ask(self._broken.statement, DATABASE)
        # What a power cut takes shall be what PostgreSQL did not sync from here on.
        os.sync()

    def _start_read_models(self, url: str) -> None:
        program = self.program if self._broken else ["ledgerservice"]
        chance = random.Random(self._seed)
        if SHARDS not in self._parts:
            models = ReadModels(self.folder, url, program, chance)
        else:
            models = ShardedReadModels(self.folder, self.shards, program, chance)
        self.read_models = self._stack.enter_context(models)
        if SHARDS in self._parts:
            self.shards.publishers += [one.url for one in models.stores]

    def overlapped(self) -> int:
        """The batches that have overlapped, by the logs of the services that say so."""
        return self._logged(OVERLAPPED)

    def knew(self) -> int:
        """The batches of known accounts, by the same logs."""
        return self._logged(KNEW)

    def _logged(self, line: str) -> int:
        logs = self.folder.glob("service*.log")
        return sum(log.read_text(errors="replace").count(line) for log in logs)

    @property
    def key(self) -> str:
        """The text of the first key."""
        return self.keys[0].text

    def _start_shards(self) -> dict[str, str]:
        """Databases beside main; what else the services know them by."""
        assert isinstance(self.postgres, PostgreSQL)
        main = Shard(self.postgres, self.proxy)
        shards = Shards(self.folder, self._origin, main, self._seed)
        self.shards = self._stack.enter_context(shards)
        return {"LEDGER_SHARDS": self.shards.environment["LEDGER_SHARDS"]}

    def _add_ledgers(self) -> None:
        """Some ledgers on each shard, while the services need no keys."""
        (service, *_) = self.services
        if not wait_for(service.has_all_shards, START_LIMIT_S):
            raise Broken(f"the service on port {service.port} does not use all shards")
        for name, shard in FIRST_HOMES.items():
            body = {"name": name, "shard": shard}
            answer = httpx.post(f"{service.base}/ledgers/", json=body, timeout=30)
            answer.raise_for_status()
            seen = self.folder / f"history-{name}"
            number = self.shards.number_of(name)
            self.books.append(Book(seen, name, number, f"/ledgers/{name}"))
        self._add_market(service.base)

    def _add_market(self, base: str) -> None:
        """A ledger with parts."""
        answer = httpx.post(f"{base}/ledgers/", json={"name": MARKET, "shards": PARTS}, timeout=30)
        answer.raise_for_status()
        place = self.folder / f"history-{MARKET}", MARKET, self.shards.number_of(MARKET)
        parts = tuple(self.shards.parts_of(MARKET).values())
        self.books.append(Book(*place, f"/ledgers/{MARKET}", parts=parts))

    def places_of(self, book: Book) -> list[Place]:
        """Where the rows of a ledger are: of its parts, if it has any."""
        if SHARDS not in self._parts:
            return [Place(self.postgres.url)]
        names = self.shards.parts_of(book.name) or {book.name: book.number}
        homes = self.shards.homes()
        return [
            Place(self.shards.by_name[homes[name]].server.url, number, self.postgres.url)
            for name, number in names.items()
        ]

    def engines(self) -> dict[str, Engine]:
        """The databases by the names of their shards, if there are several."""
        shards = self.shards.by_name if SHARDS in self._parts else {}
        return {
            name: create_engine(parse_url(shard.server.url), poolclass=NullPool)
            for name, shard in shards.items()
        }

    def end_crossings(self, limit_s: float) -> bool:
        """Wait until what is open between parts now is over, which the services see to by
        themselves; whether it is so in time.
        """
        if SHARDS not in self._parts:
            return True
        before = self.shards.open_crossings()
        return wait_for(lambda: not before & self.shards.open_crossings(), limit_s)

    def faults(self) -> Iterator[str]:
        """What is wrong at the end beside the rows of the ledgers."""
        if self.read_models is not None:
            yield from self.read_models.faults(self.postgres.url)
        if SHARDS in self._parts:
            yield from self.shards.faults()

    def _make_keys(self) -> None:
        """The rules and all keys: a service that knows the keys knows the rules."""
        engine = create_engine(parse_url(self.postgres.url), poolclass=NullPool)
        with engine.begin() as owner:
            for book, rule in product(self.books, RULES):
                set_rule(owner, RuleRow(book.number, *rule))
            pem = _new_private_key()
            self.signer = _new_key(owner, SIGNER, ALL, pem)
            self.judges = tuple(_new_key(owner, n, Scope.APPROVALS_DECIDE, pem) for n in JUDGES)
            self.keys = tuple(_new_key(owner, name, ALL) for name in PRINCIPALS)
        self._await_keys()

    def _await_keys(self) -> None:
        """The first key closes the services; each knows all when this returns."""
        for service in self.services:
            if not wait_for(partial(self._is_closed, service), 30):
                raise Broken(f"the service on port {service.port} does not know the keys")

    def _is_closed(self, service: Service) -> bool:
        return all(service.takes(key.text) for key in self.keys) and not service.takes("")

    def _embedded(self) -> str:
        """No URL: the services run a PostgreSQL of their own."""
        self.postgres = Embedded(self.folder / "embedded")
        self._stack.callback(self.postgres.await_end)
        return ""

    def _database(self) -> str:
        """Start PostgreSQL with all that stands before and behind it; the services' URL."""
        place, self.within, address = self.folder, [], "127.0.0.1"
        if DISK in self._parts:
            self.disk = Disk(self.folder, DISK_MB)
            self._stack.callback(self.disk.detach)
            place = self.disk.mount
        if NAMESPACE in self._parts:
            self.within, address = self._stack.enter_context(cluster.namespace())
        cluster.copy(self._origin, place / "data")
        self.postgres = self._server(place / "data", address)
        self._stack.callback(self._kill)
        self.set_clock("+0")
        self.postgres.start()
        if STANDBY in self._parts:
            self.add_standby()
        if self._parts & {PROXY, STANDBY}:
            self.proxy = Proxy(address, self.postgres.port, self._seed)
            self._stack.callback(self.proxy.stop)
            return f"postgresql://postgres@127.0.0.1:{self.proxy.port}/{DATABASE}"
        return self.postgres.url

    def _server(self, data: Path, address: str) -> PostgreSQL:
        prefix = []
        environment = {}
        if self.within:
            prefix = [
                *self.within,
                "setpriv",
                "--reuid=nobody",
                "--regid=nogroup",
                "--clear-groups",
            ]
        if CLOCK in self._parts:
            environment = {
                "LD_PRELOAD": FAKETIME,
                "FAKETIME_TIMESTAMP_FILE": str(self.folder / "clock"),
                "FAKETIME_NO_CACHE": "1",
                "FAKETIME_DONT_FAKE_MONOTONIC": "1",
            }
        log = self.folder / f"{data.name}.log"
        options = () if self._broken is None else self._broken.options
        return PostgreSQL(
            data, log, options=options, prefix=prefix, address=address, environment=environment
        )

    def _kill(self) -> None:
        """Whichever they are by then."""
        for server in (self.postgres, self.standby):
            if server is not None:
                server.kill()

    def set_clock(self, offset: str) -> None:
        """What libfaketime tells PostgreSQL from now on."""
        clock = self.folder / "clock"
        new = clock.with_suffix(".new")
        new.write_text(offset)
        new.chmod(0o644)
        new.rename(clock)

    def heal(self) -> None:
        """Everything that is down is started again, and answers."""
        if not self.postgres.alive():
            self.postgres.start()
        wait_for(self.postgres.answers, START_LIMIT_S)
        if SHARDS in self._parts:
            self.shards.heal()
        for service in self.services:
            if not service.alive():
                service.start(ready=False)
        for service in self.services:
            if not service.await_ready():
                raise Broken(f"the service on port {service.port} does not get ready")
            if not wait_for(service.has_all_shards, START_LIMIT_S):
                raise Broken(f"the service on port {service.port} does not use all shards")

    def lose_power(self) -> None:
        """What PostgreSQL had not synced is gone; it starts again from what it had."""
        self.disk.lose_power()
        self.postgres.kill()
        self.disk.detach()
        self.disk.attach()
        self.postgres.start()

    def add_standby(self) -> None:
        """A synchronous standby of the server as it stands."""
        self._copies += 1
        data = self.folder / f"standby{self._copies}"
        cluster.make_folder(data)
        cluster.run_program(
            "pg_basebackup", "-D", str(data), "-R", "-c", "fast", "-X", "stream", "-d",
            f"host=127.0.0.1 port={self.postgres.port} user=postgres",
        )  # fmt: skip
        self.standby = self._server(data, "127.0.0.1")
        self.standby.start()
        self.postgres.ask("ALTER SYSTEM SET synchronous_standby_names = '*'")
        self.postgres.ask("SELECT pg_reload_conf()")
        if not wait_for(self._is_synchronous, START_LIMIT_S):
            raise Broken("the standby does not follow")

    def _is_synchronous(self) -> bool:
        query = "SELECT 1 FROM pg_stat_replication WHERE sync_state = 'sync'"
        with suppress(psycopg.OperationalError):
            return bool(self.postgres.ask(query))
        return False

    def lose_standby(self, seconds: float) -> None:
        """The standby is gone for so long; commits wait."""
        assert self.standby is not None
        self.standby.kill()
        time.sleep(seconds)
        self.standby.start()

    def fail_over(self, *, cut_off: bool) -> None:
        """The standby becomes the primary.

        The old one is killed, or first cut off from its clients, while it goes on for a while.
        """
        if cut_off:
            self.proxy.silence(True)
            time.sleep(random.Random(self._copies).uniform(0.1, 1.0))
        assert self.standby is not None
        old = self.postgres
        if not cut_off:
            old.kill()
        self.standby.ask("SELECT pg_promote(true)")
        self.postgres = self.standby
        self.proxy.target = (self.postgres.address, self.postgres.port)
        self.proxy.cut_all()
        self.proxy.silence(False)
        if cut_off:
            old.kill()
        shutil.rmtree(old.data)
        self.add_standby()


@contextmanager
def original(folder: Path) -> Iterator[Path]:
    """A cluster at rest, with an empty database, to make copies of."""
    data = folder / "origin"
    cluster.create(data)
    server = PostgreSQL(data, folder / "origin.log")
    server.start()
    server.ask(f"CREATE DATABASE {DATABASE}")
    server.stop()
    yield data
