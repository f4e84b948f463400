"""Cassandra, and what speaks its protocol: the entries of accounts, and a head for each account.

    cassandra://user:password@host:9042,host2/KEYSPACE?replication=3&consistency=LOCAL_QUORUM

`replication` is a number, or as in `dc1:3,dc2:3`; it counts when the keyspace is made. Further
options: `local_dc`, `protocol`, and `tls=true` with `cafile`.

Rows are immutable, and each write has a timestamp of its own: of a row its transaction's id, of a
head its version, of the position its id. So a rewrite changes nothing, and neither a head nor the
position goes back, in whatever order writes arrive.
"""

import re
import ssl
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import Any, NamedTuple

from cassandra import ConsistencyLevel
from cassandra.auth import PlainTextAuthProvider
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, Session
from cassandra.concurrent import execute_concurrent
from cassandra.policies import DCAwareRoundRobinPolicy, TokenAwarePolicy
from cassandra.query import BatchStatement, BatchType, tuple_factory

from ledgerservice.domain.events import Event
from ledgerservice.errors import ConfigurationError
from ledgerservice.feed.stores import (
    BUCKET_VERSIONS,
    Account,
    Head,
    Place,
    Row,
    Span,
    buckets_of,
    heads_of,
    rows_of,
)
from ledgerservice.feed.targets import Published, TargetFault
from ledgerservice.feed.urls import Host, Url, boolean, number, url_of

OPTIONS = ("replication", "consistency", "local_dc", "protocol", "tls", "cafile")
FORM = "cassandra://USER:PASSWORD@HOST:PORT,HOST/KEYSPACE?option=value"
PORT = 9042
PROTOCOLS = 3, 6  # the first and the last
CONSISTENCIES = ("ONE", "TWO", "THREE", "QUORUM", "ALL", "LOCAL_QUORUM", "EACH_QUORUM", "LOCAL_ONE")
REQUESTS_AT_ONCE = 96
TIMEOUT_S = 6.0
# Cassandra logs a warning for a batch of more than 5 KiB, or of more than 10 partitions.
BATCH_BYTES, ROW_BYTES = 4_500, 150
BATCH_PARTITIONS = 10

ROWS = """
CREATE TABLE IF NOT EXISTS account_entries (
    epoch int, ledger_id int, account_id bigint, bucket bigint,
    version bigint, transaction_id bigint, kind smallint, amount bigint, held_change bigint,
    balance bigint, held bigint, currency text, exponent smallint, key text, origin smallint,
    recorded_at bigint, checksum bigint,
    PRIMARY KEY ((epoch, ledger_id, account_id, bucket), version)
) WITH CLUSTERING ORDER BY (version DESC)
"""
HEADS = """
CREATE TABLE IF NOT EXISTS account_heads (
    epoch int, ledger_id int, account_id bigint,
    version bigint, balance bigint, held bigint, transaction_id bigint,
    PRIMARY KEY ((epoch, ledger_id, account_id))
)
"""
# The only partition that does not begin with the epoch: it says which epoch is the last.
POSITIONS = """
CREATE TABLE IF NOT EXISTS positions (
    feed text, epoch int, id bigint, digest text, PRIMARY KEY (feed, epoch)
) WITH CLUSTERING ORDER BY (epoch DESC)
"""
FEED = "ledger"

