"""The topics of a prefix, as a consumer with read_committed gets them."""

import json
from collections.abc import Iterator
from decimal import Decimal
from typing import Any

from confluent_kafka import Consumer, KafkaError, Message, TopicPartition

from tests.engines.servers import Kafka
from tests.engines.stores import Balance, EntryRow, State, Store


def records(
    kafka: Kafka, topic: str, isolation: str = "read_committed", limit_s: float = 30
) -> list[Message]:
    """All records of a topic, partition by partition; [] if there is no such topic."""
    reader = Consumer(
        {
            "bootstrap.servers": kafka.address,
            "group.id": "unused",
            "isolation.level": isolation,
            "enable.auto.commit": False,
            "enable.partition.eof": True,
            "fetch.wait.max.ms": 10,  # else each partition's end takes half a second
        }
    )
    try:
        described = reader.list_topics(topic, timeout=limit_s).topics[topic]
        return [one for n in sorted(described.partitions) for one in _read(reader, topic, n)]
    finally:
        reader.close()


def _read(reader: Consumer, topic: str, partition: int) -> Iterator[Message]:
    reader.assign([TopicPartition(topic, partition, 0)])
    while True:
        message = reader.poll(30)
        assert message is not None, f"{topic} does not answer"
        error = message.error()
        if error is None:
            yield message
        elif error.code() == KafkaError._PARTITION_EOF:
            return
        else:
            raise AssertionError(error.str())


def _minor(amount: str, places: int) -> int:
    return int(Decimal(amount).scaleb(places))


class KafkaStore(Store):
    """Entries in the order of their offsets; a balance is that of an account's last record."""

    engine: Kafka

    def __init__(self, engine: Kafka, prefix: str) -> None:
        self.engine = engine
        self.prefix = prefix
        self.url = f"kafka://{engine.address}/{prefix}?partitions=3&replication=1"

    def records(self, topic: str, isolation: str = "read_committed") -> list[Message]:
        return records(self.engine, f"{self.prefix}.{topic}", isolation)

    def state(self, epoch: int = 1) -> State:
        entries = [_entry(record) for record in self.records("entries") if _is_of(record, epoch)]
        balances = {e[:2]: Balance(e.version, e.balance, e.held) for e in entries}
        return State(entries, balances)

    def forget_position(self) -> None:
        """By deleting all topics: the events would be there twice otherwise."""
        names = [f"{self.prefix}.{topic}" for topic in ("entries", "transactions", "positions")]
        admin = self.engine.admin()
        there = admin.list_topics(timeout=10).topics
        for future in admin.delete_topics([name for name in names if name in there]).values():
            future.result(30)


def _is_of(record: Message, epoch: int) -> bool:
    key = record.key()
    assert isinstance(key, bytes)
    return key.startswith(b"%d:" % epoch)


def _entry(record: Message) -> EntryRow:
    key, value = record.key(), record.value()
    assert isinstance(key, bytes) and value is not None
    body: dict[str, Any] = json.loads(value)
    epoch, ledger, account = key.decode().split(":")
    assert (int(epoch), int(account)) == (body["epoch"], body["account_id"])
    _, _, decimals = body["amount"].partition(".")
    names = ("amount", "held_change", "balance", "held")
    amounts = [_minor(body[name], len(decimals)) for name in names]
    place = int(ledger), int(account), body["account_version"], body["transaction_id"]
    return EntryRow(*place, *amounts)
