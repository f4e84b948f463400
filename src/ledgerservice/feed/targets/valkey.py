"""Redis or Valkey: the newest balance of each account, as a hash (see `feed.balances`).

`redis://user:password@host:port/DB?prefix=ledger`, or `rediss://` for TLS. A script writes a hash
only if its version is newer. Every script first compares the position in the server with the one
that this publisher wrote last. So it notices another publisher, and a server that has lost its
memory or the end of it: then it begins from what the server has.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.retry import Retry

from ledgerservice.domain.accounts import FrozenName, restricted_of
from ledgerservice.domain.events import Event, Line
from ledgerservice.domain.timestamps import microseconds, timestamp
from ledgerservice.feed.balances import FIELDS, Address, Limits, hash_of
from ledgerservice.feed.stores import OPENED, Account, Place, Span, WholeHead
from ledgerservice.feed.targets import Published, TargetFault

log = logging.getLogger(__name__)

ROWS = 2_000
ROWS_OF_A_CALL = 100  # of a script, during which the server answers nobody else
KEYS_AT_ONCE = 1_000
POINTERS = ("current", "next", "dropped", "rebuild")
TIMEOUT_S = 4.0  # for connecting, and for an answer

# Numbers are compared as texts of digits without leading zeros, so they are exact at any size.
# Lua's own numbers are exact up to 2^53 only.
_COMMON = """
local function is_newer(new, old)
    return not old or #new > #old or (#new == #old and new > old)
end
if redis.call('HGET', KEYS[1], 'published') ~= ARGV[1] then
    return redis.error_reply('LOST the position is not the one that was written last')
end
"""
# KEYS: the generation, and the hash of each row. ARGV: the position; the id of the last event; the
# rows in MessagePack: of each the field of its version, the version, and further fields and values,
# all as texts. `until` is the last event that a reader may have seen something of.
SET_NEWER = (
    _COMMON
    + """
if is_newer(ARGV[2], redis.call('HGET', KEYS[1], 'until')) then
    redis.call('HSET', KEYS[1], 'until', ARGV[2])
end
for number, fields in ipairs(cmsgpack.unpack(ARGV[3])) do
    local key = KEYS[number + 1]
    if is_newer(fields[2], redis.call('HGET', key, fields[1])) then
        redis.call('HSET', key, unpack(fields))
    end
end
"""
)
# KEYS: the generation, current, next, dropped, rebuild. ARGV: the position; the new one and its id;
# the name of the generation; 1 if there are no further events now; the prefix. Returns the position
# and the generation that is replaced. A new generation becomes the current one when it has all that
# readers of the current one have seen; the first one, when there are no further events.
ADVANCE = (
    _COMMON
    + """
if redis.call('EXISTS', KEYS[5]) == 1 then
    return redis.error_reply('REBUILD a new generation is begun as requested')
end
if redis.call('GET', KEYS[2]) ~= ARGV[4] and redis.call('GET', KEYS[3]) ~= ARGV[4] then
    return redis.error_reply('LOST the generation is not the current or the next one')
end
if is_newer(ARGV[3], redis.call('HGET', KEYS[1], 'id')) then
    local now = redis.call('TIME')
    local written_us = now[1] .. string.format('%06d', now[2])
    redis.call('HSET', KEYS[1], 'published', ARGV[2], 'id', ARGV[3], 'written_us', written_us)
end
local old = redis.call('GET', KEYS[2])
local seen = old and redis.call('HGET', ARGV[6] .. ':' .. old, 'until')
local is_whole = ARGV[5] == '1'
if seen then
    is_whole = not is_newer(seen, ARGV[3])
end
local replaced = false
if is_whole and old ~= ARGV[4] then
    replaced = old
    if old then
        redis.call('SADD', KEYS[4], old)
    end
    redis.call('SET', KEYS[2], ARGV[4])
    redis.call('DEL', KEYS[3])
