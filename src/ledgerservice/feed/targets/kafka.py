"""Events and entries in Kafka, each there exactly once for consumers with read_committed.

PREFIX.entries       an entry a record, by `epoch:ledger:account`: ordered along an account
PREFIX.transactions  an event a record, by `epoch:ledger`: ordered along a ledger
PREFIX.positions     compacted: how far the target is, written in the transaction of the events

The transactional id is that of the prefix, so whoever opens the target fences all before it.
"""

from collections.abc import Sequence
from contextlib import suppress

import msgspec
from confluent_kafka import KafkaException, Producer

from ledgerservice.domain.events import Event
from ledgerservice.domain.records import entry_record
from ledgerservice.feed.kafka import (
    COMMIT_S,
    Address,
    Remarks,
    aborted,
    address_of,
    make_topics,
    produce,
    text_of,
    transactional,
)
from ledgerservice.feed.targets import Published, TargetFault
from ledgerservice.feed.targets.kafka_topics import last_position, store_of

__all__ = ["KafkaTarget", "store_of", "target_of"]

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
            return last_position(self._address, self._remarks)
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
