"""Rounds: load under faults, heal, resolve, read, dump, judge."""

import os
import random
import shutil
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cache
from importlib.util import find_spec
from itertools import chain
from pathlib import Path

from sqlalchemy import create_engine
from sqlalchemy.pool import NullPool

from ledgerservice.postgres.urls import parse_url
from ledgerservice.postgres.verification import verify
from ledgerservice.postgres.verification.across import verify_across
from tests.proof import history, journal
from tests.proof.checker import DOUBLED, LOST, Report, Violation, check, together
from tests.proof.journal import Place, dump
from tests.proof.load import choices, clients
from tests.proof.parts import dump_parts, seen_by_part
from tests.proof.servers import faults, read_models
from tests.proof.servers.canaries import CANARIES
from tests.proof.servers.cluster import Broken, Disk, namespace
from tests.proof.servers.faults import Fault
from tests.proof.servers.setup import (
    CLOCK,
    DISK,
    EMBEDDED,
    FAKETIME,
    NAMESPACE,
    PROXY,
    READ_MODELS,
    SERVICES,
    SHARDS,
    STANDBY,
    Setup,
    original,
)

RESOLVE_LIMIT_S = 120.0
DUE_LIMIT_S = 30.0
OPEN_LIMIT_S = 15.0
"""In which what is open between parts when nothing is hurt any more is over."""
FUZZER = "fuzzer"  # a part that is only of the fault, not of the setup
UNSTEADY_NS = 50_000_000
CALM_S = 0.5  # of load before the first fault and after the last

PARTS: dict[Fault, set[str]] = {
    faults.kill_service: {SERVICES},
    faults.kill_embedded: {EMBEDDED},
    faults.kill_backend: set(),
    faults.kill_postmaster: set(),
    faults.stop_immediately: set(),
    faults.freeze_service: {SERVICES},
    faults.cut_connections: {PROXY},
    faults.slow_network: {PROXY},
    faults.silence: {PROXY},
    faults.lose_packets: {NAMESPACE},
    faults.fill_disk: {DISK},
    faults.hang_disk: {DISK},
    faults.cut_power: {DISK},
    faults.fail_over: {STANDBY},
    faults.take_connections: set(),
    faults.restart_in_turn: {SERVICES},
    faults.move_clocks: {CLOCK},
    faults.vanish: set(),
    faults.migrate: set(),
    faults.kill_publisher: {SERVICES, READ_MODELS},
    faults.fail_over_with_readers: {STANDBY, READ_MODELS},
    faults.be_hostile: {FUZZER},
    faults.move_ledgers: {SERVICES, PROXY, SHARDS},
    faults.hurt_shards: {SERVICES, PROXY, SHARDS},
}
CALLERS = (16, 32, 64)
CALLERS_OF_SEVERAL = (3, 6)
"""How many clients a ledger has, where there are several."""
MIXTURE = "mixture"
MIXED = [fault for fault, parts in PARTS.items() if parts <= {PROXY, DISK, SERVICES}]
FAULTS = {fault.__name__: fault for fault in PARTS}

OVERLAPPING = 0.25
"""The part of the rounds in which the batches overlap."""


@dataclass
class Result:
    """What a round did, and how it was judged.

    `verified` is what the service's own verifier says, or why something did not come back.
    """

    name: str
    times: Counter[str]
    report: Report = field(default_factory=Report)
    healed_s: float = 0.0
    ended_s: float = 0.0
    """In which what was open between parts at the end of the faults is over."""
    resolved_s: float = 0.0
    overlapped: int = 0  # batches
    knew: int = 0  # batches
    verified: list[str] = field(default_factory=list)

    @property
    def holds(self) -> bool:
        return not self.report.violations and not self.verified

    @property
    def lost(self) -> int:
        return self.report.count(*LOST)

    @property
    def doubled(self) -> int:
        return self.report.count(*DOUBLED)


