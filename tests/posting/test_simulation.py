"""Group commit on virtual time, with a database that fails at random, by a seed.

Everything runs in one event loop, so a seed repeats itself: `pytest -k "simulation and [123]"`.
`LEDGER_SIMULATIONS` says how many seeds; `LEDGER_SIMULATION_SEED` where they begin.
"""

import asyncio
import json
import os
import random
from collections.abc import Coroutine, Iterator
from contextlib import suppress
from types import SimpleNamespace, coroutine
from typing import Any

import looptime
import pytest
import tenacity

from ledgerservice.api.http.problems import problem
from ledgerservice.api.movements import answers as rendering
from ledgerservice.domain.instructions import Group, Kind, Movement
from ledgerservice.domain.transactions import Failed, Outcome, Recorded
from ledgerservice.errors import Overloaded, Unavailable
from ledgerservice.postgres import journal, locking
from ledgerservice.posting import known, overlapping
from ledgerservice.posting.known import KnownAccounts
from ledgerservice.posting.overlapping import OverlappingPoster
from ledgerservice.posting.poster import Limits, Poster
from tests.posting import simulated
from tests.posting.simulated import Database, Faults
from tests.proof.checker import check
from tests.proof.history import Attempt, Request
from tests.proof.judging.evidence import UNKNOWN, major, outcome

SEEDS = int(os.environ.get("LEDGER_SIMULATIONS", "100"))
FIRST_SEED = int(os.environ.get("LEDGER_SIMULATION_SEED", "0"))
A_TEST = 100  # seeds

ACCOUNTS = 4
LIMITS = Limits(queue_requests=40, batch_requests=20, deadline_s=5.0)
KINDS = {"deposit": Kind.DEPOSIT, "withdraw": Kind.WITHDRAWAL, "transfer": Kind.TRANSFER}
HEALTHY = Faults()


class VirtualLoop(looptime.LoopTimeEventLoop, asyncio.SelectorEventLoop):
    """Time passes only when everybody waits for it."""


def run(work: Coroutine[Any, Any, None], seed: str) -> None:
    """Run `work` on virtual time, with all chance from `seed`."""

    def make() -> asyncio.AbstractEventLoop:
        return VirtualLoop(start=0, end=3_000, noop_cycles=2)

    random.seed(seed)  # tenacity's waits
    with asyncio.Runner(loop_factory=make) as runner, pytest.MonkeyPatch.context() as patch:
        clock = SimpleNamespace(monotonic=runner.get_loop().time)
        patch.setattr(tenacity, "time", clock)
        # So that the batches of a few clients are large, and overlap; or small, on known accounts.
        large = random.Random(seed).choice([2, 2, 8])
        patch.setattr(journal, "COPY_FROM_TRANSACTIONS", large)
        patch.setattr(overlapping, "BATCHES_UNDER_LOCKS", 2)
        patch.setattr(known, "BATCHES_UNDER_LOCKS", 2)
        runner.run(work)


