"""`make proof-upgrade`: two releases serve one ledger, and its schema moves under them.

Clients move money all the time. The release before serves first; then this one migrates, takes the
place of one process, of all, gives way to the release before on the new schema, and takes over for
good. Both serve together under faults. The proof first shows that it fails when a revision takes a
column away that the release before writes, and when a migration keeps a table locked.
"""

import argparse
import math
import random
import secrets
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

from rich.console import Console
from rich.table import Table
from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from ledgerservice.postgres.urls import parse_url
from ledgerservice.postgres.verification import verify
from tests.processes import wait_for
from tests.proof import history, journal
from tests.proof.campaign import RESOLVE_LIMIT_S, wait_for_what_is_due
from tests.proof.checker import check
from tests.proof.history import Attempt
from tests.proof.journal import Place
from tests.proof.load import clients
from tests.proof.load.books import Book
from tests.proof.servers import faults
from tests.proof.servers.faults import Fault
from tests.proof.servers.releases import THIS, Release, release_before, released
from tests.proof.servers.setup import PROXY, SERVICES, Setup, original

CALLERS = 8
P99_LIMIT_S = 1.0
DRAIN_S, SETTLE_S = 2.0, 2.0
RETRIED = {"retry": "same_key"}
PATIENCE_S = 8.0
FAULTS: tuple[Fault, ...] = (faults.kill_service, faults.cut_connections, faults.kill_backend)
CANARIES = ("column_dropped", "table_locked")

console = Console(highlight=False, width=140)


class Step(NamedTuple):
    """A part of the upgrade: what was done, and between which times in ns."""

    name: str
    begun_ns: int
    ended_ns: int
    is_calm: bool


class Figures(NamedTuple):
    """How the requests of a step were answered. `refused` are answers with 503."""

    requests: int
    p99_s: float
    unanswered: int
    refused: int


class Upgrade:
    """One upgrade and back, with the load that runs meanwhile."""

    def __init__(self, setup: Setup, before: Release, seed: int) -> None:
        self._setup = setup
        self._before = before
        self._chance = random.Random(seed)
        self.steps: list[Step] = []

    @contextmanager
    def _step(self, name: str, *, is_calm: bool = True) -> Iterator[None]:
        # What was sent in a calm step is answered before the first fault, and the other way round.
        settle_s = 0.0 if is_calm else SETTLE_S
        time.sleep(settle_s)
        begun_ns = time.monotonic_ns()
        yield
        self.steps.append(Step(name, begun_ns, time.monotonic_ns(), is_calm))
        time.sleep(settle_s)

    def run(self, seconds: float) -> None:
        """Each step takes at least so long."""
        everyone = range(len(self._setup.services))
        self.migrate(seconds)
        with self._step("one process of this release"):
            self._replace(0, THIS)
            time.sleep(seconds)
        for fault in FAULTS:
            with self._step(f"both, {fault.__name__}", is_calm=False):
                fault(self._setup, self._chance, seconds)
                self._setup.heal()
        with self._step("all of this release"):
            for place in everyone[1:]:
                self._replace(place, THIS)
            time.sleep(seconds)
        with self._step("back to the release before"):
            for place in everyone:
                self._replace(place, self._before)
            time.sleep(seconds)
        with self._step("forward again"):
            for place in everyone:
                self._replace(place, THIS)
            time.sleep(seconds)

    def migrate(self, seconds: float, canary: str = "") -> None:
        """The release before serves, and this one moves the schema under it."""
        time.sleep(seconds)  # until it is warm
        with self._step("the release before"):
            time.sleep(seconds)
        program = ["tests.proof.servers.canaries", canary] if canary else ["ledgerservice"]
        with self._step("the schema moves"):
            environment = THIS.environment(self._setup.services[0].environment)
            command = THIS.command(*program, "migrate")
            subprocess.run(command, env=environment, cwd=THIS.root, check=True)
            time.sleep(seconds)

    def _replace(self, place: int, release: Release) -> None:
        """Start a process of another release in the place of one, as an operator does.

        The proxy in front sends no more requests to a process that is not ready.
        """
        service, [load] = self._setup.services[place], self._setup.loads
        service.begin_stop()
        wait_for(lambda: not service.ready(), DRAIN_S)
        load.bases = [base for base in load.bases if base != service.base]
        service.await_end()
        service.release = release
        service.start()
        load.bases = [*load.bases, service.base]


