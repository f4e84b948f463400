"""Main and the databases beside it, each with a server and a proxy of its own."""

import signal
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from ledgerservice.postgres.sharding.identity import MAIN
from tests.engines.stores import EntryRow
from tests.processes import cli
from tests.proof.servers import cluster
from tests.proof.servers.cluster import DATABASE, Broken, PostgreSQL
from tests.proof.servers.proxy import Proxy

BESIDE_MAIN = ("b", "c")
FIRST_HOMES = {"one": MAIN, "two": "b", "three": "b", "four": "c"}
"""Of the ledgers beside the default one, which stays on main."""
MARKET, PARTS = "market", 3
"""A ledger with parts: one on each shard."""
QUICK = {"LEDGER_CONNECT_TIMEOUT_S": "2", "NO_COLOR": "1"}

_HOMES = """
SELECT l.name, coalesce(h.shard, 'main'), coalesce(h.state, 'home')
FROM ledger.ledgers l LEFT JOIN ledger.homes h USING (ledger_id) WHERE l.shards IS NULL
"""
_PARTS = """
SELECT p.name, p.ledger_id FROM ledger.ledgers p JOIN ledger.ledgers l ON l.ledger_id = p.parent_id
WHERE l.name = '{name}' ORDER BY p.part
"""
_OPEN_CROSSINGS = """
SELECT ledger_id, transaction_id FROM ledger.holds
WHERE remaining > 0 AND to_ledger_id IS NOT NULL
AND ledger_id NOT IN (SELECT ledger_id FROM ledger.fences WHERE state <> 'home')
"""
_ENTRIES = """
SELECT ledger_id, account_id, seq, transaction_id, amount, held_change, balance, held
FROM ledger.entries
WHERE ledger_id NOT IN (SELECT ledger_id FROM ledger.fences WHERE state <> 'home')
"""
_NUMBERS = "SELECT name, ledger_id FROM ledger.ledgers"
_OPEN = """
SELECT DISTINCT l.name FROM ledger.ledgers l JOIN ledger.accounts a USING (ledger_id)
LEFT JOIN ledger.fences f USING (ledger_id) WHERE a.id > 0 AND coalesce(f.state, 'home') = 'home'
"""


class Shard(NamedTuple):
    """A database: its server, and what everything connects to it through."""

    server: PostgreSQL
    proxy: Proxy

    @property
    def url(self) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.proxy.port}/{DATABASE}"


class Shards:
    """The databases by the names of their shards."""

    def __init__(self, folder: Path, origin: Path, main: Shard, seed: int) -> None:
        self.folder, self._origin, self._seed = folder, origin, seed
        self._stack = ExitStack()
        self.by_name: dict[str, Shard] = {MAIN: main}
        self.publishers: list[str] = []
        """What movers wait for."""

    def __enter__(self) -> "Shards":
        with ExitStack() as stack:
            for name in BESIDE_MAIN:
                self.by_name[name] = self._start(name, stack)
            self._run("migrate", "--shard", MAIN)
            for name in BESIDE_MAIN:
                self._run("shards", "add", name)
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _start(self, name: str, stack: ExitStack) -> Shard:
        data = self.folder / name
        cluster.copy(self._origin, data)
        server = PostgreSQL(data, self.folder / f"{name}.log")
        stack.callback(server.kill)
        server.start()
        proxy = Proxy(server.address, server.port, self._seed + len(self.by_name))
        stack.callback(proxy.stop)
        return Shard(server, proxy)

    def _run(self, *arguments: str) -> None:
        done = cli(*arguments, **self.environment)
        if done.returncode:
            raise Broken(f"{' '.join(arguments)}: {done.stdout}{done.stderr}")

    @property
    def environment(self) -> dict[str, str]:
        """What a process knows the shards by."""
        named = [f"{name}={self.by_name[name].url}" for name in self.by_name if name != MAIN]
        urls = {"DATABASE_URL": self.by_name[MAIN].url, "LEDGER_SHARDS": "\n".join(named)}
        return QUICK | urls

    def heal(self) -> None:
        """Every server runs, and answers."""
        for shard in self.by_name.values():
            if not shard.server.alive():
                shard.server.start()

    def number_of(self, name: str) -> int:
        """The id of a ledger."""
        return int(dict(self._ask(MAIN, _NUMBERS))[name])

    def homes(self) -> dict[str, str]:
        """The shards that the directory names for ledgers and parts."""
        return {name: home for name, home, _ in self._ask(MAIN, _HOMES)}

    def parts_of(self, name: str) -> dict[str, int]:
        """The ids of the parts of a ledger, by their names, in order."""
        return dict(self._ask(MAIN, _PARTS.format(name=name)))

    def open_crossings(self) -> set[tuple[int, int]]:
        """The transfers between parts that are not over: their parts and holds."""
        return {row for name in self.by_name for row in self._ask(name, _OPEN_CROSSINGS)}

    def entries(self) -> list[EntryRow]:
        """All entries, of each ledger and part where its home is."""
        return [EntryRow(*row) for name in self.by_name for row in self._ask(name, _ENTRIES)]

    def faults(self) -> Iterator[str]:
        """Ledgers that are on their way, or that not exactly the directory's home takes."""
        takers = defaultdict(list)
        for shard in self.by_name:
            for (name,) in self._ask(shard, _OPEN):
                takers[name].append(shard)
        for name, home, state in self._ask(MAIN, _HOMES):
            if (state, takers[name]) != ("home", [home]):
                yield f"ledger {name} of {home}: {state}, taken by {takers[name]}"

    def _ask(self, shard: str, query: str) -> list[tuple[Any, ...]]:
        return self.by_name[shard].server.ask(query, DATABASE)


Cure = Callable[[], object]
Hurt = Callable[[Shard, Random], Cure]
"""Disturbs a shard, and returns what ends that."""


def _kill(shard: Shard, _: Random) -> Cure:
    shard.server.kill_postmaster()
    return shard.server.start


def _shut_down(shard: Shard, chance: Random) -> Cure:
    shard.server.stop(chance.choice([signal.SIGINT, signal.SIGQUIT]))
    return shard.server.start


def _freeze(shard: Shard, _: Random) -> Cure:
    """SIGSTOP of all processes of PostgreSQL."""
    shard.server.freeze()
    return shard.server.thaw


def _cut_off(shard: Shard, chance: Random) -> Cure:
    """Nothing arrives; at the end connections are cut, or go on."""
    shard.proxy.silence(True)
    return partial(_reach, shard, is_cut=chance.random() < 0.5)


def _reach(shard: Shard, *, is_cut: bool) -> None:
    if is_cut:
        shard.proxy.cut_all()
    shard.proxy.silence(False)


def _cut_commits(shard: Shard, chance: Random) -> Cure:
    shard.proxy.cut_rate = chance.uniform(0.3, 0.9)
    return partial(setattr, shard.proxy, "cut_rate", 0.0)


HURTS: Sequence[Hurt] = (_kill, _shut_down, _freeze, _cut_off, _cut_commits)
AT_ONCE: Sequence[Sequence[str]] = (("b",), ("c",), ("b", "c"), (MAIN, "b"), (MAIN, "c"))
"""Which are hurt at one time: never main alone."""


def hurt(shards: Mapping[str, Shard], chance: Random) -> ExitStack:
    """Disturb one or two shards; what is returned ends that when it is closed."""
    with ExitStack() as cures:
        for name in chance.choice(AT_ONCE):
            cures.callback(chance.choice(HURTS)(shards[name], chance))
        return cures.pop_all()