class Simulation:
    """Clients of one or two posters, which share a database that fails."""

    def __init__(self, seed: str) -> None:
        self.chance = random.Random(seed)
        self.database = Database(ACCOUNTS, seed)
        self.attempts: list[Attempt] = []
        self.posters: list[Poster[Group, Any]] = []
        self.busy = False
        """New movements come one after another: their batches overlap."""
        self._asked: list[Request] = []

    def poster(self, kind: type[OverlappingPoster] = OverlappingPoster) -> Poster[Group, Any]:
        connect: Any = self.database.connect
        made = kind(connect, LIMITS)
        self.posters.append(made)
        return made

    async def fund(self) -> None:
        """Give every account money, so that most movements are posted."""
        for account in range(1, ACCOUNTS + 1):
            request = Request("deposit", account, None, 100_000, f"funds {account}")
            await self.ask(self.posters[0], [request])

    async def client(self, number: int, requests: int) -> None:
        for count in range(requests):
            await asyncio.sleep(self.chance.expovariate(100.0 if self.busy else 2.0))
            wanted = [
                self.request(f"c{number}-{count}.{n}")
                for n in range(self.chance.choice([1, 1, 1, 2, 5]))
            ]
            await self.ask(self.chance.choice(self.posters), wanted, self.chance.random() < 0.2)

    def request(self, key: str) -> Request:
        if self._asked and self.chance.random() < (0.01 if self.busy else 0.2):
            asked = self.chance.choice(self._asked)
            more = int(self.chance.random() < 0.3)
            return Request(asked.kind, asked.account, asked.other, asked.amount + more, asked.key)
        account, other = self.chance.sample(range(1, ACCOUNTS + 1), 2)
        kind = self.chance.choice(list(KINDS))
        counterparty = other if kind == "transfer" else None
        request = Request(kind, account, counterparty, self.chance.randint(1, 99), key)
        self._asked.append(request)
        return request

    async def ask(
        self, poster: Poster[Group, Any], requests: list[Request], linked: bool = False
    ) -> None:
        """Post, and note what a client of the service would have seen."""
        began = now_ns()
        group = len(self.attempts) if linked else None
        attempts = [Attempt("client", began, request, group=group) for request in requests]
        self.attempts += attempts
        movements = [
            Movement(KINDS[r.kind], r.account, r.other, major(r.amount), r.key) for r in requests
        ]
        try:
            outcomes = await poster.post(Group(movements, linked))
        except Overloaded:
            told = [problem("overloaded")] * len(attempts)
        except Unavailable:
            told = [problem("unavailable")] * len(attempts)
        else:
            if isinstance(outcomes, Failed):
                told = [problem("batch_failed")] * len(attempts)
            else:
                told = list(map(_told, outcomes))
                for attempt, found in zip(attempts, outcomes, strict=True):
                    attempt.replayed = isinstance(found, Recorded) and found.replayed
        ended = now_ns()
        assert ended - began <= (LIMITS.deadline_s + 0.001) * 1e9, "answered past the deadline"
        for attempt, (status, body, *_) in zip(attempts, told, strict=True):
            attempt.completed_ns, attempt.status, attempt.body = ended, status, json.loads(body)

    async def settle(self) -> None:
        """Heal, ask again for what is unknown, and judge."""
        self.database.faults = HEALTHY
        for poster in self.posters:
            await poster.close()
        while self.database.sessions:  # what is in doubt is decided
            await asyncio.wait(self.database.sessions)
        last = self.poster()
        for request in self.unknown():
            await self.ask(last, [request])
        await last.close()
        report = check(self.attempts, self.database.dump())
        assert report.violations == []

    def unknown(self) -> set[Request]:
        known = {a.request for a in self.attempts if outcome(a) != UNKNOWN}
        return {a.request for a in self.attempts} - known


def now_ns() -> int:
    return round(asyncio.get_running_loop().time() * 1e9)


def _told(found: Outcome) -> tuple[int, bytes, dict[str, str]]:
    if isinstance(found, Recorded):
        return *rendering.answer(found.transaction), {}
    return problem(found.reason.value)


async def storm(seed: str) -> None:
    """Clients, faults, an end."""
    simulation = Simulation(seed)
    chance = simulation.chance
    for _ in range(chance.choice([1, 2])):
        simulation.poster()
    rate = chance.choice([0.0, 0.02, 0.1, 0.3])
    simulation.database.faults = Faults(
        refused=rate * chance.random(),
        failing=rate * chance.random(),
        slow=chance.choice([0.0, 0.1, 0.3]),
        cut=rate * chance.random(),
        never=rate * 0.1 * chance.random(),
        commit=rate,
    )
    async with asyncio.TaskGroup() as group:
        if chance.random() < 0.5:
            simulation.busy = True
            await simulation.fund()
        for number in range(chance.randint(1, 12)):
            group.create_task(simulation.client(number, chance.randint(1, 8)))
    await simulation.settle()


FIRST_SEEDS = range(FIRST_SEED, FIRST_SEED + SEEDS, A_TEST)
LONG = [pytest.param(first, marks=pytest.mark.processes) for first in FIRST_SEEDS[1:]]


@pytest.mark.thorough
@pytest.mark.parametrize("first", [*FIRST_SEEDS[:1], *LONG])
def test_no_promise_is_broken_in_a_storm(first: int) -> None:
    for seed in range(first, min(first + A_TEST, FIRST_SEED + SEEDS)):
        try:
            run(storm(str(seed)), str(seed))
        except BaseException:
            print(f"seed {seed}: LEDGER_SIMULATIONS=1 LEDGER_SIMULATION_SEED={seed} repeats it")
            raise


@coroutine
def interrupted(work: Coroutine[Any, Any, Any], at: int, seen: list[int]) -> Iterator[Any]:
    """`work`, cancelled where it waits for the `at`-th time; `seen` counts its waits."""
    value = None
    while True:
        try:
            waited = work.send(value)
        except StopIteration as end:
            return end.value
        seen[0] += 1
        if seen[0] == at:
            waited = work.throw(asyncio.CancelledError())
        value = yield waited


