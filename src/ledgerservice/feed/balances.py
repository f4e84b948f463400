"""Hot balances: accounts as a publisher keeps them in Redis or Valkey, and who reads them.

A generation is a whole copy of all accounts, in the epoch of its events. `current` names the one
that is read, `next` the one that is being built. An answer comes from a generation only while its
position is there, and only for an account that is there as a whole. Whatever is missing, late or
not readable is a miss, and PostgreSQL answers. Nothing here decides about money.
"""

import asyncio
import importlib
import logging
import re
from collections.abc import Awaitable, Callable, Sequence
from contextlib import suppress
from datetime import datetime
from typing import Any, NamedTuple, Self
from urllib.parse import urlencode, urlsplit

import msgspec
import psycopg

from ledgerservice.domain.events import position
from ledgerservice.errors import ConfigurationError, LedgerError
from ledgerservice.feed.targets import Published
from ledgerservice.feed.urls import url_of
from ledgerservice.postgres.epochs import confirmed_epoch
from ledgerservice.postgres.pipeline import Request, Wire, number
from ledgerservice.postgres.queries.accounts import AccountView
from ledgerservice.postgres.queries.gathered.accounts import AccountRead
from ledgerservice.posting.standby import Standby

log = logging.getLogger(__name__)

FORM = "redis://USER:PASSWORD@HOST:PORT/DATABASE?prefix=PREFIX"
PREFIX = "ledger"
TIMEOUT_S = 0.05  # for one try, with the connecting
REST_S = 1.0  # after a failure; meanwhile nothing is tried
CONNECTIONS = 16

_is_prefix = re.compile(r"[A-Za-z0-9_.:-]{1,64}", re.ASCII).fullmatch
_is_generation = re.compile(r"[0-9]{1,18}:[0-9]{1,18}", re.ASCII).fullmatch


# Where everything is.


class Address(NamedTuple):
    """The server, and the prefix of the keys. `url` is as redis-py takes it."""

    url: str
    prefix: str

    @classmethod
    def of(cls, url: str) -> Self:
        """The address of `redis://user:password@host:port/DB?prefix=ledger`, or of `rediss://`.

        Other options are those of redis-py. Raises ConfigurationError.
        """
        parts = url_of(url, FORM)
        options = parts.options
        if len(parts.hosts) > 1 or parts.scheme not in ("redis", "rediss"):
            raise ConfigurationError(f"The URL is not {FORM}.")
        if not re.fullmatch("[0-9]{0,9}", parts.path, re.ASCII):
            raise ConfigurationError(f"The database of {parts.scheme}:// is a number.")
        prefix = options.pop("prefix", PREFIX)
        if not _is_prefix(prefix):
            raise ConfigurationError("The prefix has 1 to 64 letters, digits and the signs _ . : -")
        return cls(urlsplit(url)._replace(query=urlencode(options)).geturl(), prefix)

    @property
    def name(self) -> str:
        """The address without user, password and options."""
        parts = urlsplit(self.url)
        host = f"[{parts.hostname}]" if ":" in str(parts.hostname) else parts.hostname
        database = parts.path.strip("/") or "0"
        return f"{parts.scheme}://{host}:{parts.port or 6379}/{database}?prefix={self.prefix}"

    def pool(self, connections: Any, **settings: Any) -> Any:
        """A pool of this class of redis-py's, whose URL wins over `settings`.

        Raises ConfigurationError.
        """
        try:
            pool = connections.from_url(self.url, decode_responses=True, **settings)
            pool.make_connection()  # It does not connect, and refuses an unknown option.
        except (TypeError, ValueError, _library("redis").RedisError) as error:
            raise ConfigurationError(f"An option of {self.name} is not valid: {error}") from error
        return pool

    def key(self, *parts: object) -> str:
        """A key: `ledger:current`, `ledger:1:3` of a generation, `ledger:1:3:1:1001` of an account
        of ledger 1 in it.
        """
        return ":".join(map(str, (self.prefix, *parts)))


def check(url: str) -> None:
    """Raise ConfigurationError if it is not the URL of a cache. Nothing is connected."""
    Address.of(url).pool(_library("redis").ConnectionPool)


