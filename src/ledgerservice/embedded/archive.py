"""The archive of an embedded server: base backups and its write-ahead log.

PostgreSQL's programs make it. The folder contains `base/`, whose members are named by the time when
they were complete, and `wal/`, to which pg_receivewal writes the log while it is written. Any time
after the first base backup can be restored. An incremental one belongs to the one before it.
"""

import logging
import os
import shlex
import shutil
import signal
import subprocess
import time
from datetime import UTC, datetime
from pathlib import Path

from ledgerservice.embedded.data import append
from ledgerservice.embedded.programs import Programs, reason
from ledgerservice.errors import ArchiveError, EmbeddedServerError

log = logging.getLogger(__name__)

STEADY_S, GIVE_UP_S = 5.0, 60.0
FULL, INCREMENTAL = "full", "incremental"
SLOT = "ledgerservice_archive"
TIME_FORMAT = "%Y%m%dT%H%M%S.%fZ"
# Without the summaries there is no incremental backup. The slot keeps what has not been received
# yet; the bound is for an archive that does not come back, so that the disk does not fill up.
SETTINGS = {"summarize_wal": "on", "max_slot_wal_keep_size": "16GB"}


class ServerArchive:
    """The archive in a folder. `programs` are those of the server, run as its user."""

    def __init__(self, folder: Path, programs: Programs) -> None:
        self._programs = programs
        self.folder = Path(os.path.realpath(folder))
        self.base, self.wal = self.folder / "base", self.folder / "wal"

    def make(self) -> None:
        """Make the folders, if they are missing, for PostgreSQL's user alone."""
        for folder in (self.folder, self.base, self.wal):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._give(folder)

    def bases(self) -> list[Path]:
        """The complete base backups, the oldest first."""
        if not self.base.is_dir():
            return []
        return sorted(path for path in self.base.iterdir() if path.suffix != ".new")

    def chain(self, until: datetime | None) -> list[Path]:
        """The base backups that a restore begins with: a full one, and what it is continued by.

        Raises ArchiveError if none is as old as `until`.
        """
        usable = [path for path in self.bases() if until is None or completed_at(path) <= until]
        full = [place for place, path in enumerate(usable) if path.name.endswith(FULL)]
        if not full:
            when = f" that is older than {until.isoformat()}" if until else ""
            raise ArchiveError(f"{self.folder} has no full base backup{when}.")
        return usable[full[-1] :]

    def open_slot(self, url: str) -> None:
        """Let the server keep what is not received yet, from now on. Raises ArchiveError."""
        self._run([*self._receivewal(url), "--create-slot", "--if-not-exists"])

    def receive(self, url: str) -> "subprocess.Popen[bytes]":
        """Start to receive the write-ahead log, from where the last run ended."""
        return self._programs.launch([*self._receivewal(url), "--synchronous", "--no-loop"])

    def _receivewal(self, url: str) -> list[str]:
        folder = os.fspath(self.wal)
        return ["pg_receivewal", "-D", folder, "--slot", SLOT, "-d", url, "--no-password"]

    def add_base(self, url: str, kind: str) -> Path:
        """Make a base backup of a `kind`, and check it. Raises ArchiveError."""
        new = self.base / f"{kind}.new"
        self._remove(new)
        command = ["pg_basebackup", "-D", os.fspath(new), "-d", url, "--checkpoint=fast"]
        command += ["--manifest-checksums=SHA256", "--no-password"]
        if kind == INCREMENTAL:
            if not (bases := self.bases()):
                raise ArchiveError(f"{self.folder} has no base backup yet. Add a full one.")
            command.append(f"--incremental={bases[-1] / 'backup_manifest'}")
        self._run(command)
        self.verify_base(new)
        complete = self.base / f"{datetime.now(UTC).strftime(TIME_FORMAT)}-{kind}"
        new.rename(complete)
        return complete

    def verify_base(self, base: Path) -> None:
        """Check every file of a base backup by its manifest. Raises ArchiveError."""
        self._run(["pg_verifybackup", "--quiet", os.fspath(base)])

    def combine(self, chain: list[Path], data: Path) -> None:
        """Make the data of a server from a chain of base backups. Raises ArchiveError."""
        self._run(["pg_combinebackup", "-o", os.fspath(data), *map(os.fspath, chain)])

    def restore(self, until: datetime | None, data: Path) -> None:
        """Make the data of a server that recovers from this archive when it starts.

        `until` is the time up to which it recovers, None: as far as the archive goes. Raises
        ArchiveError.
        """
        for base in (chain := self.chain(until)):
            self.verify_base(base)
        self.combine(chain, data)
        lines = [f"{name} = {_quoted(value)}" for name, value in self.recovery(until).items()]
        append(data / "postgresql.auto.conf", "\n".join(lines) + "\n")
        signal_file = data / "recovery.signal"
        signal_file.touch(mode=0o600)
        self._give(signal_file)

    def _give(self, path: Path) -> None:
        if self._programs.account is not None:
            os.chown(path, self._programs.account.uid, self._programs.account.gid)

    def recovery(self, until: datetime | None) -> dict[str, str]:
        """The settings of a server that recovers from this archive, up to a time or the end."""
        # A percent sign has a meaning there. What is received last is in a file that is not full.
        path = shlex.quote(os.fspath(self.wal)).replace("%", "%%")
        settings = {
            "restore_command": f"(cp {path}/%f %p || cp {path}/%f.partial %p) 2>/dev/null",
            # The server is ready when it has recovered, not before.
            "hot_standby": "off",
            "recovery_target_action": "promote",
            "recovery_target_timeline": "latest",
        }
        if until is not None:
            settings["recovery_target_time"] = until.isoformat()
        return settings

    def _run(self, command: list[str]) -> None:
        try:
            self._programs.run(command, self.folder)
        except EmbeddedServerError as fault:
            raise ArchiveError(fault.detail or str(fault)) from fault

    def _remove(self, leftover: Path) -> None:
        """Remove what a base backup left that was ended."""
        if leftover.exists():
            shutil.rmtree(leftover)


def completed_at(base: Path) -> datetime:
    """When a base backup was complete, by its name."""
    return datetime.strptime(base.name.partition("-")[0], TIME_FORMAT).replace(tzinfo=UTC)


def _quoted(value: str) -> str:
    """A value as configuration files have it."""
    return "'" + value.replace("\\", "\\\\").replace("'", "''") + "'"


class Receiver:
    """pg_receivewal, which is started again when its connection ends, as with the server."""

    def __init__(self, archive: ServerArchive, url: str) -> None:
        """Start it. Raises ArchiveError."""
        archive.open_slot(url)
        self._archive, self._url = archive, url
        self._failing_since_s: float | None = None
        self._start()

    def _start(self) -> None:
        self._started_s = time.monotonic()
        self._process = self._archive.receive(self._url)

    def check(self) -> None:
        """Start it again if it has ended. Raises ArchiveError if it does not get on."""
        if self._process.poll() is None:
            return
        now_s = time.monotonic()
        output = self._process.communicate()[0].decode(errors="replace").splitlines()
        cause = reason(self._process, output, self._archive.folder)
        if self._failing_since_s is None or now_s - self._started_s > STEADY_S:
            self._failing_since_s = now_s
            log.warning("connecting again to the server: %s", cause)
        if now_s - self._failing_since_s > GIVE_UP_S:
            raise ArchiveError(cause)
        self._start()

    def stop(self) -> None:
        """End it; what it has received is on the disk."""
        self._process.send_signal(signal.SIGINT)
        self._process.communicate()