end
return {redis.call('HGET', KEYS[1], 'published'), replaced}
"""
)
# KEYS: generations, current, next, dropped, rebuild. ARGV: epoch, its first position, the prefix.
# Returns the name of a new generation. Readers see nothing of an older epoch any more; its data
# stays.
BEGIN = """
local function epoch_of(name)
    return name and tonumber(string.match(name, '^(%d+):')) or 0
end
local current, unfinished = redis.call('GET', KEYS[2]), redis.call('GET', KEYS[3])
if math.max(epoch_of(current), epoch_of(unfinished)) > tonumber(ARGV[1]) then
    return redis.error_reply('LATER there is a later epoch')
end
if unfinished then
    redis.call('SADD', KEYS[4], unfinished)
end
if epoch_of(current) < tonumber(ARGV[1]) then
    redis.call('DEL', KEYS[2])
end
local name = ARGV[1] .. ':' .. redis.call('INCR', KEYS[1])
redis.call('HSET', ARGV[3] .. ':' .. name, 'published', ARGV[2])
redis.call('SET', KEYS[3], name)
redis.call('DEL', KEYS[5])
return name
"""


# The rows of events.


class Row(NamedTuple):
    """Fields and values of an account's hash. The first is their version: they are set together,
    and only if it is newer.
    """

    account: str
    fields: tuple[str, ...]


class _Opened(msgspec.Struct):
    owner: str
    currency: str
    reference: str | None
    metadata: msgspec.Raw


class _Policy(msgspec.Struct):
    account_id: int
    floor: str
    ceiling: str | None
    frozen: FrozenName | None
    closed: bool


class _Data(msgspec.Struct):
    policy: _Policy | None = None


class _OpenedEvent(msgspec.Struct):
    recorded_at: str
    data: _Opened


class _PolicyEvent(msgspec.Struct):
    data: _Data


_decode_opened = msgspec.json.Decoder(_OpenedEvent).decode
_decode_policy = msgspec.json.Decoder(_PolicyEvent).decode


def rows_of(events: Sequence[Event]) -> list[Row]:
    """The rows of events, which are in order: of each account the newest balance and policy."""
    openings: list[Row] = []
    lines: dict[tuple[int, int], Line] = {}
    policies: dict[str, Row] = {}
    for event in events:
        for line in event.lines:
            lines[event.ledger_id, line.account_id] = line
        if event.type == "account.opened":
            openings.append(_opening(event))
        elif event.type == "account.policy_changed":
            row = _policy(event)
            policies[row.account] = row
    # The hash of an account begins with its opening: without that, it is not whole.
    return [*openings, *(_balance(key[0], line) for key, line in lines.items()), *policies.values()]


def _opening(event: Event) -> Row:
    opened = _decode_opened(event.body)
    details = msgspec.json.encode(
        {
            "owner": opened.data.owner,
            "created_at": opened.recorded_at,
            "reference": opened.data.reference,
            "metadata": opened.data.metadata,
        }
    )
    limits = msgspec.json.encode(Limits())
    [account_id] = event.accounts
    fields = (
        "opened_at", str(event.id),
        "details", details.decode(),
        "limits_version", "0",
        "limits", limits.decode(),
    )  # fmt: skip
    return Row(f"{event.ledger_id}:{account_id}", fields)


def _balance(ledger_id: int, line: Line) -> Row:
    fields = (
        "version", str(line.version),
        "balance", str(line.balance),
        "held", str(line.held),
        "id", str(line.transaction_id),
        "recorded_at", timestamp(line.recorded_at),
        "currency", line.currency,
        "exponent", str(line.exponent),
    )  # fmt: skip
    return Row(f"{ledger_id}:{line.account_id}", fields)


def _policy(event: Event) -> Row:
    policy = _decode_policy(event.body).data.policy
    assert policy is not None
    [version] = [line.version for line in event.lines if line.account_id == policy.account_id]
    limits = Limits(_minor(policy.floor), None, restricted_of(policy.frozen, closed=policy.closed))
    if policy.ceiling is not None:
        limits.ceiling = _minor(policy.ceiling)
    fields = "limits_version", str(version), "limits", msgspec.json.encode(limits).decode()
    return Row(f"{event.ledger_id}:{policy.account_id}", fields)


def _minor(text: str) -> int:
    """Minor units: an event has all digits of the currency."""
    return int(text.replace(".", ""))


# The target.


class Valkey:
    """A server with balances."""

    rows = ROWS

    def __init__(self, address: Address) -> None:
        self.name = address.name
        self._address = address
        self._client = _client(address)
        self._set_newer = self._client.register_script(SET_NEWER)
        self._advance = self._client.register_script(ADVANCE)
        self._begin = self._client.register_script(BEGIN)
        self._pointers = [address.key(name) for name in POINTERS]
        self._generation: str = ""
        self._stored: str = ""
        self._closed = threading.Event()

    def open(self) -> Published | None:
        """How far the generation is that is being built, or else the current one.

        None if there is none, or if a new one is requested.
        """
        with faults(self.name):
            self._closed = threading.Event()
            current, following, _, rebuild = self._client.mget(self._pointers)
            name = None if rebuild is not None else following or current
            stored = None if name is None else self._position(name)
            self._generation, self._stored = (str(name), stored) if stored else ("", "")
            self._drop()
            return _published(stored) if stored else None

    def write(self, events: Sequence[Event], published: Published) -> None:
        """Set the accounts of the events, and then the position."""
        with faults(self.name):
            self._prepare(published.epoch)
            self._set(rows_of(events), events[-1].id)
            self._move(published, is_last=len(events) < self.rows)

    def close(self) -> None:
        """Disconnect."""
        self._closed.set()
        with suppress(redis.RedisError, OSError):
            self._client.close()

    def _position(self, generation: str) -> str | None:
        stored: str | None = self._client.hget(self._address.key(generation), "published")
        return stored

    def _prepare(self, epoch: int) -> None:
        """Begin a new generation if there is none of the epoch."""
        if self._generation.startswith(f"{epoch}:"):
            return
        first = msgspec.json.encode(Published(epoch)).decode()
        keys: list[Any] = [self._address.key("generations"), *self._pointers]
        name: Any = self._begin(keys, [epoch, first, self._address.prefix])
        self._generation, self._stored = name, first

    def _set(self, rows: Sequence[Row], last_id: int) -> None:
        place = self._place()
        with self._client.pipeline(transaction=False) as pipeline:
            for start in range(0, len(rows), ROWS_OF_A_CALL):
                part = rows[start : start + ROWS_OF_A_CALL]
                keys: list[Any] = [place, *(f"{place}:{row.account}" for row in part)]
                packed = msgspec.msgpack.encode([row.fields for row in part])
                self._set_newer(keys, [self._stored, last_id, packed], client=pipeline)
            pipeline.execute()

    def _move(self, published: Published, *, is_last: bool) -> None:
        """Write the position, in a request of its own: a pipeline goes on after a failed call."""
        text = msgspec.json.encode(published).decode()
        values: list[Any] = [self._stored, text, published.id, self._generation, int(is_last)]
        reply: Any = self._advance(
            [self._place(), *self._pointers], [*values, self._address.prefix]
        )
        self._stored, replaced = reply
        if replaced:
            log.info("%s: %s is read, and no longer %s", self.name, self._generation, replaced)
            self._drop()

    def _place(self) -> str:
        return self._address.key(self._generation)

    # Generations that were replaced are deleted in a thread; after a crash, by the next publisher.

    def _drop(self) -> None:
        if self._client.exists(self._address.key("dropped")):
            threading.Thread(target=self._drop_all, args=(self._closed,), daemon=True).start()

    def _drop_all(self, closed: threading.Event) -> None:
        dropped = self._address.key("dropped")
        try:
            with _client(self._address) as client:
                for name in client.smembers(dropped):
                    if _drop_keys(client, self._address.key(name), closed):
                        client.srem(dropped, name)
        except (redis.RedisError, OSError) as error:
            log.warning("%s: replaced data was not deleted yet: %s", self.name, error)


@contextmanager
def faults(name: str) -> Iterator[None]:
    """Turn what the library raises into a TargetFault."""
    try:
        yield
    except (redis.RedisError, OSError, msgspec.MsgspecError) as error:
        reason = " ".join(str(error).split()) or type(error).__name__
        raise TargetFault(f"{name}: {reason}") from error


class ValkeyStore:
    """Reads the generation that readers get; each hash is the head of its account."""

    head = WholeHead

    def __init__(self, address: Address) -> None:
        self.name = address.name
        self._address = address
        self._client = _client(address)
        self._place = ""

    def open(self) -> Published | None:
        """See Store."""
        with faults(self.name):
            generation = self._client.get(self._address.key("current"))
            if generation is None:
                return None
            self._place = self._address.key(generation)
            stored = self._client.hget(self._place, "published")
            return _published(stored) if stored else None

    def rows(self, epoch: int, spans: Sequence[Span]) -> None:
        """See Store: there are no rows."""

    def heads(self, epoch: int, accounts: Sequence[Account]) -> list[WholeHead | None]:  # noqa: ARG002
        """See Store. A reader cannot use a hash that is not whole, so it is no head."""
        with faults(self.name), self._client.pipeline(transaction=False) as pipeline:
            for account in accounts:
                pipeline.hmget(f"{self._place}:{account.ledger_id}:{account.account_id}", FIELDS)
            hashes = zip(accounts, pipeline.execute(), strict=True)
            return [_head(account, values) for account, values in hashes]

    def places(self, epoch: int) -> Iterator[Place]:  # noqa: ARG002
        """See Store."""
        with faults(self.name):
            cursor = 0
            while True:
                pattern = f"{self._place}:*"
                cursor, keys = self._client.scan(cursor, match=pattern, count=KEYS_AT_ONCE)
                with self._client.pipeline(transaction=False) as pipeline:
                    for key in keys:
                        pipeline.hexists(key, "version")
                    for key, has_version in zip(keys, pipeline.execute(), strict=True):
                        account = key.removeprefix(f"{self._place}:").split(":")
                        yield Place(Account(*map(int, account)), 0 if has_version else OPENED)
                if cursor == 0:
                    return

    def close(self) -> None:
        """See Store."""
        with suppress(redis.RedisError, OSError):
            self._client.close()


def _head(account: Account, values: Sequence[str | None]) -> WholeHead | None:
    row = hash_of(account.account_id, values)
    if row is None:
        return None
    beside = row.currency, row.exponent, microseconds(row.recorded_at)
    return WholeHead(row.version, row.balance, row.held, row.id, *beside)


def _client(address: Address) -> Any:
    """A client that tries each command once. Raises ConfigurationError."""
    settings = {
        "socket_timeout": TIMEOUT_S,
        "socket_connect_timeout": TIMEOUT_S,
        "retry": Retry(NoBackoff(), 0),
    }
    return redis.Redis.from_pool(address.pool(redis.ConnectionPool, **settings))


def _drop_keys(client: Any, place: str, closed: threading.Event) -> bool:
    """Delete a generation's keys, its position first; False if that has to end."""
    client.unlink(place)
    cursor = 0
    while not closed.is_set():
        cursor, keys = client.scan(cursor, match=f"{place}:*", count=KEYS_AT_ONCE)
        if keys:
            client.unlink(*keys)
        if cursor == 0:
            return True
    return False


def _published(text: str) -> Published:
    return msgspec.json.decode(text, type=Published)


def target_of(url: str) -> Valkey:
    """The target of a URL. Raises ConfigurationError."""
    return Valkey(Address.of(url))


def store_of(url: str) -> ValkeyStore:
    """The store of a URL. Raises ConfigurationError."""
    return ValkeyStore(Address.of(url))
