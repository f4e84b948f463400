"""Faults, each a function that disturbs a setup for some seconds and counts how often.

A fault returns the setup as it found it, but for what the phase after it heals: a service or a
server that is down is started again by `Setup.heal`.
"""

import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil
import psycopg

from tests.processes import ROOT, wait_for
from tests.proof.servers.cluster import DATABASE, START_LIMIT_S, Broken
from tests.proof.servers.movers import moving
from tests.proof.servers.setup import Setup
from tests.proof.servers.shards import hurt

LONG_S = 10.0  # a round of so long has time for the longest freeze
MOST_GROWTH_BYTES = 150_000_000

Fault = Callable[[Setup, random.Random, float], int]


def _again(seconds: float, once: Callable[[], None]) -> int:
    """Do it again and again for so long; how often that was."""
    end_s = time.monotonic() + seconds
    times = 0
    while time.monotonic() < end_s:
        once()
        times += 1
    return times


def kill_service(setup: Setup, chance: random.Random, seconds: float) -> int:
    """kill -9 of the service at any moment, its start included; started again at once."""

    def once() -> None:
        time.sleep(chance.uniform(0.1, 1.2))
        service = chance.choice(setup.services)
        service.kill()
        service.start(ready=False)

    return _again(seconds, once)


def kill_embedded(setup: Setup, chance: random.Random, seconds: float) -> int:
    """kill -9 of a service that runs its own PostgreSQL, of that, or of everything at once."""

    def once() -> None:
        time.sleep(chance.uniform(0.3, 1.5))
        what = chance.choice(["service", "postgres", "everything"])
        victims = setup.services if what == "everything" else setup.services[:1]
        if what != "service":
            setup.postgres.kill_postmaster()
        if what != "postgres":
            for service in victims:
                service.kill()
            for service in victims:
                service.start(ready=False)
        chance.shuffle(setup.services)

    return _again(seconds, once)


def kill_backend(setup: Setup, chance: random.Random, seconds: float) -> int:
    """kill -9 of a PostgreSQL process that serves us: all of them recover from the log."""
    times = 0

    def once() -> None:
        nonlocal times
        time.sleep(chance.uniform(0.3, 1.0))
        backends = setup.postgres.backends()
        if backends:
            with suppress(psutil.NoSuchProcess):
                chance.choice(backends).kill()
                times += 1
        wait_for(setup.postgres.answers, START_LIMIT_S)

    _again(seconds, once)
    return times


def kill_postmaster(setup: Setup, chance: random.Random, seconds: float) -> int:
    """kill -9 of PostgreSQL's first process."""

    def once() -> None:
        time.sleep(chance.uniform(0.2, 1.0))
        setup.postgres.kill_postmaster()
        setup.postgres.start()

    return _again(seconds, once)


def stop_immediately(setup: Setup, chance: random.Random, seconds: float) -> int:
    """An immediate shutdown, which leaves all to recovery."""

    def once() -> None:
        time.sleep(chance.uniform(0.2, 1.0))
        setup.postgres.stop(signal.SIGQUIT)
        setup.postgres.start()

    return _again(seconds, once)


def freeze_service(setup: Setup, chance: random.Random, seconds: float) -> int:
    """SIGSTOP of the service at any moment, locks held or not, for longer than the timeouts too."""

    def once() -> None:
        time.sleep(chance.uniform(0.2, 1.0))
        service = chance.choice(setup.services)
        service.send(signal.SIGSTOP)
        time.sleep(chance.choice([0.2, 1.0, 3.0] if seconds < LONG_S else [0.2, 3.0, 12.0, 30.0]))
        service.send(signal.SIGCONT)

    return _again(seconds, once)


def cut_connections(setup: Setup, chance: random.Random, seconds: float) -> int:
    """Connections to PostgreSQL cut before, within and after COMMIT."""
    proxy = setup.proxy
    before = proxy.cuts
    proxy.cut_rate = chance.uniform(0.3, 0.9)
    time.sleep(seconds)
    proxy.cut_rate = 0.0
    return proxy.cuts - before


def slow_network(setup: Setup, chance: random.Random, seconds: float) -> int:
    """Latency and a low bandwidth between the service and PostgreSQL."""

    def once() -> None:
        setup.proxy.delay_s = chance.choice([0.001, 0.02, 0.2])
        setup.proxy.bytes_s = chance.choice([0, 20_000, 200_000])
        time.sleep(chance.uniform(1.0, 3.0))

    times = _again(seconds, once)
    setup.proxy.delay_s, setup.proxy.bytes_s = 0.0, 0
    return times


