"""What the read models count on, seen on each real server, and again after a SIGKILL.

A newer version wins over an older one that comes later; Kafka fences an older producer. At last
each server loses its data.
"""

import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from cassandra import InvalidRequest
from confluent_kafka import Consumer, KafkaError, KafkaException, Producer

from tests.engines.process import Engine
from tests.engines.servers import Cassandra, Dynalite, Kafka, Valkey
from tests.processes import ROOT, wait_for

pytestmark = pytest.mark.processes

ONE_COPY = "{'class': 'SimpleStrategy', 'replication_factor': 1}"
SET_IF_NEWER = """
local stored = redis.call('HGET', KEYS[1], 'version')
if stored and tonumber(stored) >= tonumber(ARGV[1]) then
    return 0
end
redis.call('HSET', KEYS[1], 'version', ARGV[1], 'balance', ARGV[2])
return 1
"""


def producer(kafka: Kafka, transactional_id: str) -> Producer:
    """A producer whose transactions are initialised; tried again while the broker is loading."""
    made = Producer(
        {
            "bootstrap.servers": kafka.address,
            "transactional.id": transactional_id,
            "transaction.timeout.ms": 30_000,
        }
    )
    assert wait_for(lambda: is_initialised(made), limit_s=60)
    return made


def is_initialised(of: Producer) -> bool:
    try:
        of.init_transactions(10)
    except KafkaException as error:
        if error.args[0].retriable():
            return False
        raise
    return True


def produce(to: Producer, topic: str, value: str) -> None:
    to.begin_transaction()
    to.produce(topic, key="1:1001", value=value)
    to.commit_transaction(30)


def committed(kafka: Kafka, topic: str) -> list[str]:
    """All values of the topic's only partition that a consumer with read_committed gets."""
    reader = Consumer(
        {
            "bootstrap.servers": kafka.address,
            "group.id": "unused",
            "isolation.level": "read_committed",
            "enable.auto.commit": False,
            "auto.offset.reset": "earliest",
            "enable.partition.eof": True,
        }
    )
    reader.subscribe([topic])
    values: list[str] = []
    while (message := reader.poll(30)) is not None:
        error = message.error()
        if error is None:
            values.append(message.value().decode())
        elif error.code() == KafkaError._PARTITION_EOF:
            break
    reader.close()
    return values


@pytest.mark.thorough
def test_kafka_commits_and_fences(kafka: Kafka, own_name: str) -> None:
    kafka.create(own_name)
    older = producer(kafka, own_name)
    produce(older, own_name, "first")
    older.begin_transaction()
    older.produce(own_name, key="1:1001", value="never committed")
    older.flush(10)
    newer = producer(kafka, own_name)
    produce(newer, own_name, "second")
    with pytest.raises(KafkaException) as caught:
        older.commit_transaction(30)
    assert caught.value.args[0].code() == KafkaError._FENCED
    assert committed(kafka, own_name) == ["first", "second"]
    restart(kafka)
    assert committed(kafka, own_name) == ["first", "second"]
    produce(producer(kafka, own_name), own_name, "third")
    assert committed(kafka, own_name) == ["first", "second", "third"]
    lose_data(kafka)
    assert own_name not in kafka.admin().list_topics(timeout=10).topics


def restart(engine: Engine) -> None:
    """After it, the process is another one on the same port."""
    before = engine.pid, engine.address
    engine.kill()
    assert not engine.is_up()
    engine.start()
    assert (engine.pid == before[0], engine.address) == (False, before[1])


def lose_data(engine: Engine) -> None:
    engine.lose_data()
    engine.start()


@pytest.mark.thorough
def test_cassandra_keeps_the_newest(cassandra: Cassandra, own_name: str) -> None:
    make_heads(cassandra, own_name)
    for balance, version in ((10, 1), (30, 3), (20, 2)):
        write_head(cassandra, own_name, balance, version)
    assert heads(cassandra, own_name) == [(30,)]
    restart(cassandra)
    assert heads(cassandra, own_name) == [(30,)]
    write_head(cassandra, own_name, 20, 2)
    assert heads(cassandra, own_name) == [(30,)]
    lose_data(cassandra)
    with pytest.raises(InvalidRequest, match="does not exist"):
        heads(cassandra, own_name)


