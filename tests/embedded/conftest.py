from collections.abc import Iterator
from pathlib import Path

import pytest

from ledgerservice.embedded.server import EmbeddedServer
from tests.databases import quick_place, reachable_folder
from tests.embedded.data_folder import DataFolder


@pytest.fixture
def empty(workspace: Path) -> Iterator[DataFolder]:
    home = DataFolder(workspace / "data")
    yield home
    home.clear()


@pytest.fixture(scope="session")
def lived_in() -> Iterator[Path]:
    with reachable_folder(quick_place()) as folder:
        with EmbeddedServer(folder / "data"):
            pass
        yield folder / "data"


@pytest.fixture
def home(lived_in: Path) -> Iterator[DataFolder]:
    """A stopped database. It is the same one for all tests: to create it takes a second."""
    files = [lived_in / "postgres" / name for name in ("PG_VERSION", "postgresql.conf")]
    saved = {file: file.read_bytes() for file in files}
    home = DataFolder(lived_in)
    yield home
    home.clear()
    for file, content in saved.items():
        file.write_bytes(content)
