"""What both ways to Kafka share: addresses, topics, transactional producers, and faults as texts.

confluent-kafka blocks, so its methods are called in a thread of their own.
"""

import logging
import re
import time
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from confluent_kafka import KafkaError, KafkaException, Producer
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from ledgerservice.errors import ConfigurationError
from ledgerservice.feed.urls import number, url_of

log = logging.getLogger(__name__)

FORM = "kafka://HOST:PORT,HOST:PORT/PREFIX?option=value"
DEFAULT_PREFIX = "ledger"
PORT = 9092
PARTITIONS, REPLICATION = 6, -1  # of a topic that is made; -1: as the broker's settings say
LOOK_S = 5.0  # for topics and offsets
OPEN_S = 20.0  # for a coordinator that is loading
COMMIT_S = 8.0
ABORT_S = 2.0
TRANSACTION_S = 15  # after it, the broker aborts the transaction of a process that is gone

FIXED_OPTIONS = {
    "bootstrap.servers",
    "default.topic.config",
    "enable.auto.commit",
    "enable.auto.offset.store",
    "enable.idempotence",
    "enable.partition.eof",
    "error_cb",
    "group.id",
    "group.protocol",
    "isolation.level",
    "logger",
    "oauth_cb",
    "on_commit",
    "on_delivery",
    "partition.assignment.strategy",
    "sasl.password",
    "sasl.username",
    "stats_cb",
    "throttle_cb",
    "transactional.id",
}
"""The options on which exactly once depends, that stand elsewhere in the URL, or that are Python's
objects.
"""
_is_prefix = re.compile(r"[A-Za-z0-9._-]{1,200}", re.ASCII).fullmatch
_MAKERS: dict[str, int] = {"partitions": PARTITIONS, "replication": REPLICATION}


class Address(NamedTuple):
    """A cluster, the prefix of topics in it, and how to connect."""

    servers: str
    prefix: str
    options: Mapping[str, str | int]
    partitions: int
    replication: int

    @property
    def name(self) -> str:
        """The URL without user, password and options."""
        return f"kafka://{self.servers}/{self.prefix}"

    def client(self, remarks: "Remarks", **more: str | float) -> dict[str, Any]:
        """The settings of a client; of a name in `more` the underscores are dots."""
        return {
            "bootstrap.servers": self.servers,
            "socket.connection.setup.timeout.ms": 5_000,
            "reconnect.backoff.max.ms": 1_000,
            "log_level": 0,  # The causes come through `remarks`.
            "error_cb": remarks,
            **self.options,
            **{name.replace("_", "."): value for name, value in more.items()},
        }


def address_of(url: str) -> Address:
    """The address in `kafka://user:password@host:port,host2:port/PREFIX?option=value`.

    Options are librdkafka's, besides `partitions` and `replication` of topics that are made. Raises
    ConfigurationError.
    """
    parts = url_of(url, FORM)
    prefix, options = parts.path or DEFAULT_PREFIX, parts.options
    if parts.scheme != "kafka":
        raise ConfigurationError(f"The URL is not {FORM}.")
    if not _is_prefix(prefix):
        raise ConfigurationError("A prefix of kafka:// has 1 to 200 letters, digits, . _ and -")
    refused = options.keys() & FIXED_OPTIONS
    if refused:
        raise ConfigurationError(f"Kafka's option {min(refused)} cannot be set.")
    numbers = {name: _number(name, options.pop(name, "")) for name in _MAKERS}
    servers = ",".join(host.text(PORT) for host in parts.hosts)
    address = Address(servers, prefix, {**_login_of(parts.login), **options}, **numbers)
    try:
        AdminClient(address.client(Remarks()))
    except KafkaException as error:
        raise ConfigurationError(f"{address.name}: {text_of(error)}") from None
    return address