def silence(setup: Setup, chance: random.Random, seconds: float) -> int:
    """Half-open connections: nothing comes through, nobody is told; then all is cut or goes on."""

    def once() -> None:
        time.sleep(chance.uniform(0.2, 1.0))
        setup.proxy.silence(True)
        time.sleep(chance.choice([0.5, 2.0, 8.0]))
        if chance.random() < 0.5:
            setup.proxy.cut_all()
        setup.proxy.silence(False)

    return _again(seconds, once)


def lose_packets(setup: Setup, chance: random.Random, seconds: float) -> int:
    """Packets dropped by a firewall in a network namespace, some or all of them."""

    def once() -> None:
        share = chance.choice(["0.1", "0.3", "1.0"])
        rule = ["INPUT", "-p", "tcp", "-m", "statistic", "--mode", "random"]
        rule += ["--probability", share, "-j", "DROP"]
        subprocess.run([*setup.within, "iptables", "-A", *rule], check=True)
        time.sleep(chance.uniform(1.0, 4.0))
        subprocess.run([*setup.within, "iptables", "-D", *rule], check=True)
        time.sleep(chance.uniform(0.5, 1.5))

    return _again(seconds, once)


def fill_disk(setup: Setup, chance: random.Random, seconds: float) -> int:
    """No space left, for the log and for tables; then room again."""
    filler = setup.disk.fill()
    end_s = time.monotonic() + seconds
    while time.monotonic() < end_s:
        # A new file of the log is needed sooner than the load would need it.
        with suppress(psycopg.Error):
            setup.postgres.ask("SELECT pg_switch_wal()")
        if not setup.postgres.alive():
            break
        time.sleep(0.2)
    time.sleep(chance.uniform(0.2, 1.0))
    filler.unlink()
    setup.heal()
    return 1


def hang_disk(setup: Setup, chance: random.Random, seconds: float) -> int:
    """The disk takes nothing for a while, and then goes on."""

    def once() -> None:
        time.sleep(chance.uniform(0.5, 1.5))
        setup.disk.hang(chance.choice([0.5, 2.0, 6.0]))

    return _again(seconds, once)


def cut_power(setup: Setup, chance: random.Random, seconds: float) -> int:
    """The machine under PostgreSQL loses its power: what was not synced is gone."""

    def once() -> None:
        time.sleep(chance.uniform(0.3, 1.5))
        setup.lose_power()

    return _again(seconds, once)


def fail_over(setup: Setup, chance: random.Random, seconds: float) -> int:
    """The primary is killed or cut off, its synchronous standby takes over.

    The new primary gets a standby of its own. Sometimes it is the standby that goes: then commits
    wait for it.
    """

    def once() -> None:
        time.sleep(chance.uniform(0.5, 1.5))
        if chance.random() < 0.25:
            setup.lose_standby(chance.uniform(0.5, 5.0))
        setup.fail_over(cut_off=chance.random() < 0.5)

    return _again(seconds, once)


def kill_publisher(setup: Setup, chance: random.Random, seconds: float) -> int:
    """kill -9 of publishers, of the servers that they publish to, and of the service."""
    models = setup.read_models
    assert models is not None

    def once() -> None:
        time.sleep(chance.uniform(0.2, 1.0))
        draw = chance.random()
        if draw < 0.6:
            models.kill_publisher(chance)
        elif draw < 0.85:
            models.kill_server(chance)
        else:
            service = chance.choice(setup.services)
            service.kill()
            service.start(ready=False)

    return _again(seconds, once)


def fail_over_with_readers(setup: Setup, chance: random.Random, seconds: float) -> int:
    """The standby takes over while publishers read."""
    models = setup.read_models
    assert models is not None

    def once() -> None:
        time.sleep(chance.uniform(0.5, 1.5))
        setup.fail_over(cut_off=chance.random() < 0.5)
        models.kill_publisher(chance)

    return _again(seconds, once)