async def with_a_caller_gone(at: int, seen: list[int]) -> None:
    """A caller is cancelled; the others and the money must not notice."""
    simulation = Simulation("caller")
    poster = simulation.poster()
    simulation.database.faults = Faults(slow=0.3, commit=0.3)

    async def go() -> None:
        with suppress(asyncio.CancelledError):
            await interrupted(simulation.ask(poster, [simulation.request("gone")]), at, seen)

    await asyncio.gather(go(), *(simulation.client(number, 3) for number in range(3)))
    await simulation.settle()


async def with_the_writer_gone(at: int, seen: list[int]) -> None:
    """The writer is cancelled, as by a poster that is closed and cannot wait."""

    class Dying(OverlappingPoster):
        async def _write(self) -> None:
            await interrupted(super()._write(), at, seen)

    simulation = Simulation("writer")
    simulation.poster(Dying)
    simulation.database.faults = Faults(slow=0.3, commit=0.3)
    await asyncio.gather(*(simulation.client(number, 3) for number in range(4)))
    await simulation.settle()


@pytest.mark.parametrize("scene", [with_a_caller_gone, with_the_writer_gone])
def test_no_promise_is_broken_by_a_cancellation_at_any_await(scene: Any) -> None:
    whole = [0]
    run(scene(0, whole), "sweep")
    assert whole[0] >= 1
    for at in range(1, whole[0] + 1):
        run(scene(at, [0]), "sweep")


def on_states_of_the_batch_before_last(patch: pytest.MonkeyPatch) -> None:
    """The planner does not continue the batch before, but what was committed before that one."""
    glimpse = locking.glimpse

    async def stale(wire: Any, ledger: int, movements: Any, _: Any, *begin: Any) -> Any:
        return await glimpse(wire, ledger, movements, {}, *begin)

    patch.setattr(locking, "glimpse", stale)


def unjudged(patch: pytest.MonkeyPatch) -> None:
    """The database takes entries as they come."""

    async def take(session: Any, entry: Any, moment: Any) -> None:
        session._entries.append((entry, moment))

    async def pass_all(_: Any) -> None:
        pass

    patch.setattr(simulated._Session, "_add_entry", take)
    patch.setattr(simulated._Session, "_judge", pass_all)


def on_known_states_of_the_batch_before_last(patch: pytest.MonkeyPatch) -> None:
    """What is known of an account is what it was before the batch that moved it last."""
    learn = KnownAccounts.learn

    def learn_late(accounts: Any, ledger: int, plan: Any) -> None:
        before = dict(accounts._ledgers.get(ledger, {}))
        learn(accounts, ledger, plan)
        states = accounts._ledgers[ledger]
        states.update((one, before[one]) for one in plan.states if one in before)

    patch.setattr(KnownAccounts, "learn", learn_late)


def known_stale_and_unjudged(patch: pytest.MonkeyPatch) -> None:
    on_known_states_of_the_batch_before_last(patch)
    unjudged(patch)


def stale_and_unjudged(patch: pytest.MonkeyPatch) -> None:
    on_states_of_the_batch_before_last(patch)
    unjudged(patch)


def answered_before_the_one_before(patch: pytest.MonkeyPatch) -> None:
    """A batch that overlaps is answered when it is written."""
    prepare = OverlappingPoster._prepare

    async def answer(poster: Any, batch: Any, flight: Any) -> Any:
        ready = await prepare(poster, batch, flight)
        if ready is not None:
            poster._answer(batch, ready.overlap.ahead.plan.answers, ready.clock)
        return ready

    patch.setattr(OverlappingPoster, "_prepare", answer)


def is_red(breaks: Any) -> bool:
    """Whether one of some storms does not end well."""
    with pytest.MonkeyPatch.context() as patch:
        breaks(patch)
        for seed in range(60):
            try:
                run(storm(str(seed)), str(seed))
            except Exception:
                return True
    return False


@pytest.mark.parametrize(
    "breaks", [stale_and_unjudged, known_stale_and_unjudged, answered_before_the_one_before]
)
def test_what_is_broken_on_purpose_shows(breaks: Any) -> None:
    assert is_red(breaks)


@pytest.mark.thorough
@pytest.mark.parametrize(
    "breaks", [on_states_of_the_batch_before_last, on_known_states_of_the_batch_before_last]
)
def test_the_database_judges_what_the_planner_did_not_know(breaks: Any) -> None:
    assert not is_red(breaks)
