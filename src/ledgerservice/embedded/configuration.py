"""What the embedded PostgreSQL is told: what the ledger relies on, and what suits the machine."""

import os
import shutil
from contextlib import suppress
from pathlib import Path

SUPERUSER = "postgres"
PORT = 5432  # Only a part of the socket's name: TCP is off.
SOCKET_NAME = f".s.PGSQL.{PORT}"

MEMORY_LIMITS = (  # cgroup 2, then 1
    Path("/sys/fs/cgroup/memory.max"),
    Path("/sys/fs/cgroup/memory/memory.limit_in_bytes"),
)
BUFFERS_MB = (128, 8192)
LOG_MB = (1024, 16384)

# What the ledger relies on goes on the command line, where no file can change it.
FIXED_SETTINGS = {
    "port": str(PORT),
    "listen_addresses": "",
    "unix_socket_permissions": "0700",
    "fsync": "on",
    "full_page_writes": "on",
    # Containers often have a /dev/shm of 64 MB, too small for parallel queries.
    "dynamic_shared_memory_type": "mmap",
    # Its owner bounds the log, and needs it on standard error for that.
    "log_destination": "stderr",
    "logging_collector": "off",
}

CONFIGURATION = """
# Chosen for the ledger. Change what you like; it applies when the service next starts.
max_connections = 100
shared_buffers = {buffers_mb}MB
max_wal_size = {log_mb}MB
# With a million accounts, pglz took a fifth of the transfers a second.
wal_compression = off
timezone = 'UTC'
log_timezone = 'UTC'
"""


def configuration(data: Path) -> str:
    """A quarter of the memory, or of the container's, for buffers; an eighth of the free disk, at
    most, for the log between two checkpoints. With ten million accounts they are worth a third.
    """
    memory = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    for limit in MEMORY_LIMITS:
        with suppress(OSError, ValueError):  # not there, or "max"
            memory.append(int(limit.read_text()))
    return CONFIGURATION.format(
        buffers_mb=_within(min(memory) // 4 // 2**20, BUFFERS_MB),
        log_mb=_within(shutil.disk_usage(data).free // 8 // 2**20, LOG_MB),
    )


def _within(value: int, bounds: tuple[int, int]) -> int:
    return max(bounds[0], min(value, bounds[1]))


def initdb_options(major: int) -> list[str]:
    """Only the socket's folder guards the login. Text sorts by code point, on every machine."""
    options = [
        f"--username={SUPERUSER}",
        "--auth-local=trust",
        "--auth-host=reject",
        "--data-checksums",
        "--encoding=UTF8",
        "--locale=C",
    ]
    if major >= 17:
        options += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"]
    return options