@cache
def missing(part: str) -> str:
    """Why a part of a setup is not to be had here; empty if it is."""
    if part in (DISK, NAMESPACE) and os.geteuid() != 0:
        return "it needs root"
    if part == DISK:
        return _tried("mkfs.ext4, mount -o loop and fsfreeze", _try_disk)
    if part == NAMESPACE:
        return _tried("ip netns and iptables", _try_namespace)
    if part == FUZZER and find_spec("atheris") is None:
        return "atheris has no wheel for this Python"
    if part == READ_MODELS:
        return read_models.missing()
    if part == CLOCK and not Path(FAKETIME).exists():
        return "libfaketime is not installed"
    return ""


def _tried(what: str, trial: Callable[[], None]) -> str:
    try:
        trial()
    except (OSError, subprocess.CalledProcessError) as error:
        return f"{what} do not work here: {error}"
    return ""


def _try_disk() -> None:
    folder = Path(tempfile.mkdtemp(prefix="proof-trial-"))
    try:
        Disk(folder, 20).detach()
    finally:
        shutil.rmtree(folder)


def _try_namespace() -> None:
    with namespace() as (within, _):
        subprocess.run([*within, "iptables", "-L", "-n"], check=True, capture_output=True)


class Campaign:
    """Many rounds in one folder, from one seed."""

    def __init__(self, folder: Path, origin: Path, seed: int) -> None:
        self._folder = folder
        self._origin = origin
        self.seed = seed
        self._rounds = 0

    def canary(self, name: str, seconds: float) -> Result:
        """A round with something broken on purpose, twice more if by chance nothing came of it."""
        for _ in range(3):
            result = self.round(CANARIES[name].fault, seconds, canary=name)
            if not result.holds:
                break
        return result

    def round(
        self, name: str, seconds: float, canary: str = "", *, overlapping: bool | None = None
    ) -> Result:
        """One fault alone, or MIXTURE, for so many seconds. The folder is kept if it fails.

        `overlapping`: the load is plain movements, and the services' batches overlap; None: in
        every fourth round, by chance.
        """
        self._rounds += 1
        folder = self._folder / f"{self._rounds:03}-{name}"
        folder.mkdir(parents=True)
        folder.chmod(0o755)
        chance = random.Random(f"{self.seed}/{self._rounds}/{name}")
        result = Result(name, Counter())
        parts = {PROXY, DISK, SERVICES} if name == MIXTURE else PARTS[FAULTS[name]]
        if SHARDS in parts and not canary:
            parts = {*parts, READ_MODELS}
        parts = {part for part in parts if not missing(part)}
        try:
            seed = chance.randrange(2**32)
            overlaps = not canary and chance.random() < OVERLAPPING
            overlaps = overlaps if overlapping is None else overlapping
            with Setup(folder, self._origin, parts, seed, canary, overlapping=overlaps) as setup:
                self._live(setup, result, seconds, chance, only_plain=overlaps)
                result.overlapped, result.knew = setup.overlapped(), setup.knew()
        except Broken as error:
            result.verified.append(str(error))
        if result.holds or canary:
            shutil.rmtree(folder)
        return result

    def _live(
        self,
        setup: Setup,
        result: Result,
        seconds: float,
        chance: random.Random,
        *,
        only_plain: bool,
    ) -> None:
        clock = WallClock()
        setup.loads = loads(setup, chance, only_plain=only_plain)
        with clients.Clients(setup.loads):
            time.sleep(CALM_S)
            for fault, duration in schedule(result.name, seconds, chance):
                result.times[fault.__name__] += fault(setup, chance, duration)
            began_s = time.monotonic()
            setup.heal()
            healed_at_s = time.monotonic()
            result.healed_s = healed_at_s - began_s
            is_late = not setup.end_crossings(OPEN_LIMIT_S)
            result.ended_s = time.monotonic() - healed_at_s
            time.sleep(CALM_S)
        result.times.update(setup.times)
        for book in setup.books:
            result.resolved_s += clients.resolve(
                book, setup.services[0].base, RESOLVE_LIMIT_S, setup.signer or setup.keys[-1]
            )
        places = {book.name: setup.places_of(book) for book in setup.books}
        everywhere = list(chain.from_iterable(places.values()))
        wait_for_what_is_due(everywhere)
        for url in dict.fromkeys(place.url for place in everywhere):
            engine = create_engine(parse_url(url), poolclass=NullPool)
            result.verified += map(str, verify(engine))
        if engines := setup.engines():
            result.verified += map(str, verify_across(engines))
        result.verified += setup.faults()
        hostile = result.times[faults.be_hostile.__name__] > 0
        moved = result.times[faults.move_clocks.__name__] > 0 or not clock.is_steady()
        told = None if moved else clock
        reports = {}
        for book in setup.books:
            there = places[book.name]
            found = dump_parts(there, book.number) if book.parts else dump(*there)
            journal.save(found, book.seen.with_suffix(".json"))
            seen = history.read(book.seen)
            if book.parts:
                seen = list(seen_by_part(seen, len(book.parts)))
            reports[book.name] = check(seen, found, strangers=hostile, clock=told)
        result.report = together(reports)
        if is_late:
            late = Violation("ended_late", f"transfers between parts after {result.ended_s:.0f} s")
            result.report = result.report._replace(violations=[*result.report.violations, late])


