"""Events and entries in Kafka, each there exactly once for consumers with read_committed.

PREFIX.entries       an entry a record, by `epoch:ledger:account`: ordered along an account
PREFIX.transactions  an event a record, by `epoch:ledger`: ordered along a ledger
PREFIX.positions     compacted: how far the target is, written in the transaction of the events

The transactional id is that of the prefix, so whoever opens the target fences all before it.
"""

from collections.abc import Sequence
from contextlib import suppress

import msgspec
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, OffsetSpec  # type: ignore[attr-defined]

from ledgerservice.domain.events import Event
from ledgerservice.domain.records import entry_record
from ledgerservice.feed.kafka import (
    COMMIT_S,
    LOOK_S,
    OPEN_S,
    Address,
    Remarks,
    aborted,
    address_of,
    make_topics,
    patiently,
    produce,
    text_of,
    transactional,
)
from ledgerservice.feed.targets import Published, TargetFault

LAST_OFFSETS = 1_000  # at the end of the positions, among which the last one almost always is
FOR_EVER = {"retention.ms": "-1"}
COMPACTED = {
    "cleanup.policy": "compact",
    "segment.bytes": str(2**20),
    "segment.ms": "3600000",
    "min.cleanable.dirty.ratio": "0.1",
}


def target_of(url: str) -> "KafkaTarget":
    """The target of a URL. Raises ConfigurationError."""
    return KafkaTarget(address_of(url))


class KafkaTarget:
    """The topics of a prefix."""

    rows = 2_000

    def __init__(self, address: Address) -> None:
        self.name = address.name
        self._address = address
        self._entries = f"{address.prefix}.entries"
        self._transactions = f"{address.prefix}.transactions"
        self._positions = f"{address.prefix}.positions"
        self._remarks = Remarks()
        self._producer: Producer | None = None

    def open(self) -> Published | None:
        """Fence what was open before; the position that was committed last. Raises TargetFault."""
        self.close()
        events = (self._entries, self._transactions)
        topics = {**dict.fromkeys(events, FOR_EVER), self._positions: COMPACTED}
        publisher = f"{self._address.prefix}.publisher"
        try:
            make_topics(self._address, self._remarks, topics)
            self._producer = transactional(self._address, self._remarks, publisher)
            return self._last_position()
        except KafkaException as error:
            raise self._fault(error) from error

    def write(self, events: Sequence[Event], published: Published) -> None:
        """Write all in one transaction. Raises TargetFault; then nothing is there, unless the
        commit was not answered: then the next `open` finds it.
        """
        if self._producer is None:
            raise TargetFault("Kafka is not connected.")
        try:
            self._write(self._producer, events, published)
        except KafkaException as error:
            if not aborted(self._producer):
                self._producer = None
            raise self._fault(error) from error

    def _write(self, producer: Producer, events: Sequence[Event], published: Published) -> None:
        producer.poll(0)
        producer.begin_transaction()
        for event in events:
            self._add(producer, published.epoch, event)
        position = {"key": self._address.prefix, "value": msgspec.json.encode(published)}
        produce(producer, self._positions, partition=0, **position)
        producer.commit_transaction(COMMIT_S)

    def _add(self, producer: Producer, epoch: int, event: Event) -> None:
        key = f"{epoch}:{event.ledger_id}"
        produce(producer, self._transactions, key=key, value=event.body)
        for line in event.lines:
            value = entry_record(epoch, event.ledger, line)
            produce(producer, self._entries, key=f"{key}:{line.account_id}", value=value)

    def close(self) -> None:
        """Drop the producer. What it had not committed is aborted by the next `open`."""
        producer, self._producer = self._producer, None
        if producer is not None:
            with suppress(KafkaException):
                producer.purge()

    def _fault(self, error: KafkaException) -> TargetFault:
        return TargetFault(f"{self.name}: {text_of(error, self._remarks)}.")

    # The last position. Transactions of the same id are over when init_transactions returns.

    def _last_position(self) -> Published | None:
        positions: list[Published | None] = []
        end = 0

        def look() -> None:
            nonlocal end
            first, end = self._offsets()
            positions.extend(self._read(max(first, end - LAST_OFFSETS), end))
            if not positions and first < end - LAST_OFFSETS:
                positions.extend(self._read(first, end))

        patiently(look, OPEN_S)
        return positions[-1] if positions else None

    def _offsets(self) -> tuple[int, int]:
        """The first offset of the positions, and the one after the last, committed or not."""
        admin = AdminClient(self._address.client(self._remarks))
        partition = TopicPartition(self._positions, 0)
        first, end = (
            admin.list_offsets({partition: spec}, request_timeout=LOOK_S)[partition].result(LOOK_S)
            for spec in (OffsetSpec.earliest(), OffsetSpec.latest())  # type: ignore[no-untyped-call]
        )
        return first.offset, end.offset

    def _read(self, start: int, end: int) -> list[Published | None]:
        """The committed positions between two offsets; None for a deleted one."""
        reader = Consumer(
            self._address.client(
                self._remarks,
                group_id=f"{self._address.prefix}.publisher",
                isolation_level="read_committed",
                enable_auto_commit=False,
                enable_partition_eof=True,
            )
        )
        try:
            reader.assign([TopicPartition(self._positions, 0, start)])
            return _read_to(reader, end)
        finally:
            reader.close()


def _read_to(reader: Consumer, end: int) -> list[Published | None]:
    positions: list[Published | None] = []
    while True:
        message = reader.poll(LOOK_S)
        if message is None:
            raise KafkaException(KafkaError(KafkaError._TIMED_OUT))  # noqa: SLF001
        error = message.error()
        if error is None:
            value = message.value()
            positions.append(msgspec.json.decode(value, type=Published) if value else None)
        elif error.code() != KafkaError._PARTITION_EOF:  # noqa: SLF001
            raise KafkaException(error)
        elif (message.offset() or 0) >= end:
            return positions