_COLUMNS = ", ".join(Row._fields)
_HEAD_COLUMNS = ", ".join(Head._fields)
INSERT_ROW = f"""
INSERT INTO account_entries (epoch, ledger_id, account_id, bucket, {_COLUMNS})
VALUES ({", ".join("?" * (4 + len(Row._fields)))}) USING TIMESTAMP ?
"""
INSERT_HEAD = f"""
INSERT INTO account_heads (epoch, ledger_id, account_id, {_HEAD_COLUMNS})
VALUES ({", ".join("?" * (3 + len(Head._fields)))}) USING TIMESTAMP ?
"""
INSERT_POSITION = """
INSERT INTO positions (feed, epoch, id, digest) VALUES (?, ?, ?, ?) USING TIMESTAMP ?
"""
FIND_POSITION = f"SELECT epoch, id, digest FROM positions WHERE feed = '{FEED}' LIMIT 1"
LIST_ROWS = f"""
SELECT {_COLUMNS} FROM account_entries
WHERE epoch = ? AND ledger_id = ? AND account_id = ? AND bucket = ?
  AND version >= ? AND version <= ? ORDER BY version ASC
"""
FIND_HEAD = f"""
SELECT {_HEAD_COLUMNS} FROM account_heads WHERE epoch = ? AND ledger_id = ? AND account_id = ?
"""
LIST_PARTITIONS = "SELECT DISTINCT epoch, ledger_id, account_id, bucket FROM account_entries"
LIST_HEADS = "SELECT epoch, ledger_id, account_id FROM account_heads"

_is_name = re.compile("[a-z][a-z0-9_]{0,47}", re.ASCII).fullmatch
_data_centre = re.compile("([A-Za-z0-9_.-]+):([1-9])", re.ASCII)


class Address(NamedTuple):
    """Where the servers are, and how they are spoken to."""

    hosts: list[Host]
    keyspace: str
    login: tuple[str, str] | None
    replication: dict[str, int]
    consistency: int
    local_dc: str
    protocol: int
    tls: ssl.SSLContext | None

    @property
    def name(self) -> str:
        """The address without passwords."""
        return f"cassandra://{','.join(h.text(PORT) for h in self.hosts)}/{self.keyspace}"


def address_of(url: str) -> Address:
    """The address of a URL. Raises ConfigurationError."""
    parts = url_of(url, FORM, OPTIONS)
    options = parts.options
    if not _is_name(parts.path):
        raise ConfigurationError(
            "A keyspace of cassandra:// has 1 to 48 small letters, digits and _, a letter first."
        )
    consistency = options.get("consistency", "LOCAL_QUORUM").upper()
    if consistency not in CONSISTENCIES:
        raise ConfigurationError(
            f"The consistency of cassandra:// is one of {', '.join(CONSISTENCIES)}."
        )
    return Address(
        parts.hosts,
        parts.path,
        parts.login,
        _replication(options.get("replication", "3")),
        ConsistencyLevel.name_to_value[consistency],
        options.get("local_dc", ""),
        number("The protocol of cassandra://", options.get("protocol", "5"), *PROTOCOLS),
        _tls(parts),
    )


def _replication(text: str) -> dict[str, int]:
    if text.isascii() and text.isdigit():
        return {"replication_factor": number("The replication of cassandra://", text, 1, 99)}
    matches = [_data_centre.fullmatch(one) for one in text.split(",")]
    if not all(matches):
        raise ConfigurationError(
            "The replication of cassandra:// is a number, or as in dc1:3,dc2:3."
        )
    return {one[1]: int(one[2]) for one in matches if one is not None}


def _tls(parts: Url) -> ssl.SSLContext | None:
    cafile = parts.options.get("cafile")
    if not boolean(parts.scheme, parts.options, "tls"):
        if cafile is not None:
            raise ConfigurationError("The option cafile of cassandra:// needs tls=true.")
        return None
    try:
        context = ssl.create_default_context(cafile=cafile)
    except OSError as error:
        raise ConfigurationError(
            f"The cafile of cassandra:// cannot be used: {error.strerror or error}."
        ) from None
    context.check_hostname = len(parts.hosts) == 1
    return context


