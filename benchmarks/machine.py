"""The machine on which the figures were measured."""

import os
import platform
import statistics
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import psycopg

SYNCS = 200
PAGE_BYTES = 8_192


def facts(folder: Path, url: str) -> Iterator[str]:
    """The machine, the versions, and the disk of `folder`, in one line each."""
    load = ", ".join(f"{average:.1f}" for average in os.getloadavg())
    yield f"{os.cpu_count()} cores ({_processor()}), load {load} before the start"
    yield f"{platform.system()} {platform.release()}, Python {platform.python_version()}"
    with psycopg.connect(url) as connection:
        version = connection.execute("SHOW server_version").fetchone()
        durable = connection.execute(DURABILITY).fetchall()
    settings = ", ".join(f"{name} {setting}" for name, setting in durable)
    yield f"PostgreSQL {version[0] if version else '?'} for both, with {settings}"
    yield f"the disk writes and syncs {PAGE_BYTES // 1024} kB in {_sync_ms(folder):.2f} ms"


DURABILITY = """
SELECT name, setting FROM pg_settings
WHERE name IN ('fsync', 'synchronous_commit', 'full_page_writes') ORDER BY name
"""


def _processor() -> str:
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.exists():
        for line in cpuinfo.read_text().splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    if platform.system() == "Darwin":
        command = ["sysctl", "-n", "machdep.cpu.brand_string"]
        return subprocess.run(command, capture_output=True, text=True, check=False).stdout.strip()
    return platform.machine()


def _sync_ms(folder: Path) -> float:
    """The median time to write and sync one page, for which every commit waits."""
    times_s = []
    descriptor = os.open(folder / "sync", os.O_WRONLY | os.O_CREAT)
    try:
        os.write(descriptor, bytes(PAGE_BYTES * SYNCS))
        os.fsync(descriptor)
        for place in range(SYNCS):
            began_s = time.perf_counter()
            os.pwrite(descriptor, os.urandom(PAGE_BYTES), place * PAGE_BYTES)
            getattr(os, "fdatasync", os.fsync)(descriptor)
            times_s.append(time.perf_counter() - began_s)
    finally:
        os.close(descriptor)
    return statistics.median(times_s) * 1e3