def run(
    folder: Path, origin: Path, before: Release, seed: int, seconds: float, canary: str = ""
) -> list[str]:
    """What is wrong after an upgrade; its figures are printed."""
    book = Book(folder / "history")
    book.seen.mkdir(parents=True)
    folder.chmod(0o755)
    # The release before may know no keys. Without one both are open to this machine.
    parts = {PROXY, SERVICES}
    with Setup(
        folder, origin, parts, seed, release=before, drain_s=DRAIN_S, has_keys=False
    ) as setup:
        clients.fund(book, setup.services[0].base)
        load = clients.Load(book, [one.base for one in setup.services], CALLERS, seed)
        load.patience_s = (PATIENCE_S,)
        setup.loads = [load]
        upgrade = Upgrade(setup, before, seed)
        with clients.Clients([load]):
            if canary:
                upgrade.migrate(seconds, canary)
            else:
                upgrade.run(seconds)
        if canary:
            # Of that schema nothing can be expected any more.
            return _wrong(upgrade.steps[-1:], history.read(book.seen))
        return [*_wrong(upgrade.steps, history.read(book.seen)), *_judge(setup, book)]


def _judge(setup: Setup, book: Book) -> list[str]:
    """What the checker and `verify` say at the end."""
    clients.resolve(book, setup.services[0].base, RESOLVE_LIMIT_S)
    place = Place(setup.postgres.url)
    wait_for_what_is_due([place])
    report = check(history.read(book.seen), journal.dump(place))
    console.print(f"{report.operations:,} operations: {dict(report.outcomes)}")
    engine = create_engine(parse_url(setup.postgres.url), poolclass=NullPool)
    return [f"{v.code}: {v.what}" for v in report.violations] + [str(v) for v in verify(engine)]


def _wrong(steps: Sequence[Step], attempts: Sequence[Attempt]) -> list[str]:
    """What `retry` does not cover, by step, and steps that were slow."""
    table = Table("step", "requests", "p99 ms", "unanswered", "503")
    wrong = []
    for step in steps:
        during = [a for a in attempts if step.begun_ns <= a.invoked_ns < step.ended_ns]
        figures = _figures(during)
        table.add_row(step.name, f"{figures.requests:,}", f"{figures.p99_s * 1e3:,.0f}",
                      str(figures.unanswered), str(figures.refused))  # fmt: skip
        wrong += [f"{step.name}: {one}" for one in _faults_of(step, figures, during)]
    console.print(table)
    return wrong


def _figures(attempts: Sequence[Attempt]) -> Figures:
    """Movements that one client sent at one time were one request."""
    sent = {(a.client, a.invoked_ns): a for a in attempts}
    times_ns = sorted(
        a.completed_ns - a.invoked_ns for a in sent.values() if a.completed_ns is not None
    )
    p99_s = times_ns[math.ceil(len(times_ns) * 0.99) - 1] / 1e9 if times_ns else math.inf
    refused = sum(a.status == 503 for a in sent.values())
    return Figures(len(sent), p99_s, len(sent) - len(times_ns), refused)


def _faults_of(step: Step, figures: Figures, attempts: Sequence[Attempt]) -> Iterator[str]:
    if step.is_calm and figures.p99_s >= P99_LIMIT_S:
        yield f"p99 is {figures.p99_s:.3f} s"
    for attempt in attempts:
        status = attempt.status or 0
        # The body of a dry run is not kept.
        is_retried = status == 503 and (attempt.body or RETRIED).get("retry") == "same_key"
        if status in {401, 403} or (status >= 500 and not is_retried):
            yield f"{attempt.request.kind} got {status}: {attempt.body}"
    if step.is_calm and figures.unanswered + figures.refused:
        yield f"{figures.unanswered} requests without an answer, and {figures.refused} with 503"


def main() -> None:
    """Run the proof."""
    parser = argparse.ArgumentParser(prog="python -m tests.proof.upgrade", description=__doc__)
    parser.add_argument("--base", default="", help="the release before, as a commit")
    parser.add_argument("--seconds", type=float, default=6.0, help="of each step")
    parser.add_argument("--seed", type=int, default=secrets.randbelow(10**9))
    options = parser.parse_args()
    base = options.base or release_before()
    console.print(f"seed {options.seed}; the release before is {base}")
    place = "/var/tmp" if Path("/var/tmp").is_dir() else None
    folder = Path(tempfile.mkdtemp(prefix="ledger-upgrade-", dir=place))
    folder.chmod(0o755)
    with released(base) as before, original(folder) as origin:
        arguments = origin, before, options.seed, options.seconds
        found_out = [run(folder / name, *arguments, canary=name) for name in CANARIES]
        for name, faults_found in zip(CANARIES, found_out, strict=True):
            said = f"found out: {faults_found[0]}" if faults_found else "[red]NOT FOUND OUT[/]"
            console.print(f"canary {name}: {said}", markup=not faults_found)
        wrong = run(folder / "upgrade", *arguments)
    for line in wrong[:20]:
        console.print(line, markup=False)
    if all(found_out) and not wrong:
        shutil.rmtree(folder)
        console.print("[bold green]The proof holds.[/]")
        return
    console.print(f"[bold red]FAILED[/]: what was seen is in {folder}")
    sys.exit(1)


if __name__ == "__main__":
    main()