def make_heads(cassandra: Cassandra, keyspace: str) -> None:
    with cassandra.session() as session:
        session.execute(f"CREATE KEYSPACE {keyspace} WITH replication = {ONE_COPY}")
        columns = "account bigint PRIMARY KEY, balance bigint"
        session.execute(f"CREATE TABLE {keyspace}.heads ({columns})")


def write_head(cassandra: Cassandra, keyspace: str, balance: int, version: int) -> None:
    with cassandra.session() as session:
        insert = f"INSERT INTO {keyspace}.heads (account, balance) VALUES (1001, ?)"
        session.execute(session.prepare(f"{insert} USING TIMESTAMP ?"), (balance, version))


def heads(cassandra: Cassandra, keyspace: str) -> list[Any]:
    with cassandra.session() as session:
        return session.execute(f"SELECT balance FROM {keyspace}.heads").all()


def test_valkey_keeps_the_newest(valkey: Valkey, own_name: str) -> None:
    with valkey.client() as client:
        set_if_newer: Callable[..., Any] = client.register_script(SET_IF_NEWER)
        written = [set_if_newer([own_name], version) for version in ((1, "10"), (3, "30"))]
        assert [*written, set_if_newer([own_name], (2, "20"))] == [1, 1, 0]
        assert client.hgetall(own_name) == {b"version": b"3", b"balance": b"30"}
        restart(valkey)
        assert client.hgetall(own_name) == {b"version": b"3", b"balance": b"30"}
        assert set_if_newer([own_name], (2, "20")) == 0
        lose_data(valkey)
        assert client.dbsize() == 0


def test_dynalite_keeps_the_newest(dynalite: Dynalite, own_name: str) -> None:
    client = dynalite.client()
    client.create_table(
        TableName=own_name,
        AttributeDefinitions=[{"AttributeName": "account", "AttributeType": "N"}],
        KeySchema=[{"AttributeName": "account", "KeyType": "HASH"}],
        BillingMode="PAY_PER_REQUEST",
    )
    written = [put_if_newer(client, own_name, *row) for row in ((10, 1), (30, 3), (20, 2))]
    assert written == [True, True, False]
    restart(dynalite)
    assert not put_if_newer(client, own_name, 20, 2)
    item = client.get_item(TableName=own_name, Key={"account": {"N": "1001"}})["Item"]
    assert item == {"account": {"N": "1001"}, "balance": {"N": "30"}, "version": {"N": "3"}}
    lose_data(dynalite)
    assert client.list_tables()["TableNames"] == []


def put_if_newer(client: Any, table: str, balance: int, version: int) -> bool:
    """Whether the head of the only account was written."""
    fields = {"account": 1001, "balance": balance, "version": version}
    try:
        client.put_item(
            TableName=table,
            Item={name: {"N": str(value)} for name, value in fields.items()},
            ConditionExpression="attribute_not_exists(account) OR version < :version",
            ExpressionAttributeValues={":version": {"N": str(version)}},
        )
    except client.exceptions.ConditionalCheckFailedException:
        return False
    return True


def test_a_paused_server_answers_after_it_is_resumed(valkey: Valkey) -> None:
    valkey.pause()
    assert not valkey.is_ready()
    valkey.resume()
    assert valkey.is_ready()


START = """
import pathlib, sys
from tests.engines.servers import Valkey
valkey = Valkey(pathlib.Path(sys.argv[1]))
valkey.start()
print(valkey.port, flush=True)
input()
"""


def test_a_server_ends_with_the_test_run_that_started_it(tmp_path: Path) -> None:
    command = [sys.executable, "-c", START, str(tmp_path)]
    pipe = subprocess.PIPE
    with subprocess.Popen(command, cwd=ROOT, stdin=pipe, stdout=pipe) as run:
        assert run.stdout is not None
        port = int(run.stdout.readline())
        assert is_open(port)
        run.kill()
    assert wait_for(lambda: not is_open(port))


def is_open(port: int) -> bool:
    try:
        socket.create_connection(("127.0.0.1", port), 5).close()
    except ConnectionRefusedError:
        return False
    return True