class _Client:
    """A session, its prepared statements, and its faults as TargetFault."""

    def __init__(self, address: Address) -> None:
        self.address = address
        self.name = address.name
        self._cluster: Cluster | None = None
        self._session: Session | None = None
        self._prepared: dict[str, Any] = {}

    def close(self) -> None:
        """Disconnect."""
        cluster, self._cluster, self._session = self._cluster, None, None
        self._prepared = {}
        if cluster is not None:
            with suppress(Exception):
                cluster.shutdown()

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Turn what the driver raises into a TargetFault. It has no common base class for that."""
        try:
            yield
        except TargetFault:
            raise
        except Exception as error:
            raise TargetFault(f"{self.name}: {_reason(error)}") from error

    def connect(self) -> Session:
        """The session, which is opened if need be."""
        if self._session is None:
            self._cluster = self._new_cluster()
            try:
                self._session = self._cluster.connect()
            except BaseException:
                self.close()
                raise
        return self._session

    def _new_cluster(self) -> Cluster:
        address = self.address
        policy = TokenAwarePolicy(DCAwareRoundRobinPolicy(address.local_dc))
        profile = ExecutionProfile(
            load_balancing_policy=policy,
            consistency_level=address.consistency,
            serial_consistency_level=None,
            request_timeout=TIMEOUT_S,
            row_factory=tuple_factory,
        )
        return Cluster(
            [(host.bare, host.port or PORT) for host in address.hosts],
            auth_provider=PlainTextAuthProvider(*address.login) if address.login else None,
            protocol_version=address.protocol,
            execution_profiles={EXEC_PROFILE_DEFAULT: profile},
            ssl_context=address.tls,
            connect_timeout=TIMEOUT_S,
            control_connection_timeout=TIMEOUT_S,
            idle_heartbeat_timeout=TIMEOUT_S,
        )

    def statement(self, text: str) -> Any:
        """A prepared statement."""
        if text not in self._prepared:
            self._prepared[text] = self.connect().prepare(text)
        return self._prepared[text]

    def run(self, statements: Iterable[tuple[Any, Any]]) -> list[Any]:
        """Run statements with their values, some at once. Raises the first fault."""
        done = execute_concurrent(
            self.connect(),
            statements,
            concurrency=REQUESTS_AT_ONCE,
            raise_on_first_error=True,
        )
        return [result for _, result in done]

    def find_position(self) -> Published | None:
        """How far the server is."""
        for row in self.connect().execute(FIND_POSITION):
            return Published(*row)
        return None


def _reason(error: BaseException) -> str:
    """One line that names the cause: the driver puts the faults of all hosts into one."""
    causes = getattr(error, "errors", None)
    if isinstance(causes, dict) and causes:
        error = next(iter(causes.values()))
    return " ".join(f"{type(error).__name__}: {error}".split())[:300]


class CassandraTarget:
    """Writes rows, then heads, then the position."""

    rows = 2_000

    def __init__(self, address: Address) -> None:
        self._client = _Client(address)
        self.name = address.name

    def open(self) -> Published | None:
        """See Target."""
        self.close()
        with self._client.faults():
            self._make_keyspace()
            for table in (ROWS, HEADS, POSITIONS):
                self._client.connect().execute(table, timeout=30)
            return self._client.find_position()

    def _make_keyspace(self) -> None:
        session, address = self._client.connect(), self._client.address
        if address.keyspace not in session.cluster.metadata.keyspaces:
            replication = {"class": "NetworkTopologyStrategy", **address.replication}
            session.execute(
                f"CREATE KEYSPACE IF NOT EXISTS {address.keyspace} WITH replication={replication}",
                timeout=30,
            )
        session.set_keyspace(address.keyspace)

    def write(self, events: Sequence[Event], published: Published) -> None:
        """See Target."""
        with self._client.faults():
            epoch = published.epoch
            self._client.run(self._batches(epoch, rows_of(epoch, events)))
            self._client.run(self._heads(epoch, heads_of(events)))
            values = FEED, epoch, published.id, published.digest, published.id
            self._client.connect().execute(self._client.statement(INSERT_POSITION), values)

    def _batches(
        self, epoch: int, rows: dict[tuple[Account, int], list[Row]]
    ) -> Iterator[tuple[Any, Any]]:
        """An unlogged batch for each partition, or several if it has many rows."""
        insert = self._client.statement(INSERT_ROW)
        for (account, bucket), of_bucket in rows.items():
            place = epoch, *account, bucket
            for part in _parts(of_bucket):
                yield _batch(insert, [(*place, *row, row.transaction_id) for row in part])

    def _heads(self, epoch: int, heads: dict[Account, Head]) -> Iterator[tuple[Any, Any]]:
        """Heads are small, and each is a partition: some go together, without a warning."""
        insert = self._client.statement(INSERT_HEAD)
        values = [(epoch, *account, *head, head.version) for account, head in heads.items()]
        for start in range(0, len(values), BATCH_PARTITIONS):
            yield _batch(insert, values[start : start + BATCH_PARTITIONS])

    def close(self) -> None:
        """See Target."""
        self._client.close()


def _batch(insert: Any, values: Sequence[Sequence[Any]]) -> tuple[Any, Any]:
    """A statement and its values; an unlogged batch if there are several."""
    if len(values) == 1:
        return insert, values[0]
    batch = BatchStatement(BatchType.UNLOGGED)
    for one in values:
        batch.add(insert, one)
    return batch, None


def _parts(rows: list[Row]) -> Iterator[list[Row]]:
    """The rows in parts of few bytes."""
    part: list[Row] = []
    size = 0
    for row in rows:
        size += ROW_BYTES + len(row.key)
        if part and size > BATCH_BYTES:
            yield part
            part, size = [], ROW_BYTES + len(row.key)
        part.append(row)
    yield part


class CassandraStore:
    """Reads what a CassandraTarget wrote."""

    head = Head

    def __init__(self, address: Address) -> None:
        self._client = _Client(address)
        self.name = address.name

    def open(self) -> Published | None:
        """See Store."""
        self.close()
        with self._client.faults():
            self._client.connect().set_keyspace(self._client.address.keyspace)
            return self._client.find_position()

    def rows(self, epoch: int, spans: Sequence[Span]) -> list[list[Row]]:
        """See Store."""
        with self._client.faults():
            select = self._client.statement(LIST_ROWS)
            requests = [
                (number, (epoch, *span.account, bucket, span.first, span.last))
                for number, span in enumerate(spans)
                for bucket in buckets_of(span.first, span.last)
            ]
            found_rows: list[list[Row]] = [[] for _ in spans]
            results = self._client.run((select, values) for _, values in requests)
            for (number, _), result in zip(requests, results, strict=True):
                found_rows[number] += map(Row._make, result)
            return found_rows

    def heads(self, epoch: int, accounts: Sequence[Account]) -> list[Head | None]:
        """See Store."""
        with self._client.faults():
            select = self._client.statement(FIND_HEAD)
            results = self._client.run((select, (epoch, *account)) for account in accounts)
            return [next((Head._make(row) for row in result), None) for result in results]

    def places(self, epoch: int) -> Iterator[Place]:
        """See Store."""
        with self._client.faults():
            for of_epoch, ledger, account, bucket in self._client.connect().execute(
                LIST_PARTITIONS
            ):
                if of_epoch == epoch:
                    yield Place(Account(ledger, account), bucket * BUCKET_VERSIONS)
            for of_epoch, ledger, account in self._client.connect().execute(LIST_HEADS):
                if of_epoch == epoch:
                    yield Place(Account(ledger, account), 0)

    def close(self) -> None:
        """See Store."""
        self._client.close()


def target_of(url: str) -> CassandraTarget:
    """The target of a URL. Raises ConfigurationError."""
    return CassandraTarget(address_of(url))


def store_of(url: str) -> CassandraStore:
    """The store of a URL. Raises ConfigurationError."""
    return CassandraStore(address_of(url))
