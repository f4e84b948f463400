"""Real connection poolers in front of the suite's server."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from sqlalchemy import URL

from tests.databases import reachable_folder
from tests.processes import free_port, wait_for

PGBOUNCER = """
[databases]
* = host={host} port=5432 user={user}
[pgbouncer]
listen_addr = 127.0.0.1
listen_port = {port}
unix_socket_dir =
auth_type = any
pool_mode = {mode}
ignore_startup_parameters = {ignored}
default_pool_size = 20
"""

PGPOOL = """
backend_clustering_mode = 'raw'
listen_addresses = '127.0.0.1'
port = {port}
pcp_port = {pcp}
unix_socket_directories = '{folder}'
pcp_socket_dir = '{folder}'
pid_file_name = '{folder}/pid'
logdir = '{folder}'
backend_hostname0 = '{host}'
backend_port0 = 5432
num_init_children = 20
connection_cache = on
load_balance_mode = off
enable_pool_hba = off
sr_check_user = ''
"""


@contextmanager
def pgbouncer(server: URL, mode: str, ignored: str) -> Iterator[URL]:
    """PgBouncer in a pool mode, which ignores some parameters of new connections."""
    values = {"mode": mode, "ignored": ignored, "user": server.username}
    with _pooler(server, "pgbouncer", PGBOUNCER, ["-q"], values) as url:
        yield url


@contextmanager
def pgpool(server: URL) -> Iterator[URL]:
    """Pgpool-II, whose sessions are those of one client at a time, with its options."""
    with _pooler(server, "pgpool", PGPOOL, ["-n", "-f"], {"pcp": free_port()}) as url:
        yield url


@contextmanager
def _pooler(
    server: URL, program: str, configuration: str, options: list[str], values: Mapping[str, object]
) -> Iterator[URL]:
    """A pooler that runs as the user of the server, whose socket only that one reaches."""
    host, port = str(server.query["host"]), free_port()
    with reachable_folder() as folder:
        owner = Path(host).stat().st_uid
        file = folder / "pooler.conf"
        file.write_text(configuration.format(host=host, port=port, folder=folder, **values))
        os.chown(folder, owner, -1)
        user = owner if os.geteuid() == 0 else None
        command = [str(shutil.which(program)), *options, str(file)]
        with (folder / "log").open("wb") as log:
            process = subprocess.Popen(command, stdout=log, stderr=log, user=user, cwd="/")
        try:
            assert wait_for(lambda: _accepts(port)), (folder / "log").read_text()
            yield server.set(host="127.0.0.1", port=port, query={})
        finally:
            process.terminate()
            process.wait(30)


def _accepts(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0
