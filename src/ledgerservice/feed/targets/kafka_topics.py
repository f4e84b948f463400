"""What was published to Kafka, as a consumer with read_committed gets it.

For the comparison the entries of an epoch are copied to a temporary file, because they are compared
in another order than that of the topic. A record takes about 150 bytes there.
"""

import sqlite3
import tempfile
import threading
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from decimal import Decimal
from pathlib import Path

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from ledgerservice.domain.instructions import Kind, Origin
from ledgerservice.domain.records import Record
from ledgerservice.domain.timestamps import microseconds, parse_timestamp
from ledgerservice.feed.kafka import (
    LOOK_S,
    OPEN_S,
    Address,
    Remarks,
    address_of,
    patiently,
    text_of,
)
from ledgerservice.feed.stores import Account, Head, Place, Row, Span
from ledgerservice.feed.targets import Published, TargetFault

LAST_OFFSETS = 1_000  # at the end of the positions, among which the last one almost always is
RECORDS_AT_ONCE = 5_000
END_WAIT_MS = 10  # of a fetch at the end of a topic, which takes 500 ms otherwise

# `place` is the order in which a reader gets the records of an account, which are of one partition.
TABLE = """
CREATE TABLE records (
    ledger_id INTEGER, account_id INTEGER, version INTEGER, place INTEGER PRIMARY KEY, row BLOB)
"""
INDEX = "CREATE INDEX by_account ON records (ledger_id, account_id, version)"
ADD = "INSERT INTO records (ledger_id, account_id, version, row) VALUES (?, ?, ?, ?)"
FIND = """
SELECT row FROM records
WHERE ledger_id = ? AND account_id = ? AND version BETWEEN ? AND ? ORDER BY place
"""
LAST = "SELECT ledger_id, account_id, max(version) FROM records GROUP BY 1, 2 ORDER BY 1, 2"


# Reading a topic to its end.


def last_position(address: Address, remarks: Remarks) -> Published | None:
    """The last position that was committed; None if there is none. Raises KafkaException."""
    positions: list[Published | None] = []
    topic = f"{address.prefix}.positions"

    def look() -> None:
        first, end = _offsets(address, remarks, topic, 0)
        positions.extend(_positions(address, remarks, topic, max(first, end - LAST_OFFSETS), end))
        if not positions and first < end - LAST_OFFSETS:
            positions.extend(_positions(address, remarks, topic, first, end))

    patiently(look, OPEN_S)
    return positions[-1] if positions else None


def _offsets(address: Address, remarks: Remarks, topic: str, number: int) -> tuple[int, int]:
    """The first offset of a partition, and the one after the last, committed or not."""
    admin = AdminClient(address.client(remarks))
    partition = TopicPartition(topic, number)
    first, end = (
        admin.list_offsets({partition: spec}, request_timeout=LOOK_S)[partition].result(LOOK_S)
        for spec in (OffsetSpec.earliest(), OffsetSpec.latest())  # type: ignore[no-untyped-call]
    )
    return first.offset, end.offset


def _positions(
    address: Address, remarks: Remarks, topic: str, start: int, end: int
) -> Iterator[Published | None]:
    """The committed positions between two offsets; None for a deleted one."""
    with _reader(address, remarks) as reader:
        for messages in _read(reader, TopicPartition(topic, 0, start), end):
            for value in (message.value() for message in messages):
                yield msgspec.json.decode(value, type=Published) if value else None


@contextmanager
def _reader(address: Address, remarks: Remarks) -> Iterator[Consumer]:
    settings = address.client(
        remarks,
        group_id=f"{address.prefix}.publisher",
        isolation_level="read_committed",
        enable_auto_commit=False,
        enable_partition_eof=True,
        fetch_wait_max_ms=END_WAIT_MS,
    )
    reader = Consumer(settings)
    try:
        yield reader
    finally:
        reader.close()


def _read(
    reader: Consumer, start: TopicPartition, end: int, wait_s: float = LOOK_S
) -> Iterator[list[Message]]:
    """The committed messages of a partition from an offset on, in parts.

    It ends when all transactions before the offset `end` are over and were read. Nothing may come
    for `wait_s`.
    """
    reader.assign([start])
    while True:
        messages = reader.consume(1, wait_s)
        if not messages:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001
        messages += reader.consume(RECORDS_AT_ONCE, 0)
        yield [message for message in messages if message.error() is None]
        for message in messages:
            error = message.error()
            if error is None:
                continue
            if error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
                raise KafkaException(error)
            if (message.offset() or 0) >= end:
                return


# The store.


