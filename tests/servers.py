"""The PostgreSQL servers of every supported major version that this machine has.

15 is Debian's package, as distributions install it, with JIT. 16 and 18 come from wheels, and 18 is
the one that the service embeds.
"""

import os
import shutil
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path

import psycopg
import pytest

from ledgerservice.embedded.server import EmbeddedServer
from tests.databases import quick_place, reachable_folder

DEBIAN = Path("/usr/lib/postgresql")
WHEEL_OF_16 = "pgserver"
EMBEDDED = 18

HOW_TO_HAVE = {
    15: "apt-get install postgresql-15",
    16: f"pip install {WHEEL_OF_16} (Python 3.12 or older)",
}
"""The other supported versions that can be had, and how."""


def is_here(major: int) -> bool:
    """Whether this machine has the programs of a major version."""
    if major == EMBEDDED:
        return True
    debian = (DEBIAN / str(major) / "bin" / "postgres").exists()
    return debian or (major == 16 and find_spec(WHEEL_OF_16) is not None)


MAJORS = [
    pytest.param(
        major,
        marks=(
            pytest.mark.skipif(not is_here(major), reason=HOW_TO_HAVE.get(major, "")),
            *((pytest.mark.thorough,) if major != EMBEDDED else ()),
        ),
        id=f"on {major}",
    )
    for major in (*HOW_TO_HAVE, EMBEDDED)
]
"""Every version, as the values of a parameter; one that is missing is skipped with the reason.

`make test` takes the embedded one, `make test-all` all.
"""


def binaries(major: int, folder: Path) -> Path | None:
    """The folder of a version's programs; None: those that are embedded.

    A wheel is copied below `folder`: root's PostgreSQL runs as a user who may not reach it.
    """
    if major == EMBEDDED:
        return None
    if (DEBIAN / str(major)).exists():
        return DEBIAN / str(major) / "bin"
    spec = find_spec(WHEEL_OF_16)
    assert spec is not None and spec.origin is not None
    for part in Path(spec.origin).parent.parent.glob(f"{WHEEL_OF_16}*"):
        shutil.copytree(part, folder / part.name)
    return folder / WHEEL_OF_16 / "pginstall" / "bin"


# Each worker has servers of several versions beside those that tests start. With buffers for the
# whole machine and gigabytes of log in memory, the kernel killed one of them.
# It vacuums each of many databases rarely.
SMALL = (
    "ALTER SYSTEM SET shared_buffers = '256MB'",
    "ALTER SYSTEM SET max_wal_size = '256MB'",
    "ALTER SYSTEM SET autovacuum_naptime = '10min'",
)


@contextmanager
def running_server(major: int = EMBEDDED) -> Iterator[EmbeddedServer]:
    """A server of a version, on data in memory if there is enough of it."""
    with reachable_folder(quick_place()) as folder:
        programs = binaries(major, folder)
        with (
            EmbeddedServer(folder / "data", programs) as new,
            psycopg.connect(new.url, autocommit=True) as owner,
        ):
            for setting in SMALL:
                owner.execute(setting)
        with EmbeddedServer(folder / "data", programs) as server:
            yield server
            # At once: nobody needs what it would still write.
            postmaster = (folder / "data" / "postgres" / "postmaster.pid").read_text().split()[0]
            os.kill(int(postmaster), signal.SIGQUIT)