def _login_of(login: tuple[str, str] | None) -> dict[str, str | int]:
    """With a user, passwords are sent over TLS only, unless an option says otherwise."""
    if login is None:
        return {}
    names = dict(zip(("sasl.username", "sasl.password"), login, strict=True))
    return {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN", **names}


def _number(name: str, text: str) -> int:
    return number(f"Kafka's option {name}", text, 1, 10_000) if text else _MAKERS[name]


class Remarks:
    """The last remark of a client in the background: why a call of it times out."""

    def __init__(self) -> None:
        self.last = ""

    def __call__(self, error: KafkaError) -> None:
        """Keep it; that all servers are away says less than why one is."""
        if error.code() != KafkaError._ALL_BROKERS_DOWN or not self.last:  # noqa: SLF001
            self.last = error.str()


def text_of(error: BaseException, remarks: Remarks | None = None) -> str:
    """A fault of the library in one line, with the client's remark if it timed out."""
    fault = error.args[0] if error.args else error
    text = fault.str() if isinstance(fault, KafkaError) else str(fault)
    if remarks is not None and remarks.last and remarks.last not in text:
        text = f"{text} ({remarks.last})"
    return " ".join(text.split())


def make_topics(address: Address, remarks: Remarks, topics: Mapping[str, dict[str, str]]) -> None:
    """Make those of `topics` that are missing, with these settings. Raises KafkaException."""
    admin = AdminClient(address.client(remarks))
    try:
        there = admin.list_topics(timeout=LOOK_S).topics
    finally:
        admin.poll(0)  # for the remarks
    new = [
        NewTopic(name, _partitions(address, settings), address.replication, config=settings)
        for name, settings in topics.items()
        if name not in there
    ]
    for future in admin.create_topics(new, request_timeout=LOOK_S).values() if new else ():
        try:
            future.result(LOOK_S)
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise


def _partitions(address: Address, settings: Mapping[str, str]) -> int:
    return 1 if settings.get("cleanup.policy") == "compact" else address.partitions


def transactional(address: Address, remarks: Remarks, transactional_id: str) -> Producer:
    """A producer whose transactions are initialised: an older one of its id is fenced.

    Raises KafkaException.
    """
    producer = Producer(
        address.client(
            remarks,
            transactional_id=transactional_id,
            transaction_timeout_ms=TRANSACTION_S * 1_000,
            **_producing(address),
        )
    )
    patiently(lambda: producer.init_transactions(LOOK_S), OPEN_S)
    return producer


def _producing(address: Address) -> dict[str, str | int]:
    """Java's clients assign keys to partitions in the same way."""
    settings: dict[str, str | int] = {
        "message.timeout.ms": round(COMMIT_S * 1_000),
        "compression.type": "lz4",
        "linger.ms": 5,
        "partitioner": "murmur2_random",
        "queue.buffering.max.messages": 200_000,
    }
    return {name: value for name, value in settings.items() if name not in address.options}


def patiently(call: Callable[[], None], limit_s: float) -> None:
    """Repeat a call while its fault is one that passes, such as a coordinator that is loading."""
    end_s = time.monotonic() + limit_s
    while True:
        try:
            return call()
        except KafkaException as error:
            if not _passes(error.args[0]) or time.monotonic() > end_s:
                raise
        time.sleep(0.1)


def _passes(error: KafkaError) -> bool:
    return error.retriable() or error.code() in _PASSING


_PASSING = {
    KafkaError.LEADER_NOT_AVAILABLE,
    KafkaError.NOT_LEADER_FOR_PARTITION,
    KafkaError.UNKNOWN_TOPIC_OR_PART,
}
"""Answers about a topic that has just been made; the library does not call them retriable."""


def produce(producer: Producer, topic: str, **record: Any) -> None:
    """Queue a record; wait while the queue is full. Raises KafkaException."""
    end_s = time.monotonic() + COMMIT_S
    while True:
        try:
            return producer.produce(topic, **record)
        except BufferError:
            if time.monotonic() > end_s:
                raise KafkaException(KafkaError(KafkaError._TIMED_OUT)) from None  # noqa: SLF001
        producer.poll(0.05)


def aborted(producer: Producer) -> bool:
    """Abort the transaction; False if the producer cannot be used again."""
    try:
        producer.abort_transaction(ABORT_S)
    except KafkaException:
        return False
    return True
