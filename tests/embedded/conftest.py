import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from ledgerservice.embedded.server import EmbeddedServer
from tests.embedded.house import House


@pytest.fixture
def empty(workspace: Path) -> Iterator[House]:
    house = House(workspace / "data")
    yield house
    house.clear()


@pytest.fixture(scope="session")
def lived_in() -> Iterator[Path]:
    folder = Path(tempfile.mkdtemp(prefix="ledger-lived-in-", dir="/tmp"))
    folder.chmod(0o755)
    with EmbeddedServer(folder / "data"):
        pass
    yield folder / "data"
    shutil.rmtree(folder)


@pytest.fixture
def house(lived_in: Path) -> Iterator[House]:
    """A stopped database. It is the same one for all tests: to create it takes a second."""
    files = [lived_in / "postgres" / name for name in ("PG_VERSION", "postgresql.conf")]
    saved = {file: file.read_bytes() for file in files}
    house = House(lived_in)
    yield house
    house.clear()
    for file, content in saved.items():
        file.write_bytes(content)