def _library(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except ImportError as error:
        raise ConfigurationError(
            "A library for LEDGER_CACHE is missing: pip install 'ledgerservice[redis]'"
        ) from error


# What is there.


class Details(msgspec.Struct):
    """What never changes in an account. `metadata` is a JSON object or null."""

    owner: str
    created_at: datetime
    reference: str | None
    metadata: msgspec.Raw


class Limits(msgspec.Struct):
    """The policy of an account, in minor units."""

    floor: int = 0
    ceiling: int | None = None
    restricted: int = 0


class _Hash(msgspec.Struct):
    """The fields of an account's hash."""

    version: int
    balance: int
    held: int
    id: int
    recorded_at: datetime
    currency: str
    exponent: int
    details: str
    limits: str


FIELDS = _Hash.__struct_fields__


def hash_of(account_id: int, values: Sequence[str | None]) -> _Hash | None:
    """The hash of an account out of its FIELDS; None if a reader cannot use it as it is.

    Of an external account, which nobody reads, details and limits are missing.
    """
    if account_id < 0:
        values = [*values[:-2], "", ""]
    try:
        row = _convert(values)
        if account_id > 0:
            msgspec.json.decode(row.details, type=Details)
            msgspec.json.decode(row.limits, type=Limits)
    except (msgspec.MsgspecError, ValueError):
        return None
    return row


def _convert(values: Sequence[str | None]) -> _Hash:
    return msgspec.convert(dict(zip(FIELDS, values, strict=True)), _Hash, strict=False)


class CachedAccount(AccountView, frozen=True, kw_only=True):
    """An account as it was after `version`, which was recorded at `as_of`.

    `position` is that of the event that made this version. `age_ms` is the time since the publisher
    wrote its own position; what was recorded since then may be missing.
    """

    position: str
    as_of: datetime
    age_ms: int


class _Reply(NamedTuple):
    """What a generation has of an account."""

    generation: str
    published: str | None
    written_us: str | None
    values: list[str | None]
    now_us: int


def _account(reply: _Reply, account_id: int) -> CachedAccount:
    """Raises msgspec.ValidationError or DecodeError if not everything is there."""
    row = _convert(reply.values)
    details = msgspec.json.decode(row.details, type=Details)
    metadata = bytes(details.metadata).decode()
    limits = msgspec.json.decode(row.limits, type=Limits)
    written_us = msgspec.convert(reply.written_us, int, strict=False)
    return CachedAccount(
        id=account_id,
        owner=details.owner,
        currency=row.currency,
        exponent=row.exponent,
        reference=details.reference,
        balance=row.balance,
        held=row.held,
        version=row.version,
        floor=limits.floor,
        ceiling=limits.ceiling,
        restricted=limits.restricted,
        created_at=details.created_at,
        metadata=None if metadata == "null" else metadata,
        position=position(int(reply.generation.partition(":")[0]), row.id),
        as_of=row.recorded_at,
        age_ms=max(0, reply.now_us - written_us) // 1_000,
    )


# Reading.

HAS_COME_BACK = """
SELECT EXISTS (SELECT FROM ledger.arrivals WHERE ledger_id = $1::integer AND after_id > 0)
"""


class Balances:
    """The reader of one process. It belongs to the event loop that it was made in."""

    def __init__(
        self,
        url: str,
        connect: Callable[[], Awaitable[Wire]],
        generation_of: Callable[[int], int] = lambda _: 0,
    ) -> None:
        """`connect` is for PostgreSQL; `generation_of` says of a ledger's home whether it has ever
        been another. Raises ConfigurationError.
        """
        self._generation_of = generation_of
        self._came_back: dict[int, tuple[int, bool]] = {}
        self._address = Address.of(url)
        self._redis = _library("redis.asyncio")
        pool = self._address.pool(self._redis.BlockingConnectionPool, **_once())
        self._client = self._redis.Redis(connection_pool=pool)
        self._connect = connect
        self._generation = ""
        self._rests_until_s = 0.0
        self._fault: str | None = None
        self._epoch: int | None = None
        self._confirms_from_s = 0.0
        self._confirming = asyncio.Lock()

    async def find(
        self, ledger_id: int, account_id: int, min_version: int = 0
    ) -> CachedAccount | None:
        """A customer's account that has `min_version` or a newer one; None on a miss."""
        if account_id <= 0:
            return None
        reply = await self._try(ledger_id, account_id)
        if reply is None:
            return None
        try:
            account = _account(reply, account_id)
            published = msgspec.json.decode(reply.published or b"", type=Published)
        except (msgspec.MsgspecError, ValueError):
            return None
        if account.version < min_version or not await self._is_of_this_journal(published):
            return None
        return None if await self._has_come_back(ledger_id) else account

    async def _has_come_back(self, ledger_id: int) -> bool:
        """Whether a ledger has been on another shard since it was here, or it is not known.

        The publisher of this shard has not written what was recorded there.
        """
        generation = self._generation_of(ledger_id)
        if not generation:
            return False
        async with self._confirming:
            known = self._came_back.get(ledger_id)
            if known is None or known[0] != generation:
                known = self._came_back[ledger_id] = await self._look_at(ledger_id, generation)
        return known[1]

    async def _look_at(self, ledger_id: int, generation: int) -> tuple[int, bool]:
        with suppress(psycopg.Error, OSError, LedgerError):
            wire = await self._connect()
            try:
                [found] = await wire.exchange(Request(HAS_COME_BACK, [number(ledger_id)]))
                return generation, bool(found.rows[0][0])
            finally:
                await wire.close()
        return 0, True  # look again

    async def close(self) -> None:
        """Disconnect."""
        with suppress(self._redis.RedisError, OSError):
            await self._client.aclose()
            await self._client.connection_pool.disconnect()

    async def _try(self, ledger_id: int, account_id: int) -> _Reply | None:
        """One try, unless one has failed just now."""
        now_s = asyncio.get_running_loop().time
        if now_s() < self._rests_until_s:
            return None
        try:
            async with asyncio.timeout(TIMEOUT_S):
                reply = await self._read(ledger_id, account_id)
        except (self._redis.RedisError, OSError) as error:  # TimeoutError is an OSError
            self._rests_until_s = now_s() + REST_S
            self._report(str(error) or "no answer in time")
            return None
        self._report(None)
        return reply

    def _report(self, fault: str | None) -> None:
        if (fault is None) != (self._fault is None):
            log.warning("the cache %s: %s", self._address.name, fault or "answers again")
        self._fault = fault

    async def _read(self, ledger_id: int, account_id: int) -> _Reply | None:
        """In one round trip, if the generation is still the one that was read last."""
        for _ in range(2):
            reply, current = await self._read_of(self._generation, ledger_id, account_id)
            if current == self._generation:
                return reply
            if current is None or not _is_generation(current):
                break
            self._generation = current
        return None

    async def _read_of(
        self, generation: str, ledger_id: int, account_id: int
    ) -> tuple[_Reply, str | None]:
        place = self._address.key(generation)
        pipeline = self._client.pipeline(transaction=False)
        pipeline.get(self._address.key("current"))
        pipeline.hmget(place, "published", "written_us")
        pipeline.hmget(f"{place}:{ledger_id}:{account_id}", FIELDS)
        pipeline.time()
        current, (published, written_us), values, (now_s, us) = await pipeline.execute()
        now_us = now_s * 1_000_000 + us
        return _Reply(generation, published, written_us, values, now_us), current

    async def _is_of_this_journal(self, published: Published) -> bool:
        """Whether it is of the journal's epoch, or of a later one, which a publisher has begun.

        It is confirmed once, because a restored database needs a new process. A publisher notices a
        promotion, and takes `current` away.
        """
        now_s = asyncio.get_running_loop().time
        async with self._confirming:
            if self._epoch is None and now_s() >= self._confirms_from_s:
                self._epoch = await self._confirm(published)
                self._confirms_from_s = now_s() + REST_S
        return self._epoch is not None and published.epoch >= self._epoch

    async def _confirm(self, published: Published) -> int | None:
        with suppress(psycopg.Error, OSError, LedgerError):
            wire = await self._connect()
            try:
                return await confirmed_epoch(wire, published.witness)
            finally:
                await wire.close()
        return None


def _once() -> dict[str, Any]:
    """Settings with which redis-py tries a command once. The whole has TIMEOUT_S."""
    retry = importlib.import_module("redis.asyncio.retry").Retry
    backoff = importlib.import_module("redis.backoff").NoBackoff
    return {
        "retry": retry(backoff(), 0),
        "max_connections": CONNECTIONS,
        "timeout": TIMEOUT_S,
        "socket_timeout": TIMEOUT_S,
        "socket_connect_timeout": TIMEOUT_S,
    }


async def find_account(
    cache: Balances | Standby | None,
    find: Callable[[AccountRead], Awaitable[AccountView | None]],
    read: AccountRead,
    min_version: int = 0,
) -> AccountView | None:
    """The account out of the cache (a CachedAccount) or a standby (a StandbyAccount), or else what
    `find` reads, or None.

    What is not read by `find` has `min_version` or a newer one.
    """
    cached = None if cache is None else await cache.find(*read, min_version)
    return cached or await find(read)
