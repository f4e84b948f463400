"""What became of the last backups and drills, for the metrics of the processes that serve.

A command ends before anybody scrapes it, and a drill has no connection to the ledger. So each keeps
its result in a file of a folder, which the services read.
"""

import logging
import secrets
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import msgspec

from ledgerservice.telemetry import metrics

log = logging.getLogger(__name__)

BACKUP, DRILL, BASE, ARCHIVE_DRILL = KINDS = "backup", "drill", "base", "archive_drill"


class Result(msgspec.Struct):
    """The last run of a kind: whether it failed, when one last succeeded (seconds since 1970, 0 if
    none has), how long that took, and how much its archive lacked (None: it is of no archive).
    """

    failed: bool = False
    succeeded_at_s: float = 0.0
    duration_s: float = 0.0
    rpo_s: float | None = None


@contextmanager
def kept_result(folder: Path | None, kind: str) -> Iterator[Result]:
    """Keep what becomes of a run. Its times may be set meanwhile; by default it is measured."""
    begun_s, result = time.monotonic(), Result()
    try:
        yield result
    except BaseException:
        failed = _load(folder, kind) or Result()
        failed.failed = True
        _save(folder, kind, failed)
        raise
    result.duration_s = result.duration_s or time.monotonic() - begun_s
    result.succeeded_at_s = time.time()
    _save(folder, kind, result)


def _load(folder: Path | None, kind: str) -> Result | None:
    """The result in the folder; None if there is none that can be read."""
    if folder is not None:
        with suppress(OSError, msgspec.MsgspecError):
            return msgspec.json.decode((folder / f"{kind}.json").read_bytes(), type=Result)
    return None


def _save(folder: Path | None, kind: str, result: Result) -> None:
    """Write a file, completely or not at all. A backup does not fail because this does."""
    if folder is None:
        return
    part = folder / f".{kind}.{secrets.token_hex(4)}"
    try:
        folder.mkdir(exist_ok=True)
        # The service may be another user.
        folder.chmod(0o755)
        part.write_bytes(msgspec.json.encode(result))
        part.chmod(0o644)
        part.replace(folder / f"{kind}.json")
    except OSError as error:
        log.warning("the result is not kept for the metrics: %s", error)
    finally:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def show_results(folder: Path | None) -> None:
    """Let the metrics show the results in a folder."""
    results = {(kind,): result for kind in KINDS if (result := _load(folder, kind))}
    successes = {labels: one for labels, one in results.items() if one.succeeded_at_s}
    metrics.BACKUP_FAILED.values = {labels: one.failed for labels, one in results.items()}
    metrics.BACKUP_SUCCESS.values = {
        labels: one.succeeded_at_s for labels, one in successes.items()
    }
    metrics.BACKUP_DURATION.values = {labels: one.duration_s for labels, one in successes.items()}
    lacking = successes.get((ARCHIVE_DRILL,), Result()).rpo_s
    metrics.ARCHIVE_RPO.values = {} if lacking is None else {(): lacking}
