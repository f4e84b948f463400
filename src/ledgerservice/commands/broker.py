"""The topics of commands: batches are read from one, and answered in others by one transaction.

The methods block. Those of a source run in one thread, those of a sink in another.
"""

from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Any, NamedTuple, Self

from confluent_kafka import Consumer, KafkaError, KafkaException, Message, TopicPartition

from ledgerservice.errors import LedgerError
from ledgerservice.feed.kafka import (
    COMMIT_S,
    Address,
    Remarks,
    aborted,
    produce,
    transactional,
)

COMMANDS_AT_ONCE = 8_000
BYTES_AT_ONCE = 8 * 2**20
PIECE = 2_000
WAIT_S = 0.2  # for the first command of a batch
LARGEST_BYTES = 64 * 2**20  # of a dead letter, which has further headers

Headers = list[tuple[str, bytes]]


class KafkaFault(LedgerError):
    """Kafka does not take the results; the commands are read again."""


class Topics(NamedTuple):
    """The topics of a prefix."""

    commands: str
    results: str
    dead: str

    @classmethod
    def of(cls, prefix: str) -> Self:
        """The names."""
        return cls(*(f"{prefix}.{name}" for name in cls._fields))


class Command(NamedTuple):
    """A record of the topic."""

    key: bytes | None
    value: bytes | None
    headers: Headers
    partition: int
    offset: int


class Result(NamedTuple):
    """What becomes of a command: `value` for its sender; `is_dead`, if nothing is recorded."""

    value: bytes
    code: str
    is_dead: bool


class Batch(NamedTuple):
    """Commands as they were read, and on which membership of the group: `group` and `term`."""

    commands: list[Command]
    group: object
    term: int


class Source:
    """A member of the group that reads the commands of a prefix."""

    def __init__(self, address: Address, remarks: Remarks) -> None:
        self.term = 0
        """Rises when partitions are taken away: what was read before is another member's."""
        self._topic = Topics.of(address.prefix).commands
        self._kept: list[Message] = []
        self._is_resting = False
        # A cooperative strategy would leave partitions here whose commands were dropped.
        settings = address.client(
            remarks,
            group_id=self._topic,
            group_protocol="classic",
            partition_assignment_strategy="range",
            isolation_level="read_committed",
            enable_auto_commit=False,
            auto_offset_reset="earliest",
        )
        bounds = {"queued.max.messages.kbytes": 16_384, "session.timeout.ms": 10_000}
        self._consumer = Consumer({**bounds, **settings})
        lost = self._revoked
        self._consumer.subscribe([self._topic], on_revoke=lost, on_lost=lost)

    def read(self) -> Batch:
        """The next commands: those that are there, or that come in WAIT_S. Raises KafkaException.

        Their number and size are bounded.
        """
        if self._is_resting:
            self._is_resting = False
            self._consumer.resume(self._consumer.assignment())
        messages = self._consume(1, WAIT_S)
        messages, self._kept = [*self._kept, *messages], []
        term, size = self.term, sum(map(len, messages))
        while messages and len(messages) < COMMANDS_AT_ONCE and size < BYTES_AT_ONCE:
            piece = self._consume(PIECE, 0)
            if self.term != term:  # What came before is another member's, or is read again.
                term, messages, size = self.term, [], 0
            size += sum(map(len, piece))
            messages += piece
            if not piece:
                break
        group = self._consumer.consumer_group_metadata() if messages else None
        return Batch(list(map(_command, messages)), group, term)

    def rest(self) -> None:
        """Take part in the group, but fetch nothing until the next `read`."""
        self._is_resting = True
        self._consumer.pause(self._consumer.assignment())
        self._kept += self._consume(1, 0)

    def close(self) -> None:
        """Leave the group."""
        with suppress(KafkaException, RuntimeError):
            self._consumer.close()

    def _consume(self, number: int, wait_s: float) -> list[Message]:
        messages = self._consumer.consume(number, wait_s)
        for message in messages:
            error = message.error()
            if error is not None and not error.retriable() and error.code() not in _PASSING:
                raise KafkaException(error)
        return [message for message in messages if message.error() is None]

    def _revoked(self, *_: object) -> None:
        self.term += 1
        self._kept.clear()


_PASSING = {KafkaError._TRANSPORT, KafkaError._ALL_BROKERS_DOWN, KafkaError._RESOLVE}  # noqa: SLF001


def _command(message: Message) -> Command:
    key, value, headers = message.key(), message.value(), message.headers()
    partition, offset = message.partition(), message.offset()
    assert partition is not None
    assert offset is not None
    pairs = [(name, _bytes(text) or b"") for name, text in _pairs(headers)] if headers else []
    return Command(_bytes(key), _bytes(value), pairs, partition, offset)


def _pairs(headers: Any) -> Iterable[tuple[str, str | bytes | None]]:
    return headers or ()


def _bytes(value: str | bytes | None) -> bytes | None:
    return value.encode() if isinstance(value, str) else value


class Sink:
    """The results and the dead letters of a prefix."""

    def __init__(self, address: Address, remarks: Remarks, instance: str) -> None:
        self._topics = Topics.of(address.prefix)
        sized = {**address.options, "message.max.bytes": LARGEST_BYTES}
        transactional_id = f"{address.prefix}.commands.{instance}"
        self._producer = transactional(address._replace(options=sized), remarks, transactional_id)

    def write(self, batch: Batch, results: Sequence[Result]) -> None:
        """Write the results and the consumer's offsets in one transaction.

        Raises KafkaException: then nothing is there, or all of it if the answer was lost. A member
        that the group has dismissed is refused.
        """
        self._producer.poll(0)
        self._producer.begin_transaction()
        try:
            for command, result in zip(batch.commands, results, strict=True):
                self._add(command, result)
            offsets = _offsets(self._topics.commands, batch.commands)
            self._producer.send_offsets_to_transaction(offsets, batch.group, COMMIT_S)
            self._producer.commit_transaction(COMMIT_S)
        except KafkaException:
            aborted(self._producer)
            raise

    def _add(self, command: Command, result: Result) -> None:
        place = b"%d:%d" % (command.partition, command.offset)
        code = result.code.encode()
        headers: Headers = [("code", code), ("command", place)]
        topics = self._topics
        produce(
            self._producer, topics.results, value=result.value, key=command.key, headers=headers
        )
        if result.is_dead:
            added = [*command.headers, ("reason", code), ("command", place)]
            letter = {"value": command.value, "key": command.key, "headers": added}
            produce(self._producer, topics.dead, **letter)


def _offsets(topic: str, commands: Sequence[Command]) -> list[TopicPartition]:
    last = {command.partition: command.offset for command in commands}
    return [TopicPartition(topic, partition, offset + 1) for partition, offset in last.items()]