class KafkaStore:
    """The entries of a prefix."""

    head = Head

    def __init__(self, address: Address) -> None:
        self.name = address.name
        self._address = address
        self._remarks = Remarks()
        self._closed = threading.Event()
        self._lock = threading.Lock()
        self._folder: tempfile.TemporaryDirectory[str] | None = None
        self._file: sqlite3.Connection | None = None

    def open(self) -> Published | None:
        """See Store. All entries of the epoch are read here."""
        with self._faults():
            if not self._partitions("positions"):
                return None
            published = last_position(self._address, self._remarks)
            if published is not None:
                self._copy(published.epoch)
            return published

    def _partitions(self, name: str) -> list[int]:
        """The partitions of a topic; none if there is no such topic."""
        topic = f"{self._address.prefix}.{name}"
        admin = AdminClient(self._address.client(self._remarks))
        described = admin.list_topics(timeout=LOOK_S).topics.get(topic)
        return sorted(described.partitions) if described else []

    def _copy(self, epoch: int) -> None:
        """Copy the entries of an epoch to a file."""
        self._folder = tempfile.TemporaryDirectory(prefix="ledger-compare-")
        file = sqlite3.connect(Path(self._folder.name, "records"), check_same_thread=False)
        self._file = file
        file.execute("PRAGMA journal_mode = OFF")
        file.execute("PRAGMA synchronous = OFF")
        file.execute(TABLE)
        with _reader(self._address, self._remarks) as reader:
            topic = f"{self._address.prefix}.entries"
            for number in self._partitions("entries"):
                first, end = _offsets(self._address, self._remarks, topic, number)
                start = TopicPartition(topic, number, first)
                for messages in _read(reader, start, end, OPEN_S):
                    if self._closed.is_set():
                        raise TargetFault(f"{self.name}: the comparison was ended.")
                    file.executemany(ADD, _rows_of(epoch, messages))
        file.execute(INDEX)

    def rows(self, epoch: int, spans: Sequence[Span]) -> list[list[Row]]:  # noqa: ARG002
        """See Store."""
        with self._faults(), self._lock:
            assert self._file is not None
            found_rows = []
            for account, first, last in spans:
                blobs = self._file.execute(FIND, (*account, first, last))
                found_rows.append([Row(*_decode(blob)) for (blob,) in blobs])
            return found_rows

    def heads(self, epoch: int, accounts: Sequence[Account]) -> list[Head | None] | None:  # noqa: ARG002
        """See Store: there are none."""
        return None

    def places(self, epoch: int) -> Iterator[Place]:  # noqa: ARG002
        """See Store."""
        with self._faults(), self._lock:
            assert self._file is not None
            for ledger, account, version in self._file.execute(LAST):
                yield Place(Account(ledger, account), version)

    def close(self) -> None:
        """See Store."""
        self._closed.set()
        with suppress(sqlite3.Error, OSError):
            if self._file is not None:
                self._file.close()
            if self._folder is not None:
                self._folder.cleanup()

    @contextmanager
    def _faults(self) -> Iterator[None]:
        try:
            yield
        except KafkaException as error:
            fault = f"{self.name}: {text_of(error, self._remarks)}."
            raise TargetFault(fault) from error
        except sqlite3.Error as error:
            raise TargetFault(f"The copy of {self.name} cannot be used: {error}.") from error


_encode = msgspec.msgpack.Encoder().encode
_decode = msgspec.msgpack.Decoder().decode
_decode_record = msgspec.json.Decoder(Record).decode


def _rows_of(epoch: int, messages: Iterable[Message]) -> Iterator[tuple[int, int, int, bytes]]:
    """The rows of the messages of an epoch, by ledger, account and version.

    Raises TargetFault for a message that no publisher has written.
    """
    for message in messages:
        try:
            number, *account = map(int, _bytes(message.key()).split(b":"))
            if number == epoch:
                row = _row_of(epoch, Account(*account), _bytes(message.value()))
                yield *account, row.version, _encode(row)  # type: ignore[misc]
        except (ValueError, TypeError, KeyError, ArithmeticError, msgspec.MsgspecError):
            place = f"partition {message.partition()}, offset {message.offset()}"
            raise TargetFault(f"The record at {place} is not an entry of a ledger.") from None


def _bytes(value: str | bytes | None) -> bytes:
    return value.encode() if isinstance(value, str) else value or b""


def _row_of(epoch: int, account: Account, value: bytes) -> Row:
    """The row of a record. It has no valid checksum if the bytes are not the publisher's."""
    record = _decode_record(value)
    exponent = len(record.amount.partition(".")[2])
    amount, held_change, balance, held = (
        int(Decimal(text).scaleb(exponent))
        for text in (record.amount, record.held_change, record.balance, record.held)
    )
    row = Row(
        record.account_version,
        record.transaction_id,
        int(Kind[record.transaction_type]),
        amount,
        held_change,
        balance,
        held,
        record.currency,
        exponent,
        record.idempotency_key,
        int(Origin[record.origin.upper()]),
        microseconds(parse_timestamp(record.recorded_at)),
    )
    place = record.epoch, record.account_id
    is_whole = place == (epoch, account.account_id) and msgspec.json.encode(record) == value
    return row.sealed(epoch, account) if is_whole else row


def store_of(url: str) -> KafkaStore:
    """The store of a URL. Raises ConfigurationError."""
    return KafkaStore(address_of(url))