def take_connections(setup: Setup, chance: random.Random, seconds: float) -> int:
    """All of PostgreSQL's connections are others', and the service's own are ended."""

    def once() -> None:
        taken: list[psycopg.Connection[Any]] = []
        with suppress(psycopg.OperationalError):
            url = setup.postgres.url.replace("postgres@", "other@")
            for _ in range(100):
                setup.postgres.ask(
                    "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                    f" WHERE datname = '{DATABASE}' AND usename <> 'other'"
                )
                taken.append(psycopg.connect(url, connect_timeout=5))
        time.sleep(chance.uniform(0.5, 3.0))
        for connection in taken:
            connection.close()
        time.sleep(chance.uniform(0.5, 1.0))

    setup.postgres.ask(
        "DO $$ BEGIN CREATE ROLE other LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    )
    return _again(seconds, once)


def restart_in_turn(setup: Setup, chance: random.Random, seconds: float) -> int:
    """SIGTERM one service after another, each started again before the next."""
    turn = 0

    def once() -> None:
        nonlocal turn
        service = setup.services[turn % len(setup.services)]
        turn += 1
        time.sleep(chance.uniform(0.1, 0.6))
        service.stop()
        service.start()

    return _again(seconds, once)


def move_clocks(setup: Setup, chance: random.Random, seconds: float) -> int:
    """The clock of PostgreSQL's machine jumps, back and forth."""

    def once() -> None:
        setup.set_clock(chance.choice(["-1d", "+1d", "-10", "+3600", "-1", "+0"]))
        time.sleep(chance.uniform(0.5, 2.0))

    times = _again(seconds, once)
    setup.set_clock("+0")
    return times


def vanish(setup: Setup, chance: random.Random, seconds: float) -> int:
    """Clients go away in mid-request."""
    before = sum(load.vanished for load in setup.loads)
    for load in setup.loads:
        load.vanish_rate = 0.3
    time.sleep(seconds)
    for load in setup.loads:
        load.vanish_rate = 0.0
    return sum(load.vanished for load in setup.loads) - before


def be_hostile(setup: Setup, chance: random.Random, seconds: float) -> int:
    """Requests that a fuzzer makes up: no 5xx, in time, little CPU, memory bounded."""
    (service, *_) = setup.services
    assert service.process is not None
    process = psutil.Process(service.process.pid)
    before = process.memory_info().rss
    command = [sys.executable, "-m", "tests.proof.fuzz", "service", "--base", service.base]
    command += ["--pid", str(process.pid), "--key", setup.key]
    command += ["--runs", "-1", "--seconds", str(max(1, round(seconds)))]
    command += [
        "--seed",
        str(chance.randrange(1, 2**31)),
        "--folder",
        str(setup.folder / "corpus"),
    ]
    done = subprocess.run(
        command, env=service.environment, cwd=ROOT, check=False, capture_output=True, text=True
    )
    told = re.search(r"Done (\d+) runs", done.stderr)
    if done.returncode != 0 or told is None:
        raise Broken(f"a hostile request: {done.stderr[-2_000:]}")
    runs = int(told[1])
    if (grown := process.memory_info().rss - before) > MOST_GROWTH_BYTES:
        raise Broken(f"{runs} hostile requests left {grown:,} bytes behind")
    return runs


def move_ledgers(setup: Setup, chance: random.Random, seconds: float) -> int:
    """Ledgers move from shard to shard; kill -9 of movers and of services."""

    def once() -> None:
        time.sleep(chance.uniform(0.5, 2.0))
        service = chance.choice(setup.services)
        service.kill()
        service.start(ready=False)
        _kill_publisher(setup, chance)

    with moving(setup.shards, setup.program, chance) as times:
        _again(seconds, once)
    moves = times.pop(move_ledgers.__name__, 0)
    setup.times.update(times)
    return moves


def _kill_publisher(setup: Setup, chance: random.Random) -> None:
    """Of all shards, where there are read models."""
    if setup.read_models is not None:
        setup.read_models.kill_publisher(chance)
        setup.times["kill_publisher"] += 1


def hurt_shards(setup: Setup, chance: random.Random, seconds: float) -> int:
    """One or two shards at a time are killed, shut down, stopped or cut off, while ledgers move;
    kill -9 of movers and of services.
    """

    def once() -> None:
        time.sleep(chance.uniform(0.2, 1.5))
        with hurt(setup.shards.by_name, chance):
            if chance.random() < 0.3:
                service = chance.choice(setup.services)
                service.kill()
                service.start(ready=False)
                _kill_publisher(setup, chance)
            time.sleep(chance.choice([0.3, 1.0, 3.0, 8.0]))

    with moving(setup.shards, setup.program, chance) as times:
        hurts = _again(seconds, once)
    setup.times.update(times)
    return hurts


def migrate(setup: Setup, chance: random.Random, seconds: float) -> int:
    """`ledgerservice migrate`, under load."""

    def once() -> None:
        command = [sys.executable, "-m", "ledgerservice", "migrate"]
        environment = setup.services[0].environment
        subprocess.run(command, env=environment, cwd=ROOT, check=False, capture_output=True)
        time.sleep(chance.uniform(0.1, 0.5))

    return _again(seconds, once)