def loads(setup: Setup, chance: random.Random, *, only_plain: bool) -> list[clients.Load]:
    """The load of each ledger, whose accounts are opened."""
    bases = [service.base for service in setup.services]
    callers = chance.choice(CALLERS if len(setup.books) == 1 else CALLERS_OF_SEVERAL)
    seed = chance.randrange(2**32)
    for book in setup.books:
        book.seen.mkdir()
        clients.fund(book, bases[0], setup.keys[0])
    by = setup.keys, setup.signer, setup.judges
    found = [
        clients.Load(book, bases, callers, seed + number, *by, only_plain=only_plain)
        for number, book in enumerate(setup.books)
    ]
    for load in found:
        load.judged_every_s *= len(found)
        load.signers = min(load.signers, callers)
    return found


class WallClock:
    """What the machine's clock shows at a time of the monotonic one, as long as nobody sets it."""

    def __init__(self) -> None:
        self._epoch_ns = self._find_epoch_ns()

    def __call__(self, ns: float) -> tuple[str, str]:
        first, last = (
            datetime.fromtimestamp((self._epoch_ns + ns + slack_ns) / 1e9, UTC)
            for slack_ns in (-UNSTEADY_NS, UNSTEADY_NS)
        )
        return history.moment(first), history.moment(last)

    def is_steady(self) -> bool:
        return abs(self._find_epoch_ns() - self._epoch_ns) < UNSTEADY_NS

    @staticmethod
    def _find_epoch_ns() -> int:
        return max(time.time_ns() - time.monotonic_ns() for _ in range(100))


def wait_for_what_is_due(places: Collection[Place]) -> None:
    """Let the service do what it has promised for moments that the load chose; not for ever."""
    time.sleep(choices.SOON_S[1])
    end_s = time.monotonic() + DUE_LIMIT_S
    while any(map(journal.due, places)) and time.monotonic() < end_s:
        time.sleep(0.2)


def schedule(name: str, seconds: float, chance: random.Random) -> Iterator[tuple[Fault, float]]:
    """The faults of a round, each with its seconds."""
    if name != MIXTURE:
        yield FAULTS[name], seconds
        return
    possible = [fault for fault in MIXED if not any(map(missing, PARTS[fault]))]
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        yield chance.choice(possible), chance.uniform(1.0, 3.0)


@contextmanager
def campaign(folder: Path, seed: int) -> Iterator[Campaign]:
    """A campaign whose rounds' clusters are copies of one that is made here."""
    with original(folder) as origin:
        yield Campaign(folder, origin, seed)


def possible(names: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """The faults that can be had here, and why the others cannot."""
    reasons = {
        name: "; ".join(filter(None, map(missing, sorted(PARTS[FAULTS[name]]))))
        for name in names
        if name != MIXTURE
    }
    skipped = {name: reason for name, reason in reasons.items() if reason}
    return [name for name in names if name not in skipped], skipped
